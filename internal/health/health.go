// Package health answers the questions an operator asks of any service: is it alive
// (PING → PONG over REQ/REP, GET /healthz), can it do its work (GET /readyz, which names
// every dependency that is away), and what are its figures (GET /metrics). It also registers
// the service with the control plane, where `eventspine status` asks.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/keyring"
	"eventspine/internal/status"
	"eventspine/internal/zmq"
)

const (
	probeTimeout = time.Second     // of one check
	closeTimeout = 2 * time.Second // for the last answers when the service ends
	headerLimit  = 8 << 10         // bytes of a request's header
)

// Check names one dependency and how to ask whether it is there. A nil error means ready. An
// Optional dependency that is away is named by /readyz but does not make the service unready.
type Check struct {
	Name     string
	Probe    func(context.Context) error
	Optional bool
}

// Server holds the bound sockets of one service until Run serves them.
type Server struct {
	common *config.Common
	rep    *zmq.Socket
	ping   string
	web    net.Listener
	reg    *prometheus.Registry
	status *status.Reporter // nil: no control plane to register with
	self   *self
}

// Listen binds the health socket and the metrics address of c, so that both are known before
// anything runs. An empty address binds nothing. keys are nil without CURVE. Errors are of kind Unavailable when an
// address is taken, Invalid when it makes no sense.
func Listen(ctx context.Context, c *config.Common, keys *keyring.Ring, reg *prometheus.Registry) (*Server, error) {
	const op = "listen for health checks"
	s := &Server{common: c, reg: reg, self: newSelf(keys)}
	if c.Service != "" && len(c.Control) > 0 {
		var err error
		s.status, err = status.New(status.Options{Service: c.Service, Instance: c.InstanceID, Brokers: c.Control, Figures: reg, Log: c.Log, Curve: keys.Client()})
		if err != nil {
			return nil, err
		}
	}
	if c.Health != "" {
		s.rep = zmq.New(zmq.Rep, zmq.Options{Curve: keys.Server("health"), Monitor: zmq.LogMonitor(c.Log)})
		at, err := s.rep.Bind(ctx, c.Health)
		if err != nil {
			return nil, errors.Join(fault.E(op+" on ZMQ_HEALTH", fault.KindOf(err), err), s.Close())
		}
		s.ping = at
		keys.Own(at)
	}
	if c.Metrics != "" {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Metrics)
		if err != nil {
			return nil, errors.Join(fault.E(op+" on METRICS_ADDR", fault.Unavailable, err), s.Close())
		}
		s.web = l
	}
	return s, nil
}

// ZMQ is the endpoint that answers PING, or empty.
func (s *Server) ZMQ() string { return s.ping }

// HTTP is the host:port of /metrics, /healthz and /readyz, or empty.
func (s *Server) HTTP() string {
	if s.web == nil {
		return ""
	}
	return s.web.Addr().String()
}

// Run serves until ctx ends and then closes the sockets. It returns nil after a clean end.
func (s *Server) Run(ctx context.Context, checks ...Check) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.rep != nil {
		g.Go(func() error { return s.pong(ctx) })
	}
	if s.web != nil {
		g.Go(func() error { return s.serve(ctx, checks) })
	}
	if s.status != nil {
		g.Go(func() error { return s.status.Run(ctx) })
	}
	err := g.Wait()
	s.self.close()
	return err
}

// Close releases the sockets of a Server that Run never served.
func (s *Server) Close() error {
	var errs []error
	s.self.close()
	if s.rep != nil {
		errs = append(errs, s.rep.Close(context.Background()))
	}
	if s.web != nil {
		errs = append(errs, s.web.Close())
	}
	return errors.Join(errs...)
}

func (s *Server) pong(ctx context.Context) error {
	defer func() {
		// The last answer may still be on its way; closing cannot fail in a way that matters.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = s.rep.Close(closing)
	}()
	for {
		m, err := s.rep.Recv(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("health socket: %w", err)
		}
		answer := "PONG"
		if len(m) != 1 || string(m[0]) != "PING" {
			answer = "ERROR send PING"
		}
		if err := s.rep.Send(ctx, zmq.Msg{[]byte(answer)}); err != nil && ctx.Err() == nil {
			s.common.Log.Debug("health answer not sent", "error", err)
		}
	}
}

func (s *Server) serve(ctx context.Context, checks []Check) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, checks) })
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    headerLimit,
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if srv.Shutdown(closing) != nil {
			_ = srv.Close() // a client that would not let go
		}
	}()
	err := srv.Serve(s.web)
	cancel()
	<-ended
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("metrics server: %w", err)
}

// report is the body of /readyz: "ready" or "not ready", and per dependency "ok" or what is wrong.
type report struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks,omitempty"`
}

func ready(w http.ResponseWriter, r *http.Request, checks []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	out := report{Status: "ready", Checks: make(map[string]string, len(checks))}
	status := http.StatusOK
	for i, err := range probe(ctx, checks) {
		c := checks[i]
		if err == nil {
			out.Checks[c.Name] = "ok"
			continue
		}
		out.Checks[c.Name] = err.Error()
		if !c.Optional {
			out.Status, status = "not ready", http.StatusServiceUnavailable
		}
	}
	writeJSON(w, status, out)
}

// probe asks all dependencies at the same time.
func probe(ctx context.Context, checks []Check) []error {
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.Probe(ctx) })
	}
	wg.Wait()
	return errs
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away; nobody is left to tell
}
