package journal

import (
	"context"
	"time"

	"eventspine/internal/fault"
)

// Numbers of a source are below 2^53, as Redis's scripts count in floating point. When a source
// is new to a partition, those that stored nothing there for long are forgotten: an older log of
// the same process (name/1, name/2) after replacedAge, others after silentAge. What is forgotten is
// refused as a gap, so an idle one must not be forgotten early.
const (
	maxNumber   = 1<<53 - 1
	replacedAge = 7 * 24 * time.Hour
	silentAge   = 90 * 24 * time.Hour
)

// Batch is a run of records out of one source, a write-ahead log that numbers what it holds for
// a partition 1, 2, 3 and so on, together with what Apply answers. First to Last are the
// numbers that the batch stands for, also those of records that have no entry because a rule
// dropped them; with Last = First-1 the batch is a question and changes nothing.
type Batch struct {
	Partition int
	Source    string // names the source within the partition; 1 to 160 bytes
	First     uint64 // 1 to 2^53-1
	Last      uint64
	Skip      uint64  // as many numbers before First were never used: the source began again
	Start     bool    // nothing before First is kept any more: skip what is missing before it
	Within    uint64  // the epoch in which alone it may be stored, as something else was stored first; 0: any
	Entries   []Entry // of this partition, each with a Number from First to Last, not descending

	Done   bool     // the server answered; the rest is set
	Epoch  uint64   // of the partition
	Upto   uint64   // everything of the source up to this number is stored; 0: it is unknown
	Gap    bool     // numbers are missing after Upto, or Epoch is not Within, and nothing was stored
	Lost   uint64   // numbers that were missing before First and skipped, as Start said
	Stored []Stored // by entry; unless Gap
}

// Apply stores numbered batches and notes with them, in the same script call, how far their
// source has come. A batch that begins where the source's last one ended, or that is the first of
// an unknown source (First is 1, or Start), is stored as Append would. What was applied before
// is left out: its entries come back as Duplicate, with Seq 0 when the dedupe window no
// longer holds it. A batch that would leave a gap is not stored. Batches of one source and
// partition are applied in their order; once one of them fails, the later ones are not tried.
//
// On error some batches may be Done and others not; those may be given to Apply again, for what
// was stored by a call whose answer was lost comes back as Duplicate. Kinds of errors are those
// of Append.
func (j *Journal) Apply(ctx context.Context, batches []*Batch) error {
	for _, b := range batches {
		if err := j.checkBatch(b); err != nil {
			return err
		}
	}
	if err := j.ensureReady(ctx); err != nil {
		return err
	}
	var failed error
	for waiting := streams(batches); len(waiting) > 0; {
		calls := make([]*call, len(waiting))
		for i, s := range waiting {
			calls[i] = s[0].call()
		}
		j.store(ctx, calls)
		rest := waiting[:0]
		for i, c := range calls {
			if c.err != nil {
				failed = worse(failed, c.err)
				continue
			}
			if c.numbered.Done = true; !c.numbered.Gap {
				c.numbered.Stored = c.out
				j.count(c.out)
			}
			if waiting[i] = waiting[i][1:]; len(waiting[i]) > 0 {
				rest = append(rest, waiting[i])
			}
		}
		waiting = rest
	}
	return failed
}

func (j *Journal) checkBatch(b *Batch) error {
	const op = "apply"
	if err := j.checkPartition(op, b.Partition); err != nil {
		return err
	}
	if b.Source == "" || len(b.Source) > 160 || b.First < 1 || b.Last < b.First-1 || b.Last > maxNumber || b.Skip >= b.First {
		return fault.Errorf(op, fault.Invalid, "the source %q cannot have the numbers %d to %d", b.Source, b.First, b.Last)
	}
	before := b.First
	for i := range b.Entries {
		e := &b.Entries[i]
		if !storable(&e.Event) || e.Number < before || e.Number > b.Last {
			return fault.Errorf(op, fault.Invalid, "entry %d has no id, no JSON object, or the wrong number", i)
		}
		before = e.Number
	}
	return nil
}

// streams sorts the batches by source and partition; within one they keep their order.
func streams(batches []*Batch) [][]*Batch {
	type stream struct {
		partition int
		source    string
	}
	index := make(map[stream]int, len(batches))
	out := make([][]*Batch, 0, len(batches))
	for _, b := range batches {
		k := stream{b.Partition, b.Source}
		i, known := index[k]
		if !known {
			i = len(out)
			index[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], b)
	}
	return out
}

func (b *Batch) call() *call {
	all := make([]int, len(b.Entries))
	for i := range all {
		all[i] = i
	}
	return &call{partition: b.Partition, batch: b.Entries, events: all, out: make([]Stored, len(b.Entries)), numbered: b}
}

// arguments appends what commit.lua wants to know of the source. b may be nil.
func (b *Batch) arguments(args []any) []any {
	if b == nil {
		return append(args, "", 0, 0, 0, 0, 0, 0, 0)
	}
	start := 0
	if b.Start {
		start = 1
	}
	return append(args, b.Source, b.First, b.Last, start, b.Within, int64(replacedAge/time.Second), int64(silentAge/time.Second), b.Skip)
}
