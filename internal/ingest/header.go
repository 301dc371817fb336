package ingest

import (
	"bytes"
	"strconv"

	"eventspine/internal/fault"
)

// Header is the first frame of a batch: who sends it, and which entries of the sender's
// write-ahead log it holds. Generation and First are 0 for a sender without a log.
type Header struct {
	Source     string // 1 to 128 bytes of printable ASCII without spaces
	Generation uint64
	First      uint64 // index of the first event; the others follow it without gaps
}

const (
	magic     = "B1 "
	maxSource = 128
)

// Append appends the frame.
func (h Header) Append(dst []byte) []byte {
	dst = append(append(dst, magic...), h.Source...)
	dst = strconv.AppendUint(append(dst, ' '), h.Generation, 10)
	return strconv.AppendUint(append(dst, ' '), h.First, 10)
}

// ParseHeader is the inverse of Append and accepts nothing that Append does not write. Errors
// are of kind Corrupt.
func ParseHeader(frame []byte) (Header, error) {
	const op = "parse batch header"
	rest, ok := bytes.CutPrefix(frame, []byte(magic))
	if !ok {
		return Header{}, fault.Errorf(op, fault.Corrupt, "it does not begin with B1")
	}
	fields := bytes.Split(rest, []byte(" "))
	if len(fields) != 3 {
		return Header{}, fault.Errorf(op, fault.Corrupt, "it has %d fields after B1, not 3", len(fields))
	}
	h := Header{Source: string(fields[0])}
	if err := checkSource(h.Source); err != nil {
		return Header{}, fault.E(op, fault.Corrupt, err)
	}
	var okGeneration, okFirst bool
	h.Generation, okGeneration = number(fields[1])
	h.First, okFirst = number(fields[2])
	if !okGeneration || !okFirst {
		return Header{}, fault.Errorf(op, fault.Corrupt, "generation and first index must be plain decimal numbers")
	}
	return h, nil
}

// number reads what AppendUint writes, and only that.
func number(b []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	return n, err == nil && (b[0] != '0' || len(b) == 1) && b[0] != '+'
}

func checkSource(s string) error {
	if s == "" || len(s) > maxSource {
		return fault.Errorf("source", fault.Invalid, "it has %d bytes; 1 to %d are allowed", len(s), maxSource)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fault.Errorf("source", fault.Invalid, "it may hold only printable ASCII without spaces")
		}
	}
	return nil
}
