package mdp

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// Defaults of both sides. RFC 7 wants broker and workers to agree on the heartbeat.
const (
	DefaultHeartbeat = 2500 * time.Millisecond
	DefaultLiveness  = 3
)

// BrokerOptions are a broker's settings. Each zero field means its default.
type BrokerOptions struct {
	Heartbeat      time.Duration     // between heartbeats to each worker; default 2.5 s
	Liveness       int               // silent heartbeat intervals after which a worker is gone; default 3
	RequestTimeout time.Duration     // how long a request waits for a worker; default 10 s
	Forget         time.Duration     // how long a service without workers stays in mmi.services; default 1 h
	MaxQueue       int               // requests that wait for one service; default 1,000
	MaxBytes       int               // of all requests that wait; default 64 MiB
	MaxPerClient   int               // requests of one client that wait; default 16
	MaxTries       int               // workers that one request is given to, one after another; default 3
	MaxServices    int               // names known at the same time, beyond those with workers; default 1,000
	MaxWorkers     int               // registered at the same time; default 10,000
	MaxBody        int               // bytes of one frame; default 1 MiB
	Curve          *zmq.CurveOptions // of the server; nil: plain connections
	Metrics        prometheus.Registerer
	Log            *slog.Logger
}

func (o BrokerOptions) withDefaults() BrokerOptions {
	def(&o.Heartbeat, DefaultHeartbeat)
	def(&o.Liveness, DefaultLiveness)
	def(&o.RequestTimeout, 10*time.Second)
	def(&o.Forget, time.Hour)
	def(&o.MaxQueue, 1000)
	def(&o.MaxBytes, 64<<20)
	def(&o.MaxPerClient, 16)
	def(&o.MaxTries, 3)
	def(&o.MaxServices, 1000)
	def(&o.MaxWorkers, 10_000)
	def(&o.MaxBody, 1<<20)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o BrokerOptions) expiry() time.Duration { return time.Duration(o.Liveness) * o.Heartbeat }

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func quietly(log *slog.Logger) *quiet.Logger { return quiet.New(log, time.Second) }
