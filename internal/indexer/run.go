package indexer

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
	"eventspine/internal/checkpoint"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/journal"
	"eventspine/internal/keyring"
	"eventspine/internal/maintain"
	"eventspine/internal/quiet"
	"eventspine/internal/rdb"
	"eventspine/internal/retry"
	"eventspine/internal/telemetry"
	"eventspine/internal/wal"
	"eventspine/internal/zmq"
)

const (
	drainTime = 9 * time.Second        // for everything after ctx ended
	restTime  = time.Second            // for what has arrived but was not read
	idleTime  = 100 * time.Millisecond // without a message before nothing more is expected
)

// Deps are the opened clients, files and sockets that Run uses and closes.
type Deps struct {
	sub     *fanout.Subscriber
	follow  *fanout.Follower // closes sub
	start   checkpoint.Set   // where it goes on
	archive *archive.Archive
	redis   rdb.Client
	journal *journal.Journal
	health  *health.Server
	spool   *wal.Log
	backlog *backlog
	held    spans // what the spool held at the start
	m       *metrics
	elected *maintain.Keeper
}

// Health is the REQ/REP endpoint that answers PING; empty: none.
func (d *Deps) Health() string { return d.health.ZMQ() }

// Metrics is the host:port of /metrics, /healthz and /readyz; empty: none.
func (d *Deps) Metrics() string { return d.health.HTTP() }

// Alive reports whether the service answers over its own health sockets.
func (d *Deps) Alive(ctx context.Context) error { return d.health.Alive(ctx) }

// Open makes the clients, opens the spool and binds the health sockets. Neither Elasticsearch nor
// Redis nor a proxy has to be there. Errors are of kind Invalid for a wrong setting and for a spool
// or checkpoint that is another process's, another version's or damaged, and Unavailable for an
// address that is taken.
func Open(ctx context.Context, c Config) (_ *Deps, err error) {
	log := logger(&c)
	if wrong := c.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("open indexer", wrong...)
	}
	d := &Deps{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close(ctx))
		}
	}()
	reg := telemetry.NewRegistry()
	d.m = newMetrics(reg)
	keys, err := keyring.Open(&c, reg)
	if err != nil {
		return nil, err
	}
	d.archive, err = archive.New(archive.Options{URLs: c.ESHosts, Index: c.Index, Replicas: c.Replicas, Refresh: c.Refresh, Timeout: c.Timeout, Log: log})
	if err != nil {
		return nil, err
	}
	if d.redis, err = rdb.Open(c.RedisURL); err != nil {
		return nil, err
	}
	d.journal = journal.New(d.redis, journal.Options{Partitions: c.Partitions, Observer: true, Log: log, Metrics: reg})
	if err := d.openSpool(&c, reg); err != nil {
		return nil, err
	}
	d.elected = d.maintenance(&c, reg)
	d.sub, err = fanout.NewSubscriber(fanout.SubscriberOptions{Endpoints: c.Proxies, Topics: []string{""},
		ZMQ: zmq.Options{RcvHWM: c.RcvHWM, Curve: keys.Client()}, Log: log, Metrics: reg})
	if err != nil {
		return nil, err
	}
	d.follow, err = fanout.NewFollower(fanout.FollowerOptions{Subscriber: d.sub, Journal: d.journal, Partitions: c.Partitions, Start: d.from, Log: log, Metrics: reg})
	if err != nil {
		return nil, err
	}
	d.health, err = health.Listen(ctx, &c.Common, keys, reg)
	return d, err
}

// from is where a partition goes on: after what is confirmed or in the spool. Where nothing is, that
// is the oldest event of the journal.
func (d *Deps) from(partition int) (seq, epoch uint64, ok bool) {
	at := d.start[partition]
	return at.Seq, at.Epoch, true
}

// openSpool opens the spool and goes on from the checkpoint beside it.
func (d *Deps) openSpool(c *Config, reg prometheus.Registerer) (err error) {
	d.spool, err = wal.Open(wal.Options{Dir: filepath.Join(c.SpoolDir, "spool"), Name: "spool",
		MaxBytes: int64(c.SpoolSize), MinFree: max(int64(c.SpoolFree), 1), Log: c.Log, Metrics: reg})
	if err != nil {
		return err
	}
	state, err := checkpoint.ReadFile(filepath.Join(c.SpoolDir, checkpointing))
	if err != nil {
		return err
	}
	if state.Spool != d.spool.Generation() {
		state.Done = 0
	}
	d.backlog, d.held, err = newBacklog(d.spool, state.Done, int(c.QueueBytes), c.SpoolAfter, d.m, c.Log)
	if err != nil {
		return fault.Errorf("open spool", fault.KindOf(err), "%s: %w", c.SpoolDir, err)
	}
	d.backlog.known(state.Positions)
	d.m.watch(reg, d.backlog)
	return nil
}

