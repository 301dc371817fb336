package indexer

import (
	"encoding/binary"
	"fmt"
	"time"

	"eventspine/internal/checkpoint"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// item is one event on its way to Elasticsearch.
type item struct {
	event event.Event
	prev  uint64 // all of its partition up to this seq was handed out before it
	at    time.Time
}

func (it *item) size() int { return len(it.event.Raw) + itemRoom }

const itemRoom = 256 // bytes that an item takes beside its event

// A record of the spool is a byte for its version, then the partition, prev, seq and epoch as
// varints, then the event.
const recordVersion = 1

func (it *item) record() []byte {
	b := make([]byte, 0, 4*binary.MaxVarintLen64+len(it.event.Raw))
	b = append(b, recordVersion)
	for _, n := range [...]uint64{uint64(it.event.Partition), it.prev, it.event.Seq, it.event.Epoch} {
		b = binary.AppendUvarint(b, n)
	}
	return append(b, it.event.Raw...)
}

// place is where a record's event belongs.
type place struct {
	partition        int
	prev, seq, epoch uint64
}

func parsePlace(record []byte) (at place, body []byte, err error) {
	if len(record) == 0 || record[0] != recordVersion {
		return place{}, nil, fault.Errorf("read spool", fault.Invalid, "a record has another version than %d: use the program that wrote it", recordVersion)
	}
	body = record[1:]
	var n [4]uint64
	for i := range n {
		value, size := binary.Uvarint(body)
		if size <= 0 {
			return place{}, nil, fault.Errorf("read spool", fault.Corrupt, "a record ends too soon")
		}
		n[i], body = value, body[size:]
	}
	if n[0] > 1<<16 || max(n[1], n[2], n[3]) > 1<<53 {
		return place{}, nil, fault.Errorf("read spool", fault.Corrupt, "a record has the numbers %d", n)
	}
	return place{partition: int(n[0]), prev: n[1], seq: n[2], epoch: n[3]}, body, nil
}

// parseRecord makes an item of a record, which it does not keep.
func parseRecord(record []byte, now time.Time) (item, error) {
	at, body, err := parsePlace(record)
	if err != nil {
		return item{}, err
	}
	e, err := event.ParseStored(append([]byte(nil), body...))
	if err == nil && (e.Partition != at.partition || e.Seq != at.seq) {
		err = fault.Errorf("read spool", fault.Corrupt, "%s", fmt.Sprintf("a record of %d/%d holds the event %d/%d", at.partition, at.seq, e.Partition, e.Seq))
	}
	return item{event: e, prev: at.prev, at: now}, err
}

// span is a run of a partition's events without a gap: all after prev, up to last.
type span struct {
	prev uint64
	last checkpoint.Position
}

// spans are the runs of each partition, in the order in which they came.
type spans map[int][]span

func (s spans) add(at place) {
	runs := s[at.partition]
	n := len(runs)
	if n == 0 || at.prev > runs[n-1].last.Seq {
		s[at.partition] = append(runs, span{prev: at.prev, last: checkpoint.Position{Seq: at.seq, Epoch: at.epoch}})
		return
	}
	if last := &runs[n-1].last; at.seq > last.Seq {
		*last = checkpoint.Position{Seq: at.seq, Epoch: at.epoch}
	}
}

// onto moves the positions of set over the runs that go on from them, and returns the partitions of
// which some do not: what lies beyond a gap does not count.
func (s spans) onto(set checkpoint.Set) (behind []int) {
	for p, runs := range s {
		for _, r := range runs {
			if r.prev <= set[p].Seq && r.last.Seq > set[p].Seq {
				set[p] = r.last
			}
			if r.prev > set[p].Seq {
				behind = append(behind, p)
			}
		}
	}
	return behind
}
