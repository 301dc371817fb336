// Package telemetry counts and times what a service does: a Prometheus registry a process,
// and the article's two StatsD names beside it.
package telemetry

import (
	"time"

	"github.com/cactus/go-statsd-client/v5/statsd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"eventspine/internal/fault"
)

// NewRegistry is a registry that already holds the Go runtime's and the process's figures.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Statsd sends the article's metrics, zmq.events.received and zmq.events.latency, by UDP. A
// nil *Statsd sends nothing. Safe for concurrent use; it never blocks on the network.
type Statsd struct{ client statsd.Statter }

// OpenStatsd prepares a client for addr (host:port). An empty addr gives nil.
func OpenStatsd(addr string) (*Statsd, error) {
	if addr == "" {
		return nil, nil
	}
	client, err := statsd.NewClientWithConfig(&statsd.ClientConfig{
		Address:       addr,
		Prefix:        "zmq",
		UseBuffered:   true,
		FlushInterval: 300 * time.Millisecond,
		ResInterval:   time.Minute, // a server that moves is found again
	})
	if err != nil {
		return nil, fault.Errorf("open statsd", fault.Invalid, "STATSD_ADDR %q: %w", addr, err)
	}
	return &Statsd{client}, nil
}

// Received counts n events taken in: zmq.events.received.
func (s *Statsd) Received(n int) {
	if s != nil {
		_ = s.client.Inc("events.received", int64(n), 1)
	}
}

// Latency records the time from an event's timestamp to the end of its processing, in
// milliseconds: zmq.events.latency.
func (s *Statsd) Latency(d time.Duration) {
	if s != nil {
		_ = s.client.TimingDuration("events.latency", d, 1)
	}
}

// Close sends what is buffered.
func (s *Statsd) Close() error {
	if s == nil {
		return nil
	}
	return s.client.Close()
}
