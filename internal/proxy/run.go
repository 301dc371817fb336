package proxy

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/clone"
	"eventspine/internal/fault"
	"eventspine/internal/health"
	"eventspine/internal/keyring"
	"eventspine/internal/mdp"
	"eventspine/internal/quiet"
	"eventspine/internal/telemetry"
	"eventspine/internal/zmq"
)

const (
	drainTime = 5 * time.Second        // for the subscribers to take what is queued, at the end
	idleTime  = 100 * time.Millisecond // without a message before the publishers count as silent
)

// Deps are the bound sockets that Run serves and closes.
type Deps struct {
	front, back *zmq.Socket
	xsub, xpub  string
	control     *mdp.Broker   // nil: none
	clone       *clone.Server // nil: none
	health      *health.Server
	by          *addressees
	m           *metrics
}

// XSub is where publishers connect, with the actual port.
func (d *Deps) XSub() string { return d.xsub }

// XPub is where subscribers connect, with the actual port.
func (d *Deps) XPub() string { return d.xpub }

// Control is where services register and operators ask, with the actual port; empty: none.
func (d *Deps) Control() string {
	if d.control == nil {
		return ""
	}
	return d.control.Endpoint()
}

// Health is the REQ/REP endpoint that answers PING; empty: none.
func (d *Deps) Health() string { return d.health.ZMQ() }

// Metrics is the host:port of /metrics, /healthz and /readyz; empty: none.
func (d *Deps) Metrics() string { return d.health.HTTP() }

// Alive reports whether the service answers over its own health sockets.
func (d *Deps) Alive(ctx context.Context) error { return d.health.Alive(ctx) }

// Open binds the sockets. Errors are of kind Invalid for a wrong setting and Unavailable for an
// address that is taken.
func Open(ctx context.Context, c Config) (*Deps, error) {
	log := logger(&c)
	if wrong := c.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("open proxy", wrong...)
	}
	reg := telemetry.NewRegistry()
	keys, err := keyring.Open(&c, reg)
	if err != nil {
		return nil, err
	}
	d := &Deps{
		by:    newAddressees(),
		front: zmq.New(zmq.XSub, zmq.Options{RcvHWM: c.RcvHWM, Curve: keys.Server("publishers"), Monitor: zmq.LogMonitor(log)}),
		back: zmq.New(zmq.XPub, zmq.Options{SndHWM: c.SndHWM, SndBytes: int(c.SndBytes), Linger: drainTime,
			Curve: keys.Server("subscribers"), Monitor: zmq.LogMonitor(log)}),
	}
	d.m = newMetrics(reg, d.front, d.back)
	if err := d.front.Subscribe(""); err != nil { // so that a subscription is in effect as soon as it is here
		return nil, d.abandon("", err)
	}
	if d.xsub, err = d.front.Bind(ctx, c.XSubBind); err != nil {
		return nil, d.abandon("ZMQ_PROXY_XSUB_BIND", err)
	}
	if d.xpub, err = d.back.Bind(ctx, c.XPubBind); err != nil {
		return nil, d.abandon("ZMQ_PROXY_XPUB_BIND", err)
	}
	if err := d.openControl(ctx, &c, keys, reg); err != nil {
		return nil, d.abandon("ZMQ_CONTROL_BIND", err)
	}
	if err := d.openClone(ctx, &c, keys, reg); err != nil {
		return nil, d.abandon("", err)
	}
	if d.health, err = health.Listen(ctx, &c.Common, keys, reg); err != nil {
		return nil, d.abandon("", err)
	}
	return d, nil
}

// openControl binds the control plane. Where ZMQ_CONTROL names none, the proxy registers with its own.
func (d *Deps) openControl(ctx context.Context, c *Config, keys *keyring.Ring, reg prometheus.Registerer) (err error) {
	if c.ControlBind == "" {
		return nil
	}
	if d.control, err = mdp.Listen(ctx, c.ControlBind, mdp.BrokerOptions{Curve: keys.Server("control"), Metrics: reg, Log: c.Log}); err != nil {
		return err
	}
	if len(c.Control) == 0 {
		c.Control = []string{d.Control()}
		keys.Own(d.Control())
	}
	return nil
}

func logger(c *Config) *slog.Logger {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// abandon closes what Open has bound and says which setting failed.
func (d *Deps) abandon(setting string, err error) error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = d.front.Close(ended) // nothing went through it
	_ = d.back.Close(ended)
	if d.control != nil {
		_ = d.control.Close()
	}
	if d.clone != nil {
		_ = d.clone.Close()
	}
	if setting == "" {
		return err
	}
	return fault.E("bind "+setting, fault.KindOf(err), err)
}

// Run forwards until ctx ends, then what has arrived already, and closes everything in d. It
// returns nil after a clean drain.
func Run(ctx context.Context, c Config, d *Deps) error {
	log := quiet.New(logger(&c), time.Second)
	g, inner := errgroup.WithContext(ctx)
	g.Go(func() error { return d.health.Run(inner) })
	if d.control != nil {
		g.Go(func() error { return d.control.Run(inner) })
	}
	if d.clone != nil {
		g.Go(func() error { return d.clone.Run(inner) })
	}
	g.Go(func() error { return subscriptions(inner, d.back, d.front, d.by) })
	g.Go(func() error { return pump(inner, d.front, d.back, d.by, d.m, log) })
	err := g.Wait()
	if ctx.Err() != nil {
		err = d.rest(ctx, log)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	for _, s := range []*zmq.Socket{d.front, d.back} {
		if late := s.Close(closing); late != nil {
			logger(&c).Warn("a subscriber did not take what was queued for it", "error", late)
		}
	}
	return err
}

// rest forwards what publishers sent before the end, until they have been silent for a moment.
func (d *Deps) rest(ctx context.Context, log *quiet.Logger) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := pump(limit, untilIdle{d.front}, d.back, d.by, d.m, log)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// untilIdle is a source that ends after a moment without a message.
type untilIdle struct{ source }

// Recv waits for a message for idleTime at most.
func (u untilIdle) Recv(ctx context.Context) (zmq.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, idleTime)
	defer cancel()
	return u.source.Recv(ctx)
}
