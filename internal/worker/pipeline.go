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
		u := d.processor.read(b)
		if err := d.intake.put(hard, u); err != nil {
			d.m.abandoned.Add(float64(len(u.events)))
			return fault.Errorf("take in", fault.Unavailable, "%d events had no room before the end", len(u.events))
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
	defer d.acker.end()
	for {
		units, err := d.intake.take(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		events := 0
		for i := range units {
			events += len(units[i].events)
		}
		if err == nil {
			d.m.batch.Observe(float64(events))
			err = d.batch(ctx, units, events)
		}
		if err != nil {
			waiting := d.intake.len()
			d.m.abandoned.Add(float64(waiting))
			return fault.Errorf("drain", fault.Unavailable, "%d events in hand and %d waiting were not all stored before the end: %w",
				events, waiting, err)
		}
	}
}

// batch stores, publishes and answers some units. What belongs to no numbered unit's partition
// is stored first: a crash after that is repaired when the unit is sent again, and ids keep it
// from being stored twice.
func (d *Deps) batch(ctx context.Context, units []unit, events int) error {
	var p *plan
	err := d.committer.forever(ctx, func(ctx context.Context) (err error) {
		p, err = d.processor.Process(ctx, units)
		return err
	})
	if err != nil {
		d.m.abandoned.Add(float64(events))
		return err
	}
	ahead, err := d.committer.ahead(ctx, p.runs)
	if err != nil {
		d.m.abandoned.Add(float64(p.events()))
		return err
	}
	if err := d.committer.Commit(ctx, append(p.loose, ahead...)); err != nil {
		d.m.abandoned.Add(float64(p.events() - len(p.loose)))
		return err
	}
	if err := d.committer.Apply(ctx, p.runs); err != nil {
		return err
	}
	d.acker.answer(p, time.Now())
	return nil
}

// mark publishes the heads of all partitions every second: what this worker published itself,
// and what Redis holds, which may be another worker's, or tell that Redis lost its data though
// nothing comes in. A head out of Redis is told one look later, so that it does not overtake
// the events that are just being published; a new epoch is told at once.
func (d *Deps) mark(ctx context.Context) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	var seen []journal.Head
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			told := d.committer.ownHeads(now.Add(-markFor))
			for p := range seen {
				if seen[p].Seq > told[p].Seq {
					told[p] = seen[p]
				}
			}
			seen = d.look(ctx)
			for p := range seen {
				if h := seen[p]; h.Epoch > told[p].Epoch {
					told[p] = journal.Head{Seq: h.Epoch, Epoch: h.Epoch}
				}
			}
			for p, h := range told {
				if h.Seq > 0 {
					d.out.mark(p, h)
				}
			}
		}
	}
}

// look reads the heads out of Redis. While it is away there are none.
func (d *Deps) look(ctx context.Context) []journal.Head {
	ctx, cancel := context.WithTimeout(ctx, markEvery)
	defer cancel()
	heads, err := d.journal.Heads(ctx)
	if err != nil {
		return nil
	}
	return heads
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
