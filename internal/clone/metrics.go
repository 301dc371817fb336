package clone

import "github.com/prometheus/client_golang/prometheus"

// serverMetrics are the figures of a server.
type serverMetrics struct {
	changes, expired, snapshots, cut, unsaved prometheus.Counter
	bad                                       *prometheus.CounterVec
	keys, sequence                            prometheus.Gauge
}

func newServerMetrics(r prometheus.Registerer) *serverMetrics {
	m := &serverMetrics{
		changes:   counter("eventspine_clone_changes_total", "changes that were made and published"),
		expired:   counter("eventspine_clone_expired_values_total", "values deleted because their time was over"),
		snapshots: counter("eventspine_clone_snapshots_total", "snapshots sent to clients"),
		cut:       counter("eventspine_clone_unfinished_snapshots_total", "snapshots that their client did not take to the end"),
		unsaved:   counter("eventspine_clone_unsaved_changes_total", "changes that were refused because the state file could not be written"),
		bad:       reasons("eventspine_clone_bad_messages_total", "requests and changes that were refused, by what is wrong with them"),
		keys:      gauge("eventspine_clone_keys_count", "keys of the map"),
		sequence:  gauge("eventspine_clone_sequence_count", "number of the last change"),
	}
	if r != nil {
		r.MustRegister(m.changes, m.expired, m.snapshots, m.cut, m.unsaved, m.bad, m.keys, m.sequence)
	}
	return m
}

// clientMetrics are the figures of a client.
type clientMetrics struct {
	updates, snapshots, failed prometheus.Counter
	bad                        *prometheus.CounterVec
}

func newClientMetrics(r prometheus.Registerer) *clientMetrics {
	m := &clientMetrics{
		updates:   counter("eventspine_clone_updates_total", "updates of the map that came from its server"),
		snapshots: counter("eventspine_clone_client_snapshots_total", "snapshots of the map that came from its server; more than one means that updates were missed"),
		failed:    counter("eventspine_clone_client_snapshot_failures_total", "snapshots that were asked for and did not come"),
		bad:       reasons("eventspine_clone_client_bad_messages_total", "messages from the server that cannot be read, by what is wrong with them"),
	}
	if r != nil {
		r.MustRegister(m.updates, m.snapshots, m.failed, m.bad)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

func reasons(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"reason"})
}
