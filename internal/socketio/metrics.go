package socketio

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	connections *prometheus.GaugeVec
	refused     *prometheus.CounterVec
	ended       *prometheus.CounterVec
	violations  *prometheus.CounterVec
	delivered   prometheus.Counter
	lost        prometheus.Counter
	ignored     prometheus.Counter
	syncs       prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		connections: f.NewGaugeVec(prometheus.GaugeOpts{Name: "eventspine_socketio_connections",
			Help: "Connected clients by transport."}, []string{"transport"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_socketio_refused_requests_total",
			Help: "Requests refused before they reached a session, by reason."}, []string{"reason"}),
		ended: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_socketio_ended_connections_total",
			Help: "Connections ended, by reason."}, []string{"reason"}),
		violations: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_socketio_violations_total",
			Help: "Clients that broke the protocol and were closed, by rule."}, []string{"rule"}),
		delivered: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_socketio_delivered_events_total",
			Help: "Events written to clients' sockets."}),
		lost: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_socketio_unsent_events_total",
			Help: "Events still queued when their connection ended; the client asks for them by sync."}),
		ignored: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_socketio_ignored_events_total",
			Help: "Events of clients that have a name the bridge does not know."}),
		syncs: f.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_socketio_sync_seconds",
			Help: "Time to answer a client's sync.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}),
	}
}
