package bridge

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	received    prometheus.Counter
	malformed   prometheus.Counter
	redelivered prometheus.Counter
	nobody      prometheus.Counter
	queued      prometheus.Counter
	revoked     prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		received: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_received_events_total",
			Help: "Events taken from the proxies or the journal."}),
		malformed: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_malformed_events_total",
			Help: "Messages skipped because they hold no stored event."}),
		redelivered: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_redelivered_events_total",
			Help: "Events not pushed because they were stored a second time, after Redis had lost them; syncs give them."}),
		nobody: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_absent_user_events_total",
			Help: "Events whose user was not connected to this bridge."}),
		revoked: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_revoked_connections_total",
			Help: "Connections closed because their token was revoked."}),
		queued: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_queued_events_total",
			Help: "Events queued for connections; one event counts once for each connection."}),
	}
}
