package wal

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
)

type metrics struct {
	records, bytes, damaged, cut prometheus.Counter
	refused                      *prometheus.CounterVec
	groupSeconds, syncSeconds    prometheus.Histogram
	all                          []prometheus.Collector
	name                         string
}

func newMetrics(r prometheus.Registerer, l *Log) *metrics {
	buckets := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	m := &metrics{
		name:    l.o.Name,
		records: counter("eventspine_wal_records_total", "Records written and synced."),
		bytes:   counter("eventspine_wal_bytes_total", "Bytes of records written and synced."),
		damaged: counter("eventspine_wal_damaged_places_total", "Places where the log was found damaged; the log file names them."),
		cut:     counter("eventspine_wal_cut_bytes_total", "Bytes cut off a torn end when the log was opened."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_wal_refused_records_total",
			Help: "Records not taken: the log is full, the disk has too little room, or it failed."}, []string{"reason"}),
		groupSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_wal_group_seconds",
			Help: "Time to write and sync what arrived together.", Buckets: buckets}),
		syncSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_wal_sync_seconds",
			Help: "Time of one fsync.", Buckets: buckets}),
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	m.all = []prometheus.Collector{m.records, m.bytes, m.damaged, m.cut, m.refused, m.groupSeconds, m.syncSeconds,
		gauge("eventspine_wal_size_bytes", "Bytes of all segments.", func() float64 { return float64(l.Size()) }),
		gauge("eventspine_wal_limit_bytes", "Bytes the segments may have.", func() float64 { return float64(l.o.MaxBytes) }),
		gauge("eventspine_wal_free_bytes", "Bytes the file system has left; -1: unknown.", func() float64 {
			n, err := freeBytes(l.o.Dir)
			if err != nil {
				return -1
			}
			return float64(n)
		}),
	}
	if r != nil {
		prometheus.WrapRegistererWith(prometheus.Labels{"log": m.name}, r).MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range m.all {
		prometheus.WrapRegistererWith(prometheus.Labels{"log": m.name}, r).Unregister(c)
	}
}

func (m *metrics) refuse(err error, refused []*entry) {
	reason := "error"
	switch {
	case errors.Is(err, errFull):
		reason = "full"
	case fault.KindOf(err) == fault.Overloaded:
		reason = "disk"
	}
	n := 0
	for _, e := range refused {
		n += len(e.records)
	}
	m.refused.WithLabelValues(reason).Add(float64(n))
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}
