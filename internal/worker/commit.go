package worker

import (
	"context"
	"sync"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/quiet"
	"eventspine/internal/retry"
)

// store is the journal as the committer sees it.
type store interface {
	Append(ctx context.Context, batch []journal.Entry) ([]journal.Stored, error)
	Apply(ctx context.Context, batches []*journal.Batch) error
	Lookup(ctx context.Context, partition int, seqs []uint64) ([]journal.Stored, error)
}

// committer stores batches and publishes what was stored. Its methods are for one goroutine,
// but for marks.
type committer struct {
	store   store
	publish func(fresh []fresh)
	redis   *quiet.Dependency
	log     *quiet.Logger
	policy  retry.Policy
	m       *metrics

	mu    sync.Mutex
	heads []head // by partition: the newest event of ours
}

// fresh is an event that was stored just now.
type fresh struct {
	entry  *journal.Entry
	stored *journal.Stored
}

// head is where a partition stood when this worker last stored something in it.
type head struct {
	journal.Head
	at time.Time
}

func newCommitter(s store, partitions int, publish func([]fresh), redis *quiet.Dependency, m *metrics) *committer {
	return &committer{store: s, publish: publish, redis: redis, log: &quiet.Logger{}, m: m, heads: make([]head, partitions),
		policy: retry.Policy{Min: 10 * time.Millisecond, Max: time.Second}}
}

// Commit stores the batch and publishes what is new, in the order of the batch within each
// partition. It tries for as long as ctx lives, whatever the error: an event that was taken in
// is not given up. The error is ctx's; what was not stored by then is counted as abandoned.
func (c *committer) Commit(ctx context.Context, batch []journal.Entry) error {
	if len(batch) == 0 {
		return nil
	}
	w := work{c: c, batch: batch, before: c.seqs()}
	started := time.Now()
	err := c.forever(ctx, w.try)
	c.m.commit.Observe(time.Since(started).Seconds())
	c.m.abandoned.Add(float64(len(w.batch)))
	return err
}

// forever repeats fn until it succeeds or ctx ends, and keeps the readiness of Redis up to date.
func (c *committer) forever(ctx context.Context, fn func(context.Context) error) error {
	err := c.policy.Forever(ctx, func(ctx context.Context) error {
		err := fn(ctx)
		if err != nil && !fault.Retryable(err) {
			err = fault.E("not expected to pass by itself", fault.Unavailable, err)
		}
		return err
	}, func(err error, _ time.Duration) {
		c.m.retries.Inc()
		c.redis.Failed(err)
	})
	if err == nil {
		c.redis.Fine()
	}
	return err
}

// seqs is the newest known number of each partition. What a commit answers with a number up
// to it was there before that commit.
func (c *committer) seqs() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]uint64, len(c.heads))
	for i, h := range c.heads {
		out[i] = h.Seq
	}
	return out
}

// work is one batch until all of it is stored and published.
type work struct {
	c         *committer
	batch     []journal.Entry // what is not known to be stored
	before    []uint64
	ambiguous bool                      // a try failed: what is a duplicate now may be our own
	got       []journal.Stored          // the last answer, until it is finished
	failure   error                     // that came with it
	keepers   map[place]*journal.Stored // by number: which of the answers with it stands for it; the others are repeats
	fresh     []fresh                   // to be published
}

// try makes one call and finishes what is known to be stored after it; the rest stays in the
// batch for the next try.
func (w *work) try(ctx context.Context) error {
	if w.got == nil {
		w.got, w.failure = w.c.store.Append(ctx, w.batch)
		if len(w.got) != len(w.batch) {
			w.got = make([]journal.Stored, len(w.batch)) // nothing is known
		}
	}
	if err := w.finish(ctx); err != nil {
		return err
	}
	if w.failure == nil && len(w.batch) > 0 {
		w.failure = fault.Errorf("append", fault.Internal, "%d events were neither stored nor refused", len(w.batch))
	}
	w.ambiguous = w.ambiguous || w.failure != nil
	return w.failure
}

