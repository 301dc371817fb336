package keyring

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{ admitted, refused *prometheus.CounterVec }

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		admitted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_keyring_admitted_peers_total",
			Help: "connections let in because their CURVE key is in CURVE_PEERS, by our socket"}, []string{"socket"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_keyring_refused_peers_total",
			Help: "connections refused because their CURVE key is not in CURVE_PEERS, by our socket"}, []string{"socket"}),
	}
	if r != nil {
		r.MustRegister(m.admitted, m.refused)
	}
	return m
}
