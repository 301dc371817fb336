package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	accepted prometheus.Counter
	refused  *prometheus.CounterVec
	panics   prometheus.Counter
	serving  prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eventspine_api_requests_total", Help: "HTTP requests answered, by route, method and status.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "eventspine_api_request_seconds", Help: "Time from a request's header to the end of its answer, by route.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "eventspine_api_events_accepted_total", Help: "Events taken: they are on disk.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eventspine_api_events_refused_total", Help: "Events not taken, by the problem they were answered with.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "eventspine_api_panics_total", Help: "Requests that ended in a panic and were answered with 500.",
		}),
		serving: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "eventspine_api_requests_serving", Help: "Requests being served now.",
		}),
	}
	r.MustRegister(m.requests, m.seconds, m.accepted, m.refused, m.panics, m.serving)
	return m
}

func (m *metrics) answered(route, method string, status int, d time.Duration) {
	m.requests.WithLabelValues(route, knownMethod(method), strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(route).Observe(d.Seconds())
}

// knownMethod keeps the label's values a closed set.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch:
		return method
	}
	return "other"
}

func (m *metrics) refuse(err error) {
	kind, _ := describe(err)
	m.refused.WithLabelValues(kind.Slug).Inc()
}
