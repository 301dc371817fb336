package indexer

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"eventspine/internal/checkpoint"
	"eventspine/internal/fault"
	"eventspine/internal/retry"
)

const (
	saveEvery     = time.Second
	settleTime    = 10 * time.Second // for a worker to begin the new epoch of a Redis that was put back
	checkpointing = "checkpoint"     // file below INDEXER_SPOOL_DIR
)

// heads tells where the journal's partitions end.
type heads interface {
	Head(ctx context.Context, p int) (seq, epoch uint64, err error)
}

// keeper keeps the checkpoint: in the file beside the spool and in Redis. Neither is waited for by
// the way to Elasticsearch. What a crash loses of it is indexed again, to no effect.
type keeper struct {
	backlog *backlog
	store   *checkpoint.Store
	dir     string
	log     *slog.Logger

	onDisk  checkpoint.State
	shared  checkpoint.Set // as this process last put it into Redis
	failing bool
}

// run saves what is confirmed every second until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.save(ctx)
		}
	}
}

// save saves what is confirmed, and lets go of what the spool holds of it. What fails is tried again
// the next time.
func (k *keeper) save(ctx context.Context) {
	now := k.backlog.state()
	var err error
	if now.Done != k.onDisk.Done || now.Spool != k.onDisk.Spool || !maps.Equal(now.Positions, k.onDisk.Positions) {
		if err = checkpoint.WriteFile(filepath.Join(k.dir, checkpointing), now); err == nil {
			k.onDisk = now
		}
	}
	k.backlog.spool.Trim(k.onDisk.Done, time.Now())
	if !maps.Equal(now.Positions, k.shared) {
		late := k.store.Save(ctx, now.Positions)
		if late == nil {
			k.shared = now.Positions
		}
		if err == nil {
			err = late
		}
	}
	if err != nil && !k.failing {
		k.log.Warn("the checkpoint cannot be saved, trying on", "error", err.Error())
	}
	k.failing = err != nil
}

// resume finds where to go on in each partition: after what is confirmed, by this process or
// another of the same checkpoint, and what the spool holds. It waits for Redis. A checkpoint that
// belongs to another Redis is an error of kind Invalid.
func (k *keeper) resume(ctx context.Context, held spans, journal heads, partitions int) (checkpoint.Set, error) {
	var start checkpoint.Set
	began := time.Now()
	err := retry.Policy{}.Forever(ctx, func(ctx context.Context) error {
		shared, err := k.store.Load(ctx)
		if err != nil {
			return err
		}
		k.backlog.known(shared)
		start = k.backlog.state().Positions
		held.onto(start)
		err = k.fits(ctx, start, journal, partitions)
		if fault.KindOf(err) == fault.Invalid && time.Since(began) < settleTime {
			err = fault.E("", fault.Unavailable, err)
		}
		return err
	}, nil)
	return start, err
}

// fits checks that the positions are of this journal.
func (k *keeper) fits(ctx context.Context, start checkpoint.Set, journal heads, partitions int) error {
	const op = "go on from the checkpoint"
	for p, at := range start {
		if p >= partitions {
			return fault.Errorf(op, fault.Invalid, "the checkpoint in %s or Redis has a partition %d, but PARTITIONS is %d: set it to what it was", k.dir, p, partitions)
		}
		seq, epoch, err := journal.Head(ctx, p)
		if err != nil {
			return err
		}
		if at.Seq > seq && at.Epoch > epoch {
			return fault.Errorf(op, fault.Invalid, "partition %d is indexed up to %d, but the journal in Redis ends at %d in an older epoch: REDIS_URL names another Redis than that of %s, or an older copy of it. "+
				"Set it right, or move that directory away (what waits in its spool is not indexed then) and delete %s in Redis", p, at.Seq, seq, k.dir, k.store.Key())
		}
	}
	return nil
}
