package bridge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/auth"
	"eventspine/internal/auth/revoked"
	"eventspine/internal/bridge/replay"
	"eventspine/internal/fanout"
	"eventspine/internal/fanout/byuser"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/journal"
	"eventspine/internal/keyring"
	"eventspine/internal/presence"
	"eventspine/internal/quiet"
	"eventspine/internal/rdb"
	"eventspine/internal/retry"
	"eventspine/internal/socketio"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/telemetry"
)

const (
	restTime   = 2 * time.Second        // for what the proxies sent before the end
	idleTime   = 100 * time.Millisecond // without a message before the proxies count as silent
	drainTime  = 5 * time.Second        // for browsers to take what is queued
	closeTime  = 2 * time.Second        // for requests and sockets at the very end
	headerTime = 5 * time.Second
	idleConn   = time.Minute
	maxHeader  = 16 << 10
)

// Deps are the bound sockets and opened clients that Run serves and closes.
type Deps struct {
	web        net.Listener
	health     *health.Server
	feed       *fanout.Subscriber // followed by events
	events     follower           // nil: Open failed before
	byUser     *byuser.Follower   // nil: all users are followed
	placed     <-chan struct{}    // closed when it is known where events begins; nil with byUser
	journal    *journal.Journal
	hub        *hub.Hub
	tokens     *auth.Verifier
	revoked    *revoked.List
	presence   *presence.Beacon
	proxies    []netip.Prefix // load balancers in front
	m          *metrics
	sockets    *socketio.Server
	replays    *replay.Replayer
	deliverer  *deliverer
	pingRedis  func(context.Context) error
	closeRedis func() error
}

// Addr is the host:port that browsers connect to, with the actual port.
func (d *Deps) Addr() string { return d.web.Addr().String() }

// Health is the REQ/REP endpoint that answers PING; empty: none.
func (d *Deps) Health() string { return d.health.ZMQ() }

// Metrics is the host:port of /metrics, /healthz and /readyz; empty: none.
func (d *Deps) Metrics() string { return d.health.HTTP() }

// Alive reports whether the service answers over its own health sockets.
func (d *Deps) Alive(ctx context.Context) error { return d.health.Alive(ctx) }

// Open binds the sockets. Redis and the proxies need not be there. Errors are of kind Invalid
// for a wrong setting and Unavailable for an address that is taken.
func Open(ctx context.Context, c Config) (_ *Deps, err error) {
	log := logger(&c)
	if wrong := c.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("open bridge", wrong...)
	}
	d := &Deps{}
	d.hub = hub.New(c.UserConnections, c.Connections, hub.Options{Watch: d.watched, PerAddress: c.AddressConnections})
	defer func() {
		if err != nil {
			d.abandon()
		}
	}()
	reg := telemetry.NewRegistry()
	d.m = newMetrics(reg)
	if d.proxies, err = parseProxies(c.TrustedProxies); err != nil {
		return nil, err
	}
	keys, err := keyring.Open(&c, reg)
	if err != nil {
		return nil, err
	}
	if err := d.openRedis(c, reg); err != nil {
		return nil, err
	}
	if err := d.follow(&c, keys, reg); err != nil {
		return nil, err
	}
	quieter := quiet.New(log, time.Second)
	d.replays = replay.New(replay.Options{Journal: d.journal, Partitions: c.Partitions, Window: c.ReplayWindow, Limit: c.ReplayMax,
		Concurrent: c.Replays, Rate: c.ReplayRate, Waiting: c.ReplayWaiting, Wait: c.ReplayWait, Followed: d.followed, Registry: reg, Log: log})
	d.deliverer = &deliverer{users: d.hub, only: c.only(), replays: d.replays, m: d.m, log: quieter}
	if d.sockets, err = d.openSockets(c, reg); err != nil {
		return nil, err
	}
	if d.web, err = new(net.ListenConfig).Listen(ctx, "tcp", c.listen()); err != nil {
		return nil, fault.E("bind BRIDGE_ADDR", fault.Unavailable, err)
	}
	d.health, err = health.Listen(ctx, &c.Common, keys, reg)
	return d, err
}

func logger(c *Config) *slog.Logger {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.Log
}

func (d *Deps) openRedis(c Config, reg prometheus.Registerer) error {
	client, err := rdb.Open(c.RedisURL)
	if err != nil {
		return fault.E("REDIS_URL", fault.KindOf(err), err)
	}
	d.pingRedis = func(ctx context.Context) error { return rdb.Ping(ctx, client) }
	d.closeRedis = client.Close
	d.revoked = revoked.New(client, revoked.Options{Keep: c.JWTMaxLife + c.JWTLeeway, Wait: revokedWait, Registry: reg, Log: c.Log})
	d.presence = presence.NewBeacon(client, d.hub, presence.Options{Instance: c.InstanceID, Timeout: c.PresenceTimeout, Registry: reg, Log: c.Log})
	d.journal = journal.New(client, journal.Options{Partitions: c.Partitions, Observer: true, ReplayWindow: c.ReplayWindow, ReplayMax: c.ReplayMax, Log: c.Log, Metrics: reg})
	return nil
}

