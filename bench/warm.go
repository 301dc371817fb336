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

const (
	refreshEvery = 10 // requests, as at the rate: segments are as small, and merged as often

	restSpan = 2 * time.Second
	restIdle = 0.8 // share of the processors
)

// warmUp prepares what is slow at first, and is not counted: Elasticsearch's virtual machine, by
// documents written straight to it for the time given, and everything by a burst and the rate for half
// of that. Until it knows all its hot paths Elasticsearch needs some 100,000 documents and many of the small
// requests of the steady part, and then half a minute of a processor to compile them, which it does not get
// beside a load: so there is a rest after each.
func (l *load) warmUp(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for writer := range 2 {
		g.Go(func() error { return l.fill(gctx, writer, time.Now().Add(l.o.WarmUp)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := rest(ctx, l.o.WarmUp); err != nil {
		return err
	}
	if err := l.archive.DeleteIndex(ctx, l.archive.IndexOf(warmDay)); err != nil {
		return err
	}
	if _, err := l.burst(ctx, newPart("warm-burst", l.mark, min(l.o.Burst, 5000)+1)); err != nil {
		return err
	}
	if _, err := l.steady(ctx, newPart("warm-steady", l.mark, max(l.o.Rate, int(float64(l.o.Rate)*l.o.WarmUp.Seconds()/2)))); err != nil {
		return err
	}
	return rest(ctx, l.o.WarmUp)
}

// rest waits until the machine has hardly anything to do, but no longer than the time given.
func rest(ctx context.Context, most time.Duration) error {
	for until := time.Now().Add(most); time.Now().Before(until); {
		before := readTicks()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(restSpan, time.Until(until))):
		}
		after := readTicks()
		if after.idle-before.idle > restIdle*(after.total-before.total) {
			return nil
		}
	}
	return nil
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
		if n%refreshEvery == 0 {
			if err := l.archive.Refresh(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
