package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
	"eventspine/internal/auth"
	"eventspine/internal/auth/revoked"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/ingest"
	"eventspine/internal/keyring"
	"eventspine/internal/presence"
	"eventspine/internal/profile"
	"eventspine/internal/rdb"
	"eventspine/internal/telemetry"
	"eventspine/internal/wal"
	"eventspine/internal/zmq"
)

// How long a stop may take: drainTime in all, of which requests get requestDrain and
// acknowledgements ackDrain.
const (
	ackDrain     = 2 * time.Second
	ackQueue     = 100_000 // acknowledgements that may wait; a lost one is asked for
	drainTime    = 9500 * time.Millisecond
	requestDrain = 5 * time.Second
)

// Deps are the bound sockets and opened clients that Run owns and closes.
type Deps struct {
	listener net.Listener
	health   *health.Server
	tokens   *auth.Verifier
	revoked  *revoked.List
	outbox   *ingest.Outbox
	acks     *fanout.Subscriber
	publish  *fanout.Publisher
	redis    rdb.Client
	archive  *archive.Archive
	statsd   *telemetry.Statsd
	api      *api
}

// Addr is the host:port of the HTTP API, with the actual port.
func (d *Deps) Addr() string { return d.listener.Addr().String() }

// Health is the REQ/REP endpoint that answers PING; empty: none.
func (d *Deps) Health() string { return d.health.ZMQ() }

// Metrics is the host:port of /metrics, /healthz and /readyz; empty: none.
func (d *Deps) Metrics() string { return d.health.HTTP() }

// Alive reports whether the service answers over its own health sockets.
func (d *Deps) Alive(ctx context.Context) error { return d.health.Alive(ctx) }

// Open opens the write-ahead log, binds the addresses and makes the clients; workers, Redis and
// Elasticsearch need not be there yet. Errors are of kind Invalid for a wrong setting and Unavailable for an address
// that is taken.
func Open(ctx context.Context, c Config) (*Deps, error) {
	c.Log = logger(c)
	if wrong := c.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("open api", wrong...)
	}
	d := &Deps{}
	if err := d.open(ctx, c); err != nil {
		return nil, errors.Join(err, d.abandon())
	}
	return d, nil
}

func (d *Deps) open(ctx context.Context, c Config) (err error) {
	if d.redis, err = rdb.Open(c.RedisURL); err != nil {
		return err
	}
	if d.archive, err = archive.New(archive.Options{URLs: c.ESHosts, Timeout: requestTimeout, Log: c.Log}); err != nil {
		return err
	}
	if d.statsd, err = telemetry.OpenStatsd(c.Statsd); err != nil {
		return err
	}
	reg := telemetry.NewRegistry()
	d.revoked = revoked.New(d.redis, revoked.Options{Keep: c.JWTMaxLife + c.JWTLeeway, Registry: reg, Log: c.Log})
	if d.tokens, err = auth.NewVerifier(c.Settings, auth.Options{Revoked: d.revoked.Check, Registry: reg, Log: c.Log}); err != nil {
		return err
	}
	keys, err := keyring.Open(&c, reg)
	if err != nil {
		return err
	}
	if err := d.openOutbox(c, keys, reg); err != nil {
		return err
	}
	if d.publish, err = fanout.NewPublisher(fanout.Options{Endpoints: c.XSub, ZMQ: zmq.Options{Curve: keys.Client()}, Log: c.Log, Metrics: reg}); err != nil {
		return err
	}
	docs, err := newPages()
	if err != nil {
		return fault.E("render documentation", fault.Internal, err)
	}
	users := profile.New(d.redis)
	d.api = newAPI(c, parts{
		tokens: d.tokens, send: d.outbox, readers: users, writers: users, announce: d.publish, revoker: d.revoked, presence: presence.NewReader(d.redis), search: d.archive,
		statsd: d.statsd, pages: docs, registry: reg, log: c.Log,
	})
	if d.health, err = health.Listen(ctx, &c.Common, keys, reg); err != nil {
		return err
	}
	d.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", c.listen())
	return fault.E("listen on PORT", fault.Unavailable, err)
}

// openOutbox opens the way to the workers and the way their answers take.
func (d *Deps) openOutbox(c Config, keys *keyring.Ring, reg *prometheus.Registry) (err error) {
	minFree := int64(c.WALMinFree)
	if minFree == 0 {
		minFree = -1 // 0 is a default there
	}
	d.outbox, err = ingest.OpenOutbox(ingest.OutboxOptions{
		Endpoints: c.Workers, Source: c.InstanceID, Partitions: c.Partitions, Keep: max(c.WALKeep, 1), Logger: c.Log, Metrics: reg,
		Log: wal.Options{Dir: c.WALDir, Name: "api", MaxBytes: int64(c.WALSize), MinFree: minFree},
		ZMQ: zmq.Options{SndHWM: c.SendQueue, SndBytes: int(c.SendBytes), Linger: -1, Curve: keys.Client()}, // what is unsent stays in the log
	})
	if err != nil {
		return err
	}
	d.acks, err = fanout.NewSubscriber(fanout.SubscriberOptions{
		Endpoints: c.XPub, Topics: []string{event.TopicAck + c.InstanceID + " ", event.TopicMark},
		ZMQ: zmq.Options{RcvHWM: ackQueue, Curve: keys.Client()}, Log: c.Log, Metrics: reg,
	})
	return err
}

