package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
	"eventspine/internal/auth"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/ingest"
	"eventspine/internal/keyring"
	"eventspine/internal/profile"
	"eventspine/internal/rdb"
	"eventspine/internal/telemetry"
	"eventspine/internal/zmq"
)

// How long a stop may take: drainTime in all, of which requests get requestDrain.
const (
	drainTime    = 9500 * time.Millisecond
	requestDrain = 5 * time.Second
)

// Deps are the bound sockets and opened clients that Run owns and closes.
type Deps struct {
	listener net.Listener
	health   *health.Server
	sender   *ingest.Sender
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

// Open binds the addresses and makes the clients; workers, Redis and Elasticsearch need not be
// there yet. Errors are of kind Invalid for a wrong setting and Unavailable for an address
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
	tokens, err := auth.NewVerifier(c.JWTSecret, auth.Options{})
	if err != nil {
		return err
	}
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
	keys, err := keyring.Open(&c, reg)
	if err != nil {
		return err
	}
	d.sender, err = ingest.NewSender(ingest.SenderOptions{
		Endpoints: c.Workers, Source: c.InstanceID, Partitions: c.Partitions, Log: c.Log, Metrics: reg,
		ZMQ: zmq.Options{SndHWM: c.SendQueue, SndBytes: int(c.SendBytes), Linger: drainTime, Curve: keys.Client()},
	})
	if err != nil {
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
		tokens: tokens, send: d.sender, readers: users, writers: users, announce: d.publish, search: d.archive,
		statsd: d.statsd, pages: docs, registry: reg, log: c.Log,
	})
	if d.health, err = health.Listen(ctx, &c.Common, keys, reg); err != nil {
		return err
	}
	d.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", c.listen())
	return fault.E("listen on PORT", fault.Unavailable, err)
}

// Run serves until ctx ends. Then it takes no new connection, finishes the requests in hand,
// sends what is queued to the workers and closes everything in d, within 10 s. It returns nil
// after a clean drain, and an error that says how many messages were dropped otherwise.
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
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error { return d.health.Run(inner, d.checks()...) })
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
		drained = d.close(closing)
		return nil
	})
	err := g.Wait()
	return errors.Join(err, drained)
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

// checks says what the api needs. Events are taken in, and users kept, without Elasticsearch:
// only searching needs it, so its absence is shown and does not take the api out of service.
func (d *Deps) checks() []health.Check {
	return []health.Check{
		{Name: "workers", Probe: func(context.Context) error {
			if d.sender.Workers() == 0 {
				return fault.Errorf("ready", fault.Unavailable, "no worker is connected")
			}
			return nil
		}},
		{Name: "redis", Probe: func(ctx context.Context) error { return rdb.Ping(ctx, d.redis) }},
		{Name: "elasticsearch", Probe: d.archive.Ping, Optional: true},
		{Name: "proxy", Optional: true, Probe: func(context.Context) error {
			if err := d.publish.Ready(); err != nil {
				return fault.Errorf("ready", fault.Unavailable, "workers learn of changed users late: %w", err)
			}
			return nil
		}},
	}
}

// close ends the clients, the data path first: what is queued for the workers goes out for as
// long as ctx lasts. The sockets that Run serves are closed by those who serve them.
func (d *Deps) close(ctx context.Context) error {
	var errs []error
	if d.sender != nil {
		errs = append(errs, d.sender.Close(ctx))
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
