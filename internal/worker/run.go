package worker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/ingest"
	"eventspine/internal/journal"
	"eventspine/internal/keyring"
	"eventspine/internal/profile"
	"eventspine/internal/quiet"
	"eventspine/internal/rdb"
	"eventspine/internal/rules"
	"eventspine/internal/telemetry"
	"eventspine/internal/zmq"
)

const (
	drainTime = 8 * time.Second // to commit what is in hand, at the end
	closeTime = 2 * time.Second // to send what is queued, after that
	vetEvery  = 5 * time.Second // the settings of Redis are looked at again
)

// Deps are the bound sockets and opened clients that Run uses and closes.
type Deps struct {
	receiver *ingest.Receiver
	changes  *fanout.Subscriber // of users
	out      *outputs
	health   *health.Server
	statsd   *telemetry.Statsd

	journal *journal.Journal
	cache   *profile.Cache
	vet     func(context.Context) error
	vetted  func(context.Context) error // the same once more, without warnings that were given already
	ping    func(context.Context) error
	closers []func(context.Context) error // in the order of opening

	intake    *intake
	processor *processor
	committer *committer
	acker     *acker
	live      *liveRules // nil: none
	log       *slog.Logger
	proxyWait time.Duration
	redis     *quiet.Dependency
	drain     time.Duration // for what is in hand at the end
	m         *metrics
}

// Endpoint is where producers push to, with the actual port.
func (d *Deps) Endpoint() string { return d.receiver.Endpoint() }

// Health is the REQ/REP endpoint that answers PING; empty: none.
func (d *Deps) Health() string { return d.health.ZMQ() }

// Metrics is the host:port of /metrics, /healthz and /readyz; empty: none.
func (d *Deps) Metrics() string { return d.health.HTTP() }

// Alive reports whether the service answers over its own health sockets.
func (d *Deps) Alive(ctx context.Context) error { return d.health.Alive(ctx) }

// Open reads the rules, binds the sockets and makes the clients. Redis and the proxies need
// not be there. Errors are of kind Invalid for a wrong setting or rule, Unavailable for an
// address that is taken.
func Open(ctx context.Context, c Config) (*Deps, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if wrong := c.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("open worker", wrong...)
	}
	d := &Deps{drain: drainTime}
	if err := d.open(ctx, &c); err != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = d.close(ended) // nothing was taken in
		return nil, err
	}
	return d, nil
}

func (d *Deps) open(ctx context.Context, c *Config) error {
	set, err := loadRules(c.Rules)
	if err != nil {
		return err
	}
	reg := telemetry.NewRegistry()
	d.m, d.intake, d.redis = newMetrics(reg), newIntake(), quiet.NewDependency("redis", c.Log)
	d.m.waiting(reg, d.intake)
	keys, err := keyring.Open(c, reg)
	if err != nil {
		return err
	}
	if err := d.openRedis(c, reg); err != nil {
		return err
	}
	if err := d.openSockets(ctx, c, keys, reg); err != nil {
		return err
	}
	d.assemble(c, set)
	d.log, d.proxyWait = c.Log, c.ProxyWait
	if err := d.openClone(c, set, keys, reg); err != nil {
		return err
	}
	d.health, err = health.Listen(ctx, &c.Common, keys, reg)
	return err
}

// openRedis makes the clients of Redis; none of them connects.
func (d *Deps) openRedis(c *Config, reg prometheus.Registerer) error {
	client, err := rdb.Open(c.RedisURL)
	if err != nil {
		return fault.E("REDIS_URL", fault.KindOf(err), err)
	}
	d.closers = append(d.closers, func(context.Context) error { return client.Close() })
	d.vet = func(ctx context.Context) error { return rdb.Vet(ctx, client, c.Log) }
	d.vetted = func(ctx context.Context) error { return rdb.Vet(ctx, client, slog.New(slog.DiscardHandler)) }
	d.ping = func(ctx context.Context) error { return rdb.Ping(ctx, client) }
	d.journal = journal.New(client, journal.Options{Partitions: c.Partitions, DedupeWindow: c.DedupeWindow, ReplayWindow: c.ReplayWindow,
		ReplayMax: c.ReplayMax, JournalMax: c.JournalMax, JournalBytes: int64(c.JournalBytes), JournalAge: c.JournalAge, Log: c.Log, Metrics: reg})
	d.cache = profile.NewCache(profile.New(client), c.UserCache, c.UserTTL)
	return nil
}

