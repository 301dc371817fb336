package worker

import (
	"cmp"
	"context"
	"slices"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

// Apply stores the runs of a plan, in their order within each stream, publishes what is new, and
// leaves in each run what its sender is to be answered. Like Commit it tries for as long as ctx
// lives. What the runs have elsewhere must be stored before.
func (c *committer) Apply(ctx context.Context, runs []*run) error {
	if len(runs) == 0 {
		return nil
	}
	a := applying{work: work{c: c, before: c.seqs()}, left: runs}
	started := time.Now()
	err := c.forever(ctx, a.try)
	c.m.commit.Observe(time.Since(started).Seconds())
	for _, r := range a.left {
		c.m.abandoned.Add(float64(len(r.Entries))) // their sender keeps them
	}
	for _, r := range runs {
		if r.Lost > 0 {
			c.m.lost.Add(float64(r.Lost))
			c.log.Error("a producer no longer had events that were never stored", "source", r.Source, "partition", r.Partition, "events", r.Lost)
		}
	}
	return err
}

// applying is the runs of one plan until all of them are applied and published.
type applying struct {
	work
	left []*run // not finished
}

// try makes one call for the runs that are not done, and finishes those that are.
func (a *applying) try(ctx context.Context) error {
	var batches []*journal.Batch
	for _, r := range a.left {
		if !r.Done {
			batches = append(batches, &r.Batch)
		}
	}
	if a.failure = nil; len(batches) > 0 {
		a.failure = a.c.store.Apply(ctx, batches)
	}
	err := a.finish(ctx)
	if err == nil && a.failure == nil && len(a.left) > 0 {
		a.failure = fault.Errorf("apply", fault.Internal, "%d batches were neither applied nor refused", len(a.left))
	}
	a.ambiguous = a.ambiguous || a.failure != nil
	if err != nil {
		return err
	}
	return a.failure
}

// finish publishes what the runs that are done have stored, by its number within each partition,
// as several sources may have stored in one partition by turns. On an error, of reading events
// back, nothing was published, and it may be called again.
func (a *applying) finish(ctx context.Context) error {
	var all []fresh
	for _, r := range a.left {
		a.keep(r.Stored)
	}
	rest := a.left[:0:0]
	for _, r := range a.left {
		if !r.Done {
			rest = append(rest, r)
			continue
		}
		if err := a.readBack(ctx, r.Stored); err != nil {
			return err
		}
		for i := range r.Stored {
			all = append(all, fresh{&r.Entries[i], &r.Stored[i]})
		}
	}
	slices.SortStableFunc(all, func(x, y fresh) int {
		return cmp.Or(cmp.Compare(x.stored.Partition, y.stored.Partition), cmp.Compare(x.stored.Seq, y.stored.Seq))
	})
	for i := range all {
		a.settle(all[i].entry, all[i].stored)
	}
	a.c.stored(a.fresh)
	a.left, a.fresh = rest, nil
	return nil
}

// ahead gives what the runs have for other partitions and is to be stored before them. It asks
// how far their streams have come and leaves out what was stored with a run that was applied
// before, and what would leave a gap: its turn comes when its sender sends it again.
func (c *committer) ahead(ctx context.Context, runs []*run) ([]journal.Entry, error) {
	type stream struct {
		partition int
		source    string
	}
	states := map[stream]*journal.Batch{}
	for _, r := range runs {
		if len(r.elsewhere) > 0 {
			states[stream{r.Partition, r.Source}] = &journal.Batch{Partition: r.Partition, Source: r.Source, First: 1}
		}
	}
	if len(states) == 0 {
		return nil, nil
	}
	questions := make([]*journal.Batch, 0, len(states))
	for _, q := range states {
		questions = append(questions, q)
	}
	if err := c.forever(ctx, func(ctx context.Context) error { return c.store.Apply(ctx, questions) }); err != nil {
		return nil, err
	}
	var out []journal.Entry
	for _, r := range runs {
		q := states[stream{r.Partition, r.Source}]
		if q == nil || r.Last < r.First || r.First-r.Skip > q.Upto+1 && !r.Start {
			continue
		}
		if len(r.elsewhere) > 0 {
			r.Within = q.Epoch // a Redis that loses them before the run is applied makes the run come again
		}
		for i := range r.elsewhere {
			if r.elsewhere[i].Number > q.Upto {
				out = append(out, r.elsewhere[i])
			}
		}
		q.Upto = max(q.Upto, r.Last)
	}
	return out, nil
}