func (d *Deps) openSockets(c Config, reg prometheus.Registerer) (*socketio.Server, error) {
	var err error
	if d.tokens, err = auth.NewVerifier(c.Settings, auth.Options{Revoked: d.revoked.Check, Registry: reg, Log: c.Log}); err != nil {
		return nil, err
	}
	return socketio.New(socketio.Options{
		Verify: d.verify,
		Sync:   d.replays.Sync, Recover: d.replays.Recover, Hub: d.hub, Origins: c.Origins,
		PingInterval: c.PingInterval, PingTimeout: c.PingTimeout, HandshakeTimeout: c.HandshakeTimeout, ExpiryWarning: c.TokenWarning,
		QueueMessages: c.QueueMessages, QueueBytes: int(c.QueueBytes),
		HandshakeRate: c.HandshakeRate, PendingPolls: c.PendingPolls, MaxPayload: int(c.MaxPacket), InboundRate: c.InboundRate,
		Registry: reg, Log: c.Log,
	})
}

// abandon closes what Open has opened before it failed.
func (d *Deps) abandon() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if d.sockets != nil {
		d.sockets.Close(ended)
	}
	switch { // nothing was received
	case d.events != nil:
		_ = d.events.Close(ended)
	case d.feed != nil:
		_ = d.feed.Close(ended)
	}
	if d.web != nil {
		_ = d.web.Close()
	}
	if d.closeRedis != nil {
		_ = d.closeRedis()
	}
}

// Run serves until ctx ends, lets what was received go out to the browsers, and closes
// everything in d: BRIDGE_DRAIN and at most 10 s more. It returns nil after a clean end, an error of kind Invalid
// when Redis holds a journal with another number of partitions, and one of kind Overloaded when
// it could not keep up: then start it again.
func Run(ctx context.Context, c Config, d *Deps) error {
	log := logger(&c)
	g, inner := errgroup.WithContext(ctx)
	web := d.server(log)
	g.Go(func() error {
		return d.health.Run(inner, health.Check{Name: "proxy", Probe: func(context.Context) error { return d.events.Ready() }}, health.Check{Name: "redis", Probe: d.pingRedis}, health.Check{Name: "token keys", Probe: d.tokens.Ready}, health.Check{Name: "revocations", Probe: d.revoked.Ready})
	})
	g.Go(func() error {
		if err := web.Serve(d.web); !errors.Is(err, http.ErrServerClosed) {
			return fault.E("serve browsers", fault.Internal, err)
		}
		return nil
	})
	g.Go(func() error { return d.tokens.Run(inner) })
	stopAttending := d.attend(ctx, c.HandshakeTimeout)
	g.Go(func() error { return d.checkJournal(inner, log) })
	g.Go(func() error { return d.feed.Watch(inner, fanout.Snail{Wait: c.SnailWait, Limit: c.SnailLimit}) })
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx)) // beyond the end of ctx
	received := make(chan struct{})
	g.Go(func() error {
		defer close(received)
		return d.receive(serving)
	})
	g.Go(func() error {
		<-inner.Done()
		if ctx.Err() != nil { // asked to end, and not failed
			d.leave(serving, c.Drain)
		}
		stopServing()
		<-received
		d.drain(context.WithoutCancel(ctx), web, stopAttending, log)
		return nil
	})
	return g.Wait()
}

func (d *Deps) server(log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", behindProxies(d.proxies, d.sockets))
	// For a load balancer, which sees this port only: whoever accepts connections is fit for them.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleConn,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// checkJournal waits for Redis and makes sure that both mean the same partitions.
func (d *Deps) checkJournal(ctx context.Context, log *slog.Logger) error {
	told := false
	err := retry.Policy{}.Forever(ctx, d.journal.Ready, func(err error, wait time.Duration) {
		if !told {
			log.Warn("waiting for redis; syncs fail until it is there", "error", err)
		}
		told = true
	})
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err == nil && told {
		log.Info("redis is there")
	}
	return nil
}

// receive delivers until ctx ends, and then what the proxies sent before.
func (d *Deps) receive(ctx context.Context) error {
	d.deliverer.all = d.replays.Everybody(ctx)
	for {
		it, err := d.events.Recv(ctx)
		switch {
		case err == nil:
			d.deliverer.deliver(it)
		case ctx.Err() == nil:
			return fault.E("receive events", fault.KindOf(err), err)
		default:
			if d.hub.Len() > 0 {
				d.rest(context.WithoutCancel(ctx))
			}
			return nil
		}
	}
}

// rest delivers until the proxies have been silent for a moment.
func (d *Deps) rest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	for {
		wait, stop := context.WithTimeout(ctx, idleTime)
		it, err := d.events.Recv(wait)
		stop()
		if err != nil {
			return
		}
		d.deliverer.deliver(it)
	}
}

// drain ends everything, upstream first.
func (d *Deps) drain(ctx context.Context, web *http.Server, stopAttending func(), log *slog.Logger) {
	closing, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := d.events.Close(closing); err != nil {
		log.Warn("the subscription did not end cleanly", "error", err)
	}
	d.sockets.Close(closing)
	stopAttending()
	last, stop := context.WithTimeout(ctx, closeTime)
	defer stop()
	if web.Shutdown(last) != nil {
		_ = web.Close() // a client that would not let go
	}
	if err := d.closeRedis(); err != nil {
		log.Warn("redis client did not close", "error", err)
	}
}
