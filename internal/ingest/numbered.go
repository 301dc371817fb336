package ingest

import (
	"bytes"
	"encoding/json"
	"strconv"

	"eventspine/internal/fault"
)

// Numbered is the first frame of a batch out of a sender's write-ahead log. Within a source,
// generation and partition the events are numbered 1, 2, 3 and so on; those of the batch are
// First and the ones that follow it. A header without events is a question: the worker answers
// it, as it answers every batch, with an Ack.
type Numbered struct {
	Source     string // 1 to 128 bytes of printable ASCII without spaces
	Generation uint64 // of the log; not 0
	Partition  int    // 0 to 65,535
	Round      uint64 // of going back; the answer says it again
	First      uint64 // 1 to 2^53-1
	Flags      Flags
	Skip       uint64 // as many numbers before First were never used
}

// Flags say how a numbered batch is meant.
type Flags uint8

// Start: nothing before First is kept any more, so that a source which the journal does not
// know may begin here. Redelivered: these events were acknowledged in an earlier epoch. Wait:
// somebody waits for the seqs.
const (
	Start Flags = 1 << iota
	Redelivered
	Wait
	allFlags = Start | Redelivered | Wait
)

const (
	magicNumbered = "B2 "
	letters       = "SRW" // of the flags, from the lowest bit
	maxNumber     = 1<<53 - 1
	maxPartition  = 1<<16 - 1
)

// Append appends the frame.
func (h Numbered) Append(dst []byte) []byte {
	dst = append(append(dst, magicNumbered...), h.Source...)
	for _, n := range [...]uint64{h.Generation, uint64(h.Partition), h.Round, h.First} {
		dst = strconv.AppendUint(append(dst, ' '), n, 10)
	}
	dst = append(dst, ' ')
	if h.Flags&allFlags == 0 {
		dst = append(dst, '-')
	}
	for i := range len(letters) {
		if h.Flags&(1<<i) != 0 {
			dst = append(dst, letters[i])
		}
	}
	if h.Skip > 0 {
		dst = strconv.AppendUint(append(dst, ' '), h.Skip, 10)
	}
	return dst
}

// ParseNumbered is the inverse of Append and accepts nothing that Append does not write. Errors
// are of kind Corrupt.
func ParseNumbered(frame []byte) (Numbered, error) {
	const op = "parse batch header"
	rest, ok := bytes.CutPrefix(frame, []byte(magicNumbered))
	if !ok {
		return Numbered{}, fault.Errorf(op, fault.Corrupt, "it does not begin with B2")
	}
	fields := bytes.Split(rest, []byte(" "))
	if len(fields) != 6 && len(fields) != 7 {
		return Numbered{}, fault.Errorf(op, fault.Corrupt, "it has %d fields after B2, not 6 or 7", len(fields))
	}
	h := Numbered{Source: string(fields[0])}
	if err := checkSource(h.Source); err != nil {
		return Numbered{}, fault.E(op, fault.Corrupt, err)
	}
	var numbers [4]uint64
	for i := range numbers {
		if numbers[i], ok = number(fields[i+1]); !ok {
			return Numbered{}, fault.Errorf(op, fault.Corrupt, "generation, partition, round and first number must be plain decimal numbers")
		}
	}
	h.Generation, h.Round, h.First = numbers[0], numbers[2], numbers[3]
	if h.Generation == 0 || h.First == 0 || h.First > maxNumber || numbers[1] > maxPartition {
		return Numbered{}, fault.Errorf(op, fault.Corrupt, "generation, partition or first number is out of range")
	}
	h.Partition = int(numbers[1])
	if h.Flags, ok = parseFlags(fields[5]); !ok {
		return Numbered{}, fault.Errorf(op, fault.Corrupt, "the flags must be - or some of SRW in this order")
	}
	if len(fields) == 7 {
		if h.Skip, ok = number(fields[6]); !ok || h.Skip == 0 || h.Skip >= h.First {
			return Numbered{}, fault.Errorf(op, fault.Corrupt, "the count of numbers that were never used must be from 1 to below the first number")
		}
	}
	return h, nil
}

func parseFlags(text []byte) (f Flags, ok bool) {
	if string(text) == "-" {
		return 0, true
	}
	for i := range len(letters) {
		if len(text) > 0 && text[0] == letters[i] {
			f, text = f|1<<i, text[1:]
		}
	}
	return f, f != 0 && len(text) == 0
}

// Ack is the worker's answer to numbered batches, on topic _ack.<source>. It says what the
// journal held when it was made: every event of the partition numbered up to Last.
type Ack struct {
	Generation uint64 `json:"gen"`
	Partition  int    `json:"partition"`
	Round      uint64 `json:"round"` // of the batch that is answered
	Last       uint64 `json:"last"`  // 0: the journal does not know the source, or nothing of it
	Epoch      uint64 `json:"epoch"` // the journal's, of this partition
	Nak        bool   `json:"nak"`   // the batch left a gap after Last and nothing of it was stored

	// The answer to a question says its First again. For a batch with flag Wait that was stored
	// there is the seq of each of its events, of which the first has the number First. The repeat of an id has the seq that was given first, which is
	// not above Epoch when it was given in an earlier one. 0: unknown, or dropped by a rule.
	First uint64   `json:"first,omitempty"`
	Seqs  []uint64 `json:"seqs,omitempty"`
}

// Append appends the JSON object.
func (a *Ack) Append(dst []byte) []byte {
	dst = strconv.AppendUint(append(dst, `{"gen":`...), a.Generation, 10)
	dst = strconv.AppendInt(append(dst, `,"partition":`...), int64(a.Partition), 10)
	dst = strconv.AppendUint(append(dst, `,"round":`...), a.Round, 10)
	dst = strconv.AppendUint(append(dst, `,"last":`...), a.Last, 10)
	dst = strconv.AppendUint(append(dst, `,"epoch":`...), a.Epoch, 10)
	dst = strconv.AppendBool(append(dst, `,"nak":`...), a.Nak)
	if a.First > 0 {
		dst = strconv.AppendUint(append(dst, `,"first":`...), a.First, 10)
	}
	for i, seq := range a.Seqs {
		if i == 0 {
			dst = append(dst, `,"seqs":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, seq, 10)
	}
	if len(a.Seqs) > 0 {
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// ParseAck reads what Append writes; members that it does not know are left out. Errors are of
// kind Corrupt.
func ParseAck(body []byte) (Ack, error) {
	const op = "parse acknowledgement"
	var a Ack
	if err := json.Unmarshal(body, &a); err != nil {
		return Ack{}, fault.E(op, fault.Corrupt, err)
	}
	if a.Generation == 0 || a.Partition < 0 || a.Partition > maxPartition {
		return Ack{}, fault.Errorf(op, fault.Corrupt, "generation or partition is missing or out of range")
	}
	return a, nil
}
