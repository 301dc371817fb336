package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/event"
)

// warmDay is a day that no event of the benchmark has; its index is deleted after the warm-up.
var warmDay = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// warmUp prepares what is slow at first, and is not counted: Elasticsearch's virtual machine,
// which needs some 100,000 documents until its hot paths are compiled, by documents written
// straight to it for the time given; then the services, by a burst and two seconds at the rate.
func (l *load) warmUp(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for writer := range 2 {
		g.Go(func() error { return l.fill(gctx, writer, time.Now().Add(l.o.WarmUp)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.archive.DeleteIndex(ctx, l.archive.IndexOf(warmDay)); err != nil {
		return err
	}
	if _, err := l.burst(ctx, newPart("warm-burst", l.mark, min(l.o.Burst, 5000)+1)); err != nil {
		return err
	}
	_, err := l.steady(ctx, newPart("warm-steady", l.mark, 2*l.o.Rate))
	return err
}

// fill writes batches like the indexer's to the index of warmDay.
func (l *load) fill(ctx context.Context, writer int, until time.Time) error {
	for n := 0; n == 0 || time.Now().Before(until); n++ {
		p := newPart(fmt.Sprintf("fill-%d-%d", writer, n), l.mark, batchSize)
		batch := make([]event.Event, batchSize)
		for i := range batch {
			e, err := event.Parse(l.event(nil, p, i, time.Duration(i)))
			if err != nil {
				return err
			}
			e.Complete(warmDay, "bench")
			e.Position = event.Position{Partition: i % 16, Seq: uint64(n*batchSize + i + 1), Epoch: 1}
			e.Raw = event.Splice(e.Raw, event.AppendPosition([]byte(`,"processed":true,"processedAt":946684800000,"latencyMs":1`), e.Position))
			batch[i] = e
		}
		if _, err := l.archive.Index(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}
