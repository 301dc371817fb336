// Package status is the control plane's own hop: every service tells how it is, and whoever
// operates the system asks them all.
//
//	service ──Reporter──▶ Majordomo broker ◀──Survey── operator
//
// A service registers with each broker under its name (api) and under its name and instance
// (api/api-1), the first to find any of them, the second to ask each one. The request status
// is answered with a Status in JSON. A broker that is away costs a service nothing.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/fault"
	"eventspine/internal/mdp"
	"eventspine/internal/run"
	"eventspine/internal/zmq"
)

// Request is the body that asks for a Status.
const Request = "status"

const sampleEvery = 5 * time.Second

// Status is how one process of a service is.
type Status struct {
	Service  string             `json:"service"`
	Instance string             `json:"instance"`
	Version  string             `json:"version"`
	Since    time.Time          `json:"since"`
	Queues   map[string]float64 `json:"queues"` // what waits now, by the metric's name without its prefix
	Rates    map[string]float64 `json:"rates"`  // what is counted, per second over the last 5 to 10 seconds
}

// Options say who reports, what, and to whom.
type Options struct {
	Service, Instance string
	Brokers           []string            // endpoints of Majordomo brokers; the service registers with each
	Figures           prometheus.Gatherer // where queues and rates are read
	Log               *slog.Logger
	Heartbeat         time.Duration     // of the registration; default 2.5 s
	Curve             *zmq.CurveOptions // of a client; nil: plain connections
}

// Reporter answers for one process.
type Reporter struct {
	o       Options
	since   time.Time
	figures *figures
	workers []*mdp.Worker
}

// New makes a reporter; Run registers it. An instance or service that is no printable name is
// refused as Invalid.
func New(o Options) (*Reporter, error) {
	r := &Reporter{o: o, since: time.Now(), figures: newFigures(o.Figures)}
	for _, broker := range o.Brokers {
		for _, name := range []string{o.Service, o.Service + "/" + o.Instance} {
			w, err := mdp.NewWorker(mdp.WorkerOptions{Service: name, Endpoint: broker, Heartbeat: o.Heartbeat, Curve: o.Curve, Log: o.Log}, r.handle)
			if err != nil {
				return nil, fault.E("control plane", fault.KindOf(err), err)
			}
			r.workers = append(r.workers, w)
		}
	}
	return r, nil
}

// Run answers until ctx ends. It returns nil after a clean end, and an error of kind Invalid
// for a broker's endpoint that is none.
func (r *Reporter) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range r.workers {
		g.Go(func() error { return w.Run(ctx) })
	}
	g.Go(func() error { return r.figures.watch(ctx) })
	err := g.Wait()
	return fault.E("control plane (ZMQ_CONTROL)", fault.KindOf(err), err)
}

func (r *Reporter) handle(_ context.Context, body zmq.Msg) zmq.Msg {
	if len(body) != 1 || string(body[0]) != Request {
		return refusal(errors.New("send the one frame " + Request))
	}
	queues, rates, err := r.figures.read()
	if err != nil {
		return refusal(err)
	}
	b, err := json.Marshal(Status{Service: r.o.Service, Instance: r.o.Instance, Version: version(), Since: r.since, Queues: queues, Rates: rates})
	if err != nil {
		return refusal(err)
	}
	return zmq.Msg{b}
}

// refusal is the answer to what cannot be answered.
func refusal(err error) zmq.Msg {
	b, err := json.Marshal(map[string]string{"error": err.Error()})
	if err != nil {
		return nil // a string always encodes
	}
	return zmq.Msg{b}
}

// version is the program's release, or the revision it was built from.
func version() string {
	if v := run.Version(); v != run.Unreleased {
		return v
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return info.Main.Version
}
