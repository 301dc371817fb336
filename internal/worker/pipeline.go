package worker

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/journal"
	"eventspine/internal/retry"
)

const (
	restTime  = 2 * time.Second        // to take in what producers sent before the end
	idleTime  = 100 * time.Millisecond // without a message before producers count as silent
	markEvery = time.Second
	markFor   = time.Minute // after the last event of a partition
)

// pipeline prepares Redis and then runs the stages until soft ends and all is drained.
func (d *Deps) pipeline(soft, hard context.Context) error {
	if err := d.prepare(soft); err != nil {
		return unlessEnded(soft, err) // nothing was taken in yet
	}
	d.live.wait(soft)
	d.awaitProxies(soft)
	var g errgroup.Group
	marking, stop := context.WithCancel(hard)
	g.Go(func() error { defer d.intake.close(); return d.receive(soft, hard) })
	g.Go(func() error { defer stop(); return d.work(hard) })
	g.Go(func() error { d.mark(marking); return nil })
	return g.Wait()
}

// awaitProxies waits, for as long as WORKER_PROXY_WAIT says, until what is published gets
// through to whoever subscribed: a proxy drops what comes before it has asked for it.
func (d *Deps) awaitProxies(ctx context.Context) {
	if d.proxyWait == 0 {
		return
	}
	wait, cancel := context.WithTimeout(ctx, d.proxyWait)
	defer cancel()
	if err := d.out.proxies.Wait(wait); err != nil && ctx.Err() == nil {
		d.log.Warn("events are stored without a proxy; until there is one, subscribers find them in the journal only", "error", err.Error())
	}
}

// unlessEnded is err, or nil when the end of ctx explains it.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// prepare waits until Redis is there and fit to be used.
func (d *Deps) prepare(ctx context.Context) error {
	err := retry.Policy{Max: time.Second}.Forever(ctx, func(ctx context.Context) error {
		if err := d.vet(ctx); err != nil {
			return err
		}
		return d.journal.Ready(ctx)
	}, func(err error, _ time.Duration) { d.redis.Failed(err) })
	if err == nil {
		d.redis.Fine()
	}
	return err
}

// receive moves events from producers to the intake until ctx ends, and then what they sent
// before that.
func (d *Deps) receive(ctx, hard context.Context) error {
	err := d.intoIntake(ctx, hard, 0)
	if ctx.Err() == nil {
		return err
	}
	rest, cancel := context.WithTimeout(hard, restTime)
	defer cancel()
	if err := d.intoIntake(rest, hard, idleTime); err != nil && rest.Err() == nil {
		return err
	}
	return nil
}

// intoIntake ends with ctx, or, when idle is given, after that time without a message.
func (d *Deps) intoIntake(ctx, hard context.Context, idle time.Duration) error {
	for {
		b, err := d.recv(ctx, idle)
		if err != nil {
			if idle > 0 && errors.Is(err, context.DeadlineExceeded) {
				return nil
			}
			return err
		}
		d.statsd.Received(len(b.Events))
		events := d.processor.read(b)
		if err := d.intake.put(hard, events); err != nil {
			d.m.abandoned.Add(float64(len(events)))
			return fault.Errorf("take in", fault.Unavailable, "%d events had no room before the end", len(events))
		}
	}
}

func (d *Deps) recv(ctx context.Context, idle time.Duration) (ingest.Batch, error) {
	if idle > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, idle)
		defer cancel()
	}
	return d.receiver.Recv(ctx)
}

// work commits batch after batch until the intake is closed and empty.
func (d *Deps) work(ctx context.Context) error {
	for {
		events, err := d.intake.take(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			d.m.batch.Observe(float64(len(events)))
			err = d.batch(ctx, events)
		}
		if err != nil {
			waiting := d.intake.len()
			d.m.abandoned.Add(float64(waiting))
			return fault.Errorf("drain", fault.Unavailable, "%d events in hand and %d waiting were not all stored before the end: %w",
				len(events), waiting, err)
		}
	}
}

func (d *Deps) batch(ctx context.Context, events []event.Event) error {
	var entries []journal.Entry
	err := d.committer.forever(ctx, func(ctx context.Context) (err error) {
		entries, err = d.processor.Process(ctx, events)
		return err
	})
	if err != nil {
		d.m.abandoned.Add(float64(len(events)))
		return err
	}
	return d.committer.Commit(ctx, entries)
}

// mark publishes the heads of this worker's partitions every second.
func (d *Deps) mark(ctx context.Context) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, m := range d.committer.marks(now.Add(-markFor)) {
				d.out.mark(m)
			}
		}
	}
}

// forget drops users from the cache when they change.
func (d *Deps) forget(ctx context.Context) error {
	for {
		m, err := d.changes.Recv(ctx)
		if err != nil {
			return unlessEnded(ctx, err)
		}
		id, err := event.DecodeUserID(strings.TrimPrefix(m.Topic, event.TopicUser))
		if err != nil {
			continue // nobody has such a user id
		}
		d.cache.Drop(id)
		d.m.usersForgotten.Inc()
	}
}
