package byuser

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	gaps, refilled, lost, repeats, strangers, bad, looks, failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer, users func() float64) *metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "eventspine_fanout_user_" + name, Help: help})
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "eventspine_fanout_user_lanes", Help: "users whose events are followed"}, users)
	return &metrics{
		gaps:      counter("gaps_total", "holes in one user's events that were filled from the journal"),
		refilled:  counter("refilled_events_total", "events read from the journal because the wire had lost them"),
		lost:      counter("lost_events_total", "holes that the journal's replay window could not fill any more"),
		repeats:   counter("repeated_events_total", "events that came more than once"),
		strangers: counter("stranger_events_total", "events of users who had left"),
		bad:       counter("bad_messages_total", "messages from the proxies that hold no stored event, or a mark that cannot be read"),
		looks:     counter("looks_total", "readings of the newest numbers of a partition's users"),
		failures:  counter("failures_total", "readings of the journal that failed and were repeated"),
	}
}
