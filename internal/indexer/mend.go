package indexer

import (
	"context"
	"log/slog"
	"time"

	"eventspine/internal/checkpoint"
)

const (
	mendEvery = time.Second
	mendPage  = 500 // events of the journal at once
)

// pages gives a partition's events after a number, oldest first.
type pages interface {
	Read(ctx context.Context, p int, after uint64, limit int) ([][]byte, error)
}

// mender reads from the journal what damage in the spool took: the checkpoint stays before it, and
// all that came later is in the index already.
type mender struct {
	backlog *backlog
	journal pages
	m       *metrics
	log     *slog.Logger
}

// run looks for such holes every second until ctx ends.
func (d *mender) run(ctx context.Context) {
	for {
		pause(ctx, mendEvery)
		if ctx.Err() != nil {
			return
		}
		for p, after := range d.backlog.takeTorn() {
			if err := d.mend(ctx, p, after); err != nil {
				d.backlog.tear(p) // the next time
				if ctx.Err() == nil {
					d.log.Warn("what a damaged record of the spool held cannot be read from the journal, trying on", "partition", p, "error", err.Error())
				}
			}
		}
	}
}

// mend puts all events of the partition after a number into the backlog once more, up to the last
// one that was ever put. Those that are in the index already do no harm.
func (d *mender) mend(ctx context.Context, p int, after uint64) error {
	began := after
	for whole := false; !whole; {
		list, err := d.journal.Read(ctx, p, after, mendPage)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return d.gone(p, after)
		}
		for _, raw := range list {
			e, err := parse(raw)
			if err != nil {
				d.m.malformed.Inc()
				continue
			}
			if e.Epoch <= after && e.Seq > after+1 {
				d.log.Error("a damaged record of the spool held events that the journal no longer has", "partition", p, "first", after+1, "last", e.Seq-1)
			}
			if whole, err = d.backlog.fill(ctx, item{event: e, prev: after, at: time.Now()}); err != nil {
				return err
			}
			after = e.Seq
		}
	}
	d.log.Info("read from the journal what a damaged record of the spool held", "partition", p, "after", began, "upto", after)
	return nil
}

// gone gives up what neither the spool nor the journal has.
func (d *mender) gone(p int, after uint64) error {
	last, done := d.backlog.forgive(p, after)
	switch {
	case !done: // what was put is not confirmed yet
		d.backlog.tear(p)
	case last.Seq > after:
		d.log.Error("a damaged record of the spool held events that the journal no longer has", "partition", p, "first", after+1, "last", last.Seq)
	}
	return nil
}

// tear notes that the checkpoint of a partition cannot go on.
func (b *backlog) tear(p int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.torn[p] = true
}

// takeTorn gives the partitions whose checkpoint cannot go on, with where it stands.
func (b *backlog) takeTorn() map[int]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.torn) == 0 {
		return nil
	}
	out := map[int]uint64{}
	for p := range b.torn {
		out[p] = b.safe[p].Seq
	}
	clear(b.torn)
	return out
}

// fill puts an item that was put before, and reports whether no later one of its partition was.
func (b *backlog) fill(ctx context.Context, it item) (whole bool, err error) {
	err = b.put(ctx, it)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[it.event.Partition].Seq <= it.event.Seq, err
}

// forgive moves the checkpoint of a partition from after to the last event that was put, which it
// returns: what lies in between is nowhere any more. It does nothing unless the checkpoint is there.
func (b *backlog) forgive(p int, after uint64) (last checkpoint.Position, done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if done = b.safe[p].Seq >= after; done {
		b.safe.Forward(checkpoint.Set{p: b.last[p]})
	}
	return b.last[p], done
}

// seekTorn notes the partitions whose checkpoint is behind although nothing is under way any more, as
// the last record of the spool was damaged. It runs under the lock.
func (b *backlog) seekTorn() {
	if len(b.ledger) > 0 || len(b.items) > 0 || b.read < b.end {
		return
	}
	for p, last := range b.last {
		if b.safe[p].Seq < last.Seq {
			b.torn[p] = true
		}
	}
}
