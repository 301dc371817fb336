package replay

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	syncs      *prometheus.CounterVec
	recoveries *prometheus.CounterVec
	replayed   prometheus.Counter
	waited     prometheus.Histogram
}

func newMetrics(r prometheus.Registerer, waiting func() float64) *metrics {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "eventspine_bridge_waiting_replays",
		Help: "Replays that wait for their turn."}, waiting)
	return &metrics{
		syncs: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_bridge_syncs_total",
			Help: "Syncs answered: complete, incomplete, invalid, early (the bridge does not follow the user yet), busy or failed."}, []string{"outcome"}),
		recoveries: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_bridge_recoveries_total",
			Help: "Connections that asked for what they missed: complete, incomplete, unknown (the position is nobody's, or somebody else's), invalid, early, busy or failed."}, []string{"outcome"}),
		replayed: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_bridge_replayed_events_total",
			Help: "Events given back by syncs and recoveries."}),
		waited: f.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_bridge_replay_wait_seconds",
			Help: "How long replays waited for their turn.", Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20}}),
	}
}
