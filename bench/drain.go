package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
	"eventspine/internal/testkit/ports"
	"eventspine/test/harness"
)

// drain takes a backlog of o.Drain events while Elasticsearch is away, lets it come back, and shows
// how fast the backlog goes into the index, and what delay live events at the rate have meanwhile.
func drain(ctx context.Context, o options, out io.Writer) error {
	if o.ES == "" {
		return errors.New("-drain needs an Elasticsearch: give -es")
	}
	search := o.ES
	at, err := ports.Addr()
	if err != nil {
		return err
	}
	way, err := harness.Relay(at, search)
	if err != nil {
		return err
	}
	defer func() { _ = way.Close() }()
	o.ES = "http://" + at
	return system(ctx, o, func(l *load) error {
		if err := l.warmUp(ctx); err != nil {
			return err
		}
		if err := way.Close(); err != nil { // Elasticsearch is away
			return err
		}
		backlog := newPart("backlog", l.mark, o.Drain)
		took, err := l.take(ctx, backlog)
		if err != nil {
			return err
		}
		spool, err := diskUse(filepath.Join(l.o.dir, "indexer-1"))
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "backlog: %d events taken and in the browsers in %.1f s; the spool has %.0f MB\n", o.Drain, took.Seconds(), spool/(1<<20))
		if way, err = harness.Relay(at, search); err != nil {
			return err
		}
		live, drained, err := l.beside(ctx, backlog)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "drained: %d events in %.1f s, %.0f a second\nlive, %d events/s beside it: p50 %.1f ms, p95 %.1f ms, p99 %.1f ms\n%s\n",
			o.Drain, drained.Seconds(), float64(o.Drain)/drained.Seconds(), o.Rate, live.P50, live.P95, live.P99, live.Machine)
		if live.Received != live.Accepted || live.Repeated > 0 {
			err = errors.Join(err, fmt.Errorf("%d live events accepted, %d received, %d repeated", live.Accepted, live.Received, live.Repeated))
		}
		return err
	})
}

// take sends all events of the part in batches and waits until the browsers have them.
func (l *load) take(ctx context.Context, p *part) (time.Duration, error) {
	if err := l.begin(ctx, p); err != nil {
		return 0, err
	}
	if err := l.sendBatches(p); err != nil {
		return 0, err
	}
	late := time.NewTimer(drainPatience)
	defer late.Stop()
	select {
	case <-p.full:
	case <-late.C:
		return 0, fmt.Errorf("%d of %d events of the backlog are in the browsers", p.received.Load(), len(p.seen))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return time.Since(p.began), nil
}

const drainPatience = 15 * time.Minute

// beside sends live events while the backlog goes into the index.
func (l *load) beside(ctx context.Context, backlog *part) (live *figures, took time.Duration, err error) {
	var both errgroup.Group
	began := time.Now()
	both.Go(func() error {
		var err error
		took, err = l.awaitIndexed(ctx, backlog, began)
		return err
	})
	both.Go(func() (err error) {
		live, err = l.steady(ctx, newPart("live", l.mark, int(float64(l.o.Rate)*l.o.For.Seconds())))
		return err
	})
	return live, took, both.Wait()
}

// awaitIndexed waits until all events of the part are in the index.
func (l *load) awaitIndexed(ctx context.Context, p *part, began time.Time) (time.Duration, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Since(began) < drainPatience {
		n, err := l.archive.Count(ctx, archive.Query{Type: p.typ, AnyUser: true})
		if err == nil && n == int64(len(p.seen)) {
			return time.Since(began), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, fmt.Errorf("the backlog is not in the index after %s", drainPatience)
}