// close closes what Open has opened.
func (d *Deps) close(ctx context.Context) error {
	var errs []error
	switch {
	case d.follow != nil:
		errs = append(errs, d.follow.Close(ctx))
	case d.sub != nil:
		errs = append(errs, d.sub.Close(ctx))
	}
	if d.backlog != nil {
		errs = append(errs, d.backlog.reader.Close())
	}
	if d.spool != nil {
		errs = append(errs, d.spool.Close())
	}
	if d.redis != nil {
		errs = append(errs, d.redis.Close())
	}
	if d.archive != nil {
		d.archive.Close()
	}
	return errors.Join(errs...)
}

func logger(c *Config) *slog.Logger {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// Run indexes until ctx ends, then what is in hand, and closes everything in d. What Elasticsearch
// does not take in time goes to the spool, for the next start. It returns nil after that; an error
// of kind Overloaded says that it could not keep up and is to be started again, one of kind Invalid
// that the checkpoint is not of this Redis.
func Run(ctx context.Context, c Config, d *Deps) error {
	log := logger(&c)
	k := &keeper{backlog: d.backlog, store: checkpoint.New(d.redis, c.Checkpoint), dir: c.SpoolDir, log: log}
	s := &sender{index: d.archive, dead: &deadFile{path: filepath.Join(c.SpoolDir, "dead.jsonl")}, m: d.m, log: log, retry: retry.Policy{Min: 100 * time.Millisecond}}
	disk := &diskWatch{disks: d.archive, early: d.elected.Early, m: d.m, log: log}
	g, inner := errgroup.WithContext(ctx)
	drain, cancel := afterwards(inner, drainTime)
	defer cancel()
	moving, stop := context.WithCancel(drain)
	defer stop()
	g.Go(func() error { return d.health.Run(inner, d.checks()...) })
	g.Go(func() error { return s.install(inner) })
	g.Go(func() error {
		return d.sub.Watch(inner, fanout.Snail{Wait: c.SnailWait, Limit: c.SnailLimit, Excused: d.backlog.waited})
	})
	g.Go(func() error { k.run(inner); return nil })
	g.Go(func() error { disk.run(inner); return nil })
	g.Go(func() error { return d.elected.Run(inner) })
	g.Go(func() error { d.backlog.move(moving); return nil })
	g.Go(func() error {
		defer d.backlog.close()
		return d.take(inner, drain, &c, k)
	})
	g.Go(func() error {
		defer stop()
		s.collect(drain, d.backlog, c.BatchEvents, c.Flush)
		return nil
	})
	err := g.Wait()
	d.leave(drain, k, log)
	closing, done := context.WithTimeout(context.WithoutCancel(ctx), restTime) // drain may be over
	defer done()
	return errors.Join(err, d.close(closing))
}

// take follows the journal into the backlog until ctx ends, and takes what has arrived by then.
func (d *Deps) take(ctx, drain context.Context, c *Config, k *keeper) error {
	var err error
	if d.start, err = k.resume(ctx, d.held, d.journal, c.Partitions); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	whole, stopMending := context.WithCancel(ctx)
	var mending sync.WaitGroup
	defer mending.Wait()
	defer stopMending()
	mending.Go(func() { (&mender{backlog: d.backlog, journal: d.journal, m: d.m, log: c.Log}).run(whole) })
	in := intake{backlog: d.backlog, last: maps.Clone(d.start), m: d.m, log: quiet.New(c.Log, time.Second)}
	err = in.receive(ctx, drain, d.follow)
	if ctx.Err() == nil {
		return err
	}
	rest, stop := context.WithTimeout(drain, restTime)
	defer stop()
	_ = in.receive(rest, drain, untilIdle{d.follow}) // it ends by the clock
	return nil
}

// leave puts what is not confirmed on disk, and saves the checkpoint.
func (d *Deps) leave(ctx context.Context, k *keeper, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restTime)
	defer cancel()
	late := d.backlog.toSpool(ctx)
	k.save(ctx)
	if memory, _, spooled, _, _ := d.backlog.figures(); memory > 0 || spooled > 0 {
		log.Info("events wait for elasticsearch until the next start", "in_spool", spooled, "in_journal", memory, "error", late)
	}
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

func (d *Deps) checks() []health.Check {
	return []health.Check{
		{Name: "elasticsearch", Probe: d.archive.Ping},
		{Name: "redis", Probe: func(ctx context.Context) error { return rdb.Ping(ctx, d.redis) }},
		{Name: "proxy", Probe: func(context.Context) error { return d.follow.Ready() }},
	}
}
