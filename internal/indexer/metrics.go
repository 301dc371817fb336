package indexer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	received, indexed, existing, refused, unburied, malformed, retries, spooled prometheus.Counter
	batch, seconds                                                              prometheus.Histogram
	lag, diskUsed, blocked                                                      prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_indexer_" + name, Help: help})
	}
	m := &metrics{
		received:  counter("received_events_total", "Well-formed events that arrived from the proxies."),
		indexed:   counter("indexed_events_total", "Events that became a new document."),
		existing:  counter("existing_events_total", "Events whose document was there already."),
		refused:   counter("refused_events_total", "Events that Elasticsearch refuses for good."),
		malformed: counter("malformed_events_total", "Messages that hold no stored event."),
		retries:   counter("retries_total", "Bulk requests that had to be repeated in whole or in part."),
		unburied:  counter("unburied_events_total", "Refused events that are in the local file of dead letters alone."),
		spooled:   counter("spooled_events_total", "Events that were moved to the spool on disk."),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_indexer_batch_events",
			Help: "Events in one batch.", Buckets: []float64{1, 10, 50, 100, 200, 500, 1000, 2000}}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_indexer_bulk_seconds",
			Help: "Time Elasticsearch took for one batch, failures too.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12)}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_indexer_lag_milliseconds",
			Help: "How long the oldest event of the last batch tried had been in this node."}),
		diskUsed: prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_indexer_elasticsearch_disk_used_ratio",
			Help: "Share in use of Elasticsearch's fullest data disk."}),
		blocked: prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_indexer_elasticsearch_blocked_indices",
			Help: "Indices that a full disk made read-only."}),
	}
	r.MustRegister(m.received, m.indexed, m.existing, m.refused, m.unburied, m.malformed, m.retries, m.spooled, m.batch, m.seconds, m.lag, m.diskUsed, m.blocked)
	return m
}

// watch registers what the backlog tells of itself.
func (m *metrics) watch(r prometheus.Registerer, b *backlog) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "eventspine_indexer_" + name, Help: help}, value))
	}
	gauge("queue_events", "Events that wait for Elasticsearch in memory.", func() float64 { n, _, _, _, _ := b.figures(); return float64(n) })
	gauge("queue_bytes", "Bytes of events that wait for Elasticsearch in memory.", func() float64 { _, n, _, _, _ := b.figures(); return float64(n) })
	gauge("spool_events", "Events that wait for Elasticsearch in the spool on disk.", func() float64 { _, _, n, _, _ := b.figures(); return float64(n) })
	gauge("spool_full", "1 while the spool takes no more and events stay in the journal.", func() float64 {
		if _, _, _, full, _ := b.figures(); full {
			return 1
		}
		return 0
	})
	gauge("unconfirmed_seconds", "How long the oldest event that Elasticsearch has not confirmed has been in memory or in a batch.",
		func() float64 { _, _, _, _, age := b.figures(); return age.Seconds() })
}

func (m *metrics) tried(b *batch, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	m.lag.Set(float64(time.Since(b.oldest).Milliseconds()))
}
