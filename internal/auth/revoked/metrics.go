package revoked

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	listed    *prometheus.GaugeVec
	restored  prometheus.Counter
	malformed prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		listed: f.NewGaugeVec(prometheus.GaugeOpts{Name: "eventspine_auth_revocations",
			Help: "Revocations in force and known here, of a single token or of a user's."}, []string{"of"}),
		restored: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_auth_restored_revocations_total",
			Help: "Revocations that Redis had lost and this process stored again."}),
		malformed: f.NewCounter(prometheus.CounterOpts{Name: "eventspine_auth_malformed_revocations_total",
			Help: "Entries of the list of revocations that make no sense."}),
	}
}

func (m *metrics) size(tokens, users int) {
	m.listed.WithLabelValues("token").Set(float64(tokens))
	m.listed.WithLabelValues("user").Set(float64(users))
}
