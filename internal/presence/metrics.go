package presence

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	users    prometheus.Gauge
	writes   prometheus.Counter
	failed   prometheus.Counter
	rewrites prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		users: f.NewGauge(prometheus.GaugeOpts{Name: "eventspine_presence_online_users",
			Help: "Users that have a connection to this bridge."}),
		writes: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_presence_writes_total",
			Help: "Entries of users written to Redis."}),
		failed: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_presence_failures_total",
			Help: "Beats and writes that Redis did not take; they are made up for by the next one."}),
		rewrites: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_presence_rewrites_total",
			Help: "Times that Redis did not remember the last beat, so that all users were written again."}),
	}
}