// finish publishes what the last answer says is stored and takes it out of the batch. On an
// error, of reading events back, nothing was published, and it may be called again.
func (w *work) finish(ctx context.Context) error {
	w.keep(w.got)
	if err := w.readBack(ctx, w.got); err != nil {
		return err
	}
	rest := w.batch[:0:0]
	for i := range w.got {
		if s := &w.got[i]; s.Seq == 0 && !s.Duplicate {
			rest = append(rest, w.batch[i])
		} else {
			w.settle(&w.batch[i], s)
		}
	}
	w.c.stored(w.fresh)
	w.batch, w.got, w.fresh = rest, nil, nil
	return nil
}

// settle takes an event that is stored and new to those that are published next, and counts one that is not.
func (w *work) settle(e *journal.Entry, s *journal.Stored) {
	switch {
	case s.Raw != nil:
		w.fresh = append(w.fresh, fresh{e, s})
	case w.perhapsOurs(s) && w.keepers[place{s.Partition, s.Seq}] == s:
		w.c.m.unpublished.Inc() // trimmed already: subscribers see the gap
	default:
		w.c.m.repeats.WithLabelValues("journal").Inc()
	}
}

// perhapsOurs reports that an event may have been stored by a try of this batch whose answer
// was lost. Then nobody has published it.
func (w *work) perhapsOurs(s *journal.Stored) bool {
	return s.Duplicate && w.ambiguous && s.Seq > w.before[s.Partition]
}

// keep notes which answers hold an event's bytes, where there will be another try or was one.
func (w *work) keep(got []journal.Stored) {
	if !w.ambiguous && w.failure == nil {
		return
	}
	if w.keepers == nil {
		w.keepers = map[place]*journal.Stored{}
	}
	for i := range got {
		if s := &got[i]; s.Raw != nil {
			w.keepers[place{s.Partition, s.Seq}] = s
		}
	}
}

// readBack fills in the bytes of the events that are perhaps ours. Of several answers with one
// number only the keeper gets them.
func (w *work) readBack(ctx context.Context, got []journal.Stored) error {
	if !w.ambiguous {
		return nil
	}
	lost := map[int][]int{} // partition → indexes
	for i := range got {
		s := &got[i]
		if s.Raw != nil || !w.perhapsOurs(s) {
			continue
		}
		at := place{s.Partition, s.Seq}
		if w.keepers[at] == nil {
			w.keepers[at] = s
		}
		if w.keepers[at] == s {
			lost[s.Partition] = append(lost[s.Partition], i)
		}
	}
	for partition, indexes := range lost {
		seqs := make([]uint64, len(indexes))
		for n, i := range indexes {
			seqs[n] = got[i].Seq
		}
		found, err := w.c.store.Lookup(ctx, partition, seqs)
		if err != nil {
			return err
		}
		for n, i := range indexes {
			if n < len(found) && found[n].Raw != nil {
				got[i] = found[n]
				got[i].Duplicate = true
				w.c.m.republished.Inc()
			}
		}
	}
	return nil
}

// place is a number of a partition.
type place struct {
	partition int
	seq       uint64
}

// stored publishes events and remembers their numbers, after that: nobody may hear of a number that is
// still on its way.
func (c *committer) stored(all []fresh) {
	if len(all) == 0 {
		return
	}
	c.publish(all)
	c.m.stored.Add(float64(len(all)))
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range all {
		h, s := &c.heads[f.stored.Partition], f.stored
		if s.Seq <= h.Seq {
			continue
		}
		feed := max(h.Feed, s.Prev.Feed)
		if f.entry.Deliverable {
			feed = s.Seq
		}
		*h = head{journal.Head{Seq: s.Seq, Epoch: s.Epoch, Feed: feed}, now}
	}
}

// ownHeads gives, by partition, the newest event of those that this worker stored and published
// since then; the zero Head where there is none.
func (c *committer) ownHeads(since time.Time) []journal.Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]journal.Head, len(c.heads))
	for p, h := range c.heads {
		if h.Seq > 0 && h.at.After(since) {
			out[p] = h.Head
		}
	}
	return out
}