// openSockets binds and connects all but the health sockets.
func (d *Deps) openSockets(ctx context.Context, c *Config, keys *keyring.Ring, reg prometheus.Registerer) (err error) {
	if d.statsd, err = telemetry.OpenStatsd(c.Statsd); err != nil {
		return err
	}
	d.out = &outputs{statsd: d.statsd, m: d.m, clock: func() int64 { return time.Now().UnixMilli() }}
	d.closers = append(d.closers, d.out.close)
	if d.out.proxies, err = fanout.NewPublisher(fanout.Options{Endpoints: c.XSub, ZMQ: zmq.Options{Curve: keys.Client()}, Log: c.Log, Metrics: reg}); err != nil {
		return fault.E("ZMQ_PROXY_XSUB", fault.KindOf(err), err)
	}
	if err := d.out.open(ctx, c, keys.Server("output")); err != nil {
		return err
	}
	d.changes, err = fanout.NewSubscriber(fanout.SubscriberOptions{Endpoints: c.XPub, Topics: []string{event.TopicUser},
		ZMQ: zmq.Options{Curve: keys.Client()}, Log: c.Log, Metrics: reg})
	if err != nil {
		return fault.E("ZMQ_PROXY_XPUB", fault.KindOf(err), err)
	}
	d.closers = append(d.closers, d.changes.Close)
	d.receiver, err = ingest.Listen(ctx, c.Bind, ingest.ReceiverOptions{Log: c.Log, Metrics: reg,
		ZMQ: zmq.Options{RcvHWM: c.RcvHWM, RcvBytes: int(c.RcvBytes), Curve: keys.Server("events")}})
	if err != nil {
		return fault.E("bind ZMQ_PROCESSING_BIND", fault.KindOf(err), err)
	}
	d.closers = append(d.closers, d.receiver.Close)
	return nil
}

func loadRules(path string) (*rules.Set, error) {
	if path == "" {
		return rules.Default()
	}
	set, err := rules.Load(path)
	if err != nil {
		return nil, fault.E("WORKER_RULES", fault.KindOf(err), err)
	}
	return set, nil
}

// assemble makes the two parts of the pipeline from what was opened.
func (d *Deps) assemble(c *Config, set *rules.Set) {
	deliverable := map[string]bool{}
	for _, category := range c.Deliverable {
		deliverable[strings.TrimSpace(category)] = true
	}
	d.processor = &processor{users: d.cache, partitions: c.Partitions, deliverable: deliverable, now: time.Now,
		log: quiet.New(c.Log, time.Second), m: d.m}
	d.processor.rules.Store(set)
	d.committer = newCommitter(d.journal, c.Partitions, d.out.publish, d.redis, d.m)
	d.committer.log = d.processor.log
	d.acker = newAcker(d.out.proxies.PublishAll, ackEvery, d.m)
}

// Run takes in, stores and publishes until ctx ends, finishes what is in hand and closes
// everything in d. It returns nil after a clean drain. Errors: Invalid when Redis is set up in
// a way that loses events, now or some seconds ago, Unavailable when events were taken in that could not be stored
// before the end.
func Run(ctx context.Context, c Config, d *Deps) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	// hard outlives ctx by the time that draining may take.
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g, soft := errgroup.WithContext(ctx)
	defer context.AfterFunc(soft, func() { time.AfterFunc(d.drain, cancel) })()
	g.Go(func() error { return d.health.Run(soft, d.checks()...) })
	g.Go(func() error { return d.forget(soft) })
	g.Go(func() error { return d.live.follow(soft) })
	g.Go(func() error { return d.vetAgain(soft) })
	g.Go(func() error { return d.pipeline(soft, hard) })
	err := g.Wait()
	closing, done := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer done()
	if late := d.close(closing); late != nil {
		c.Log.Warn("something was left behind", "error", late.Error())
	}
	return err
}

// vetAgain ends with an error of kind Invalid when Redis begins to throw away events: somebody
// changed its settings, or another server with other settings took its place.
func (d *Deps) vetAgain(ctx context.Context) error {
	tick := time.NewTicker(vetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := d.vetted(ctx); fault.KindOf(err) == fault.Invalid { // that it is away is told by who stores
			return err
		}
	}
}

func (d *Deps) close(ctx context.Context) error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i](ctx))
	}
	return errors.Join(errs...)
}

func (d *Deps) checks() []health.Check {
	return []health.Check{
		{Name: "redis", Probe: func(ctx context.Context) error {
			if err := d.redis.State(); err != nil {
				return err
			}
			return d.ping(ctx)
		}},
		{Name: "proxy", Probe: func(context.Context) error {
			if err := d.out.proxies.Ready(); err != nil {
				return err
			}
			return d.changes.Ready()
		}},
	}
}
