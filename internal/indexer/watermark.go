package indexer

import (
	"context"
	"log/slog"
	"time"

	"eventspine/internal/archive"
)

const lookEvery = 15 * time.Second

// disks is what is asked about Elasticsearch's disks.
type disks interface {
	Disk(ctx context.Context) (archive.Disk, error)
	Unblock(ctx context.Context, indices []string) error
}

// diskWatch watches how full Elasticsearch's disks are. Past the high watermark, old indices are
// deleted early. Past the flood stage, Elasticsearch makes indices read-only; then events wait, and
// the block is lifted when there is room again.
type diskWatch struct {
	disks disks
	early func(context.Context) error // deletes old indices before their time; nil: nothing does
	m     *metrics
	log   *slog.Logger

	high, blocked, failing bool
}

// run looks every 15 seconds until ctx ends.
func (w *diskWatch) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *diskWatch) look(ctx context.Context) {
	d, err := w.disks.Disk(ctx)
	if err != nil {
		return // that Elasticsearch is away is told by who sends to it
	}
	w.m.diskUsed.Set(d.Used)
	w.m.blocked.Set(float64(len(d.Blocked)))
	if blocked := len(d.Blocked) > 0; blocked != w.blocked {
		if w.blocked = blocked; blocked {
			w.log.Error("elasticsearch's disk is full and indices are read-only; events wait in the spool", "used", d.Used, "indices", d.Blocked)
		}
	}
	if d.High != w.high {
		if w.high = d.High; d.High {
			w.log.Warn("elasticsearch's disk is past its high watermark", "used", d.Used)
		}
	}
	switch {
	case d.High && w.early != nil:
		err = w.early(ctx)
	case !d.High && len(d.Blocked) > 0:
		if err = w.disks.Unblock(ctx, d.Blocked); err == nil {
			w.log.Info("there is room on elasticsearch's disk again: the block is lifted", "used", d.Used, "indices", d.Blocked)
		}
	}
	if err != nil && !w.failing {
		w.log.Warn("elasticsearch's disk cannot be put right", "error", err.Error())
	}
	w.failing = err != nil
}
