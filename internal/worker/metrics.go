package worker

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	malformed, repeats, filtered, failures            *prometheus.CounterVec
	derived, stored, republished, unpublished         prometheus.Counter
	retries, abandoned, outputDropped, usersForgotten prometheus.Counter
	unreadable, acks, gaps, lost, misplaced           prometheus.Counter
	ruleSets, refusedRuleSets                         prometheus.Counter
	batch, commit, latency                            prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		malformed:       vector("eventspine_worker_malformed_events_total", "events refused because they break a rule of events, by kind", "kind"),
		repeats:         vector("eventspine_worker_repeated_events_total", "events left out as repeats: within a batch, or known to the journal", "where"),
		filtered:        vector("eventspine_worker_filtered_events_total", "events dropped by a rule", "rule"),
		failures:        vector("eventspine_worker_rule_failures_total", "rules that could not be evaluated on an event and did nothing", "rule"),
		derived:         counter("eventspine_worker_derived_events_total", "events made by rules"),
		stored:          counter("eventspine_worker_stored_events_total", "events stored and published"),
		republished:     counter("eventspine_worker_republished_events_total", "events read back and published after the answer of a commit was lost"),
		unpublished:     counter("eventspine_worker_unpublished_events_total", "events stored but trimmed before they could be published; subscribers see the gap"),
		retries:         counter("eventspine_worker_retries_total", "calls to Redis that were tried again"),
		abandoned:       counter("eventspine_worker_abandoned_events_total", "events taken in and not stored because the worker had to end"),
		outputDropped:   counter("eventspine_worker_output_dropped_events_total", "events that the optional PUSH output could not hand to a sink"),
		usersForgotten:  counter("eventspine_worker_users_forgotten_total", "cached users dropped because their metadata changed"),
		unreadable:      counter("eventspine_worker_unreadable_users_total", "look-ups of users whose stored metadata is no metadata"),
		acks:            counter("eventspine_worker_acks_total", "answers sent to producers with a write-ahead log"),
		gaps:            counter("eventspine_worker_gaps_total", "times that a producer's events came after a gap and were not stored; it sends them again"),
		lost:            counter("eventspine_worker_lost_events_total", "events that a producer accepted and no longer had when they were wanted again"),
		misplaced:       counter("eventspine_worker_misplaced_events_total", "events that came under another partition than theirs, as from a producer with another PARTITIONS"),
		ruleSets:        counter("eventspine_worker_rule_changes_total", "times that another set of live rules, or none, came into force"),
		refusedRuleSets: counter("eventspine_worker_refused_rule_sets_total", "sets of live rules that do not compile and did not come into force"),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_worker_batch_events",
			Help: "events in one commit", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_worker_commit_seconds",
			Help: "time to store and publish one batch, waiting for Redis included", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18)}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_worker_latency_seconds",
			Help: "time from an event's timestamp to its publication", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}),
	}
	if r != nil {
		r.MustRegister(m.malformed, m.repeats, m.filtered, m.failures, m.derived, m.stored, m.republished, m.unpublished,
			m.retries, m.abandoned, m.outputDropped, m.usersForgotten, m.unreadable, m.ruleSets, m.refusedRuleSets,
			m.acks, m.gaps, m.lost, m.misplaced, m.batch, m.commit, m.latency)
	}
	return m
}

func (m *metrics) waiting(r prometheus.Registerer, q *intake) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "eventspine_worker_waiting_events_count",
		Help: "valid events that wait for the next commit"}, func() float64 { return float64(q.len()) }))
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func vector(name, help, label string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
}
