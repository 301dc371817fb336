package indexer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	received, indexed, existing, refused, malformed, retries, lost prometheus.Counter
	batch, seconds                                                 prometheus.Histogram
	lag                                                            prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, q *queue) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_indexer_" + name, Help: help})
	}
	gauge := func(name, help string, value func() int) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "eventspine_indexer_" + name, Help: help}, func() float64 { return float64(value()) })
	}
	m := &metrics{
		received:  counter("received_events_total", "Well-formed events that arrived from the proxies."),
		indexed:   counter("indexed_events_total", "Events that became a new document."),
		existing:  counter("existing_events_total", "Events whose document was there already."),
		refused:   counter("refused_events_total", "Events that Elasticsearch refuses for good."),
		malformed: counter("malformed_events_total", "Messages that hold no stored event."),
		retries:   counter("retries_total", "Bulk requests that had to be repeated in whole or in part."),
		lost:      counter("lost_events_total", "Events left over when the time to drain had passed."),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_indexer_batch_events",
			Help: "Events in one batch.", Buckets: []float64{1, 10, 50, 100, 200, 500, 1000, 2000}}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_indexer_bulk_seconds",
			Help: "Time Elasticsearch took for one batch, failures too.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12)}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_indexer_lag_milliseconds",
			Help: "How long the oldest event of the last batch tried had been in this node."}),
	}
	r.MustRegister(m.received, m.indexed, m.existing, m.refused, m.malformed, m.retries, m.lost, m.batch, m.seconds, m.lag,
		gauge("queue_events", "Events that wait for Elasticsearch in memory.", func() int { n, _ := q.size(); return n }),
		gauge("queue_bytes", "Bytes of events that wait for Elasticsearch in memory.", func() int { _, n := q.size(); return n }))
	return m
}

func (m *metrics) tried(b *batch, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	m.lag.Set(float64(time.Since(b.oldest).Milliseconds()))
}
