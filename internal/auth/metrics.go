package auth

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	refused *prometheus.CounterVec
	reads   *prometheus.CounterVec
	keys    prometheus.Gauge
	skipped prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		refused: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_auth_refused_tokens_total",
			Help: "Tokens refused, by reason: expired, early, claims, issuer, audience, signature, key, malformed, subject, life, revoked or unavailable."}, []string{"reason"}),
		reads: f.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_auth_key_set_reads_total",
			Help: "Reads of JWT_KEYS: ok, or failed, and then the keys that were known stay in force."}, []string{"outcome"}),
		keys: f.NewGauge(prometheus.GaugeOpts{Name: "eventspine_auth_public_keys",
			Help: "Keys of JWT_KEYS in force."}),
		skipped: f.NewGauge(prometheus.GaugeOpts{Name: "eventspine_auth_skipped_keys",
			Help: "Keys of JWT_KEYS left out: of other kinds or uses, too weak, private or broken."}),
	}
}
