package maintain

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	elected, missing, repeated, checked, waiting, checkedAt, seconds prometheus.Gauge
	deleted                                                          prometheus.Counter
	failed                                                           *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_maintain_" + name, Help: help})
	}
	m := &metrics{
		elected:   gauge("elected", "1 while this process does the maintenance for all indexers."),
		missing:   gauge("missing_events", "Events of the journal that the last comparison did not find in the index."),
		repeated:  gauge("repeated_documents", "Documents beyond the first with the same number that the last comparison found."),
		checked:   gauge("compared_events", "Events that the last comparison compared."),
		waiting:   gauge("waiting_events", "Events that no indexer had brought into the index at the last comparison."),
		checkedAt: gauge("compared_timestamp_seconds", "When the last comparison was, in seconds since the Unix epoch; 0: none yet by this process."),
		seconds:   gauge("compare_seconds", "How long the last comparison took."),
		deleted:   prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_maintain_deleted_indices_total", Help: "Daily indices deleted for their age."}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_maintain_failures_total",
			Help: "Tasks of maintenance that failed, by task."}, []string{"task"}),
	}
	if r != nil {
		r.MustRegister(m.elected, m.missing, m.repeated, m.checked, m.waiting, m.checkedAt, m.seconds, m.deleted, m.failed)
	}
	return m
}

func (m *metrics) compared(r *Report, took time.Duration) {
	all, waiting := r.Sum(), uint64(0)
	for _, p := range r.Partitions {
		waiting += p.Waiting
	}
	m.missing.Set(float64(all.Missing - all.Repaired))
	m.repeated.Set(float64(all.Repeated))
	m.checked.Set(float64(all.Journal))
	m.waiting.Set(float64(waiting))
	m.checkedAt.SetToCurrentTime()
	m.seconds.Set(took.Seconds())
}

// resign leaves what there is to say to the process that is elected next.
func (m *metrics) resign() {
	for _, g := range []prometheus.Gauge{m.elected, m.missing, m.repeated, m.checked, m.waiting, m.checkedAt, m.seconds} {
		g.Set(0)
	}
}
