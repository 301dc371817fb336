package indexer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/keyring"
	"eventspine/internal/quiet"
	"eventspine/internal/retry"
	"eventspine/internal/telemetry"
	"eventspine/internal/zmq"
)

const (
	drainTime = 9 * time.Second        // for everything after ctx ended
	restTime  = time.Second            // for what has arrived but was not read
	idleTime  = 100 * time.Millisecond // without a message before nothing more is expected
)

// Deps are the opened clients and bound sockets that Run uses and closes.
type Deps struct {
	sub     *fanout.Subscriber
	archive *archive.Archive
	health  *health.Server
	queue   *queue
	m       *metrics
}

// Health is the REQ/REP endpoint that answers PING; empty: none.
func (d *Deps) Health() string { return d.health.ZMQ() }

// Metrics is the host:port of /metrics, /healthz and /readyz; empty: none.
func (d *Deps) Metrics() string { return d.health.HTTP() }

// Open makes the clients and binds the health sockets. Neither Elasticsearch nor a proxy has
// to be there. Errors are of kind Invalid for a wrong setting and Unavailable for an address
// that is taken.
func Open(ctx context.Context, c Config) (*Deps, error) {
	log := logger(&c)
	if wrong := c.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("open indexer", wrong...)
	}
	d := &Deps{queue: newQueue(c.QueueEvents, int(c.QueueBytes))}
	reg := telemetry.NewRegistry()
	d.m = newMetrics(reg, d.queue)
	keys, err := keyring.Open(&c, reg)
	if err != nil {
		return nil, err
	}
	d.archive, err = archive.New(archive.Options{URLs: c.ESHosts, Index: c.Index, Replicas: c.Replicas, Refresh: c.Refresh, Timeout: c.Timeout, Log: log})
	if err != nil {
		return nil, err
	}
	d.sub, err = fanout.NewSubscriber(fanout.SubscriberOptions{Endpoints: c.Proxies, Topics: []string{""},
		ZMQ: zmq.Options{RcvHWM: c.RcvHWM, Curve: keys.Client()}, Log: log, Metrics: reg})
	if err != nil {
		return nil, err
	}
	if d.health, err = health.Listen(ctx, &c.Common, keys, reg); err != nil {
		return nil, errors.Join(err, d.sub.Close(ctx))
	}
	return d, nil
}

func logger(c *Config) *slog.Logger {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// Run indexes until ctx ends, then what is in hand, and closes everything in d. It returns nil
// after a clean drain; an error of kind Unavailable says how many events were left over, one of
// kind Overloaded that it could not keep up and is to be started again.
func Run(ctx context.Context, c Config, d *Deps) error {
	log := logger(&c)
	held := quiet.New(log, time.Second)
	s := &sender{index: d.archive, m: d.m, log: log, retry: retry.Policy{Min: 100 * time.Millisecond}}
	lost := 0
	g, inner := errgroup.WithContext(ctx)
	drain, cancel := afterwards(inner, drainTime)
	defer cancel()
	g.Go(func() error { return d.health.Run(inner, d.checks()...) })
	g.Go(func() error { return s.install(inner) })
	g.Go(func() error {
		return d.sub.Watch(inner, fanout.Snail{Wait: c.SnailWait, Limit: c.SnailLimit, Excused: d.queue.waited})
	})
	g.Go(func() error {
		defer d.queue.close()
		in := intake{queue: d.queue, m: d.m, log: held}
		err := in.receive(inner, drain, d.sub)
		if inner.Err() == nil {
			return err
		}
		rest, stop := context.WithTimeout(drain, restTime)
		defer stop()
		_ = in.receive(rest, drain, untilIdle{d.sub}) // it ends by the clock
		return nil
	})
	g.Go(func() error { lost = s.collect(drain, d.queue, c.BatchEvents, c.Flush); return nil })
	err := g.Wait()
	if n := d.sub.Queued(); n > 0 {
		log.Warn("messages were left unread", "messages", n)
	}
	if late := d.sub.Close(drain); late != nil {
		log.Warn("the subscription did not close in time", "error", late)
	}
	d.archive.Close()
	if lost > 0 {
		err = errors.Join(err, fault.Errorf("drain", fault.Unavailable, "%d events were not indexed in time", lost))
	}
	return err
}

// afterwards is a context that ends d after ctx. The function it returns ends it at once and
// must be called.
func afterwards(ctx context.Context, d time.Duration) (context.Context, func()) {
	after, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-ctx.Done():
		case <-after.Done():
			return
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-after.Done():
		}
	})
	return after, func() { cancel(); watch.Wait() }
}

// install waits for Elasticsearch and gives it the template before the first event comes.
func (s *sender) install(ctx context.Context) error {
	_ = s.retry.Forever(ctx, func(ctx context.Context) error {
		err := s.prepare(ctx)
		if err != nil {
			return s.failed(err)
		}
		s.fine()
		return nil
	}, nil) // the only error left is that ctx ended
	return nil
}

func (d *Deps) checks() []health.Check {
	return []health.Check{
		{Name: "elasticsearch", Probe: d.archive.Ping},
		{Name: "proxy", Probe: func(context.Context) error { return d.sub.Ready() }},
	}
}

// untilIdle is a source that ends after a moment without a message.
type untilIdle struct{ source }

// Recv waits for a message for idleTime at most.
func (u untilIdle) Recv(ctx context.Context) (fanout.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, idleTime)
	defer cancel()
	return u.source.Recv(ctx)
}