// Run serves until ctx ends. Then it takes no new connection, finishes the requests in hand,
// gives the workers 2 s to acknowledge what is under way and closes everything in d, within 10 s.
// What is not acknowledged stays in the write-ahead log and goes out after the next start.
func Run(ctx context.Context, c Config, d *Deps) error {
	log := logger(c)
	srv := &http.Server{
		Handler:           d.api,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // a batch of 5 MiB over a slow line
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	g, inner := errgroup.WithContext(ctx)
	var hop errgroup.Group
	hop.Go(func() error { return d.outbox.Run(sending) })
	hop.Go(func() error { d.listen(sending, log); return nil })
	hop.Go(func() error { d.hurry(sending); return nil })
	g.Go(func() error { return d.health.Run(inner, d.checks()...) })
	g.Go(func() error { return d.tokens.Run(inner) })
	g.Go(func() error { return d.revoked.Run(inner) })
	g.Go(func() error {
		if err := srv.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
			return fault.E("serve HTTP", fault.Internal, err)
		}
		return nil
	})
	var drained error
	g.Go(func() error {
		<-inner.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		stop(closing, srv, log)
		d.drain(closing, log)
		stopSending()
		_ = hop.Wait() // each ends with its context and has no error
		drained = d.close(closing)
		return nil
	})
	err := g.Wait()
	return errors.Join(err, drained)
}

// drain waits a moment for the acknowledgements of what is under way.
func (d *Deps) drain(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, ackDrain)
	defer cancel()
	if left := d.outbox.Drain(ctx); left > 0 {
		log.Info("accepted events go to the workers after the next start", "events", left)
	}
}

// stop finishes the requests in hand and cuts off those that take too long.
func stop(ctx context.Context, srv *http.Server, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, requestDrain)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		log.Warn("requests were cut off", "error", err)
		_ = srv.Close() // the listener is closed already
	}
}

// checks says what the api needs. Events are taken in without any of it: workers and proxies that
// are away are shown and do not take the api out of service, and neither does Elasticsearch, which
// only searching needs.
func (d *Deps) checks() []health.Check {
	return []health.Check{
		{Name: "workers", Optional: true, Probe: func(context.Context) error {
			if d.outbox.Workers() == 0 {
				return fault.Errorf("ready", fault.Unavailable, "no worker is connected; accepted events wait on disk")
			}
			return nil
		}},
		{Name: "token keys", Probe: d.tokens.Ready},
		{Name: "revocations", Probe: d.revoked.Ready, Optional: true}, // until they are read, revoked tokens pass
		{Name: "redis", Probe: func(ctx context.Context) error { return rdb.Ping(ctx, d.redis) }},
		{Name: "elasticsearch", Probe: d.archive.Ping, Optional: true},
		{Name: "proxy", Optional: true, Probe: func(context.Context) error {
			if err := d.publish.Ready(); err != nil {
				return fault.Errorf("ready", fault.Unavailable, "workers learn of changed users late: %w", err)
			}
			if err := d.acks.Ready(); err != nil {
				return fault.Errorf("ready", fault.Unavailable, "acknowledgements do not come through: %w", err)
			}
			return nil
		}},
	}
}

// close ends the clients, the data path first. The sockets that Run serves are closed by those who serve them.
func (d *Deps) close(ctx context.Context) error {
	var errs []error
	if d.outbox != nil {
		errs = append(errs, d.outbox.Close(ctx))
	}
	if d.acks != nil {
		_ = d.acks.Close(ctx) // what was acknowledged and not read is asked for after the next start
	}
	if d.publish != nil {
		_ = d.publish.Close(ctx) // caches also forget by age
	}
	if d.redis != nil {
		errs = append(errs, rdb.Classify("close redis", d.redis.Close()))
	}
	if d.archive != nil {
		d.archive.Close()
	}
	return errors.Join(append(errs, d.statsd.Close())...)
}

// abandon closes what a failed Open has made. The listener is not among it: it comes last.
func (d *Deps) abandon() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel() // nothing was sent yet
	err := d.close(ended)
	if d.health != nil {
		err = errors.Join(err, d.health.Close())
	}
	return err
}

func logger(c Config) *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}
