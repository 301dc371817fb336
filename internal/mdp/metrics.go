package mdp

import (
	"github.com/prometheus/client_golang/prometheus"
)

// The values of the reason labels beside errHeader, errCommand, errFrames and errService.
const (
	noRoom     = "queue_full"
	greedy     = "client_limit"
	crowded    = "limit"
	late       = "expired"
	hopeless   = "tries"
	absent     = "client_gone"
	silent     = "silent"
	unreached  = "unreachable"
	left       = "left"
	unexpected = "unexpected"
	invalid    = "invalid"
	reserved   = "reserved"
)

type metrics struct {
	requests  prometheus.Counter
	answers   prometheus.Counter
	repeated  prometheus.Counter
	dropped   *prometheus.CounterVec
	bad       *prometheus.CounterVec
	removed   *prometheus.CounterVec
	refused   prometheus.Counter
	workers   prometheus.Gauge
	waiting   prometheus.Gauge
	inService prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: counter("eventspine_mdp_requests_total", "requests taken from clients"),
		answers:  counter("eventspine_mdp_answers_total", "answers given to clients"),
		repeated: counter("eventspine_mdp_repeated_requests_total", "requests given to another worker because theirs ended"),
		refused:  counter("eventspine_mdp_refused_peers_total", "DISCONNECT commands sent to peers that broke the protocol or are not registered"),
		dropped:  counters("eventspine_mdp_dropped_requests_total", "requests that got no answer, by reason"),
		bad:      counters("eventspine_mdp_bad_messages_total", "messages that are not of the protocol, by what is wrong in them"),
		removed:  counters("eventspine_mdp_removed_workers_total", "workers that are no longer registered, by reason"),
		workers:  gauge("eventspine_mdp_workers_count", "registered workers"),
		waiting:  gauge("eventspine_mdp_queued_requests_count", "requests that wait for a worker"),

		inService: gauge("eventspine_mdp_serving_requests_count", "requests that workers work on"),
	}
	if r != nil {
		r.MustRegister(m.requests, m.answers, m.repeated, m.refused, m.dropped, m.bad, m.removed, m.workers, m.waiting, m.inService)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"reason"})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}
