package fanout

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/zmq"
)

// stats sums the figures of several sockets.
func stats(sockets []*zmq.Socket, pick func(zmq.Stats) float64) func() float64 {
	return func() (sum float64) {
		for _, s := range sockets {
			sum += pick(s.Stats())
		}
		return sum
	}
}

func registerPublisher(r prometheus.Registerer, p *Publisher) {
	if r == nil {
		return
	}
	sockets := p.sockets
	r.MustRegister(
		counterFunc("eventspine_fanout_published_messages_total", "messages put into the queue of a proxy",
			stats(sockets, func(s zmq.Stats) float64 { return float64(s.Sent) })),
		counterFunc("eventspine_fanout_publish_dropped_messages_total", "messages dropped because the queue of a proxy was full",
			stats(sockets, func(s zmq.Stats) float64 { return float64(s.Dropped) })),
		gaugeFunc("eventspine_fanout_publish_queued_messages_count", "messages waiting for a proxy",
			stats(sockets, func(s zmq.Stats) float64 { return float64(s.Queued) })),
		gaugeFunc("eventspine_fanout_publish_proxies_count", "connected proxies that events are published to",
			stats(sockets, func(s zmq.Stats) float64 { return float64(s.Peers) })),
		gaugeFunc("eventspine_fanout_publish_synced_proxies_count", "proxies that have asked for everything that is published",
			func() float64 { return float64(p.route.opened()) }))
}

type subscriberMetrics struct {
	received prometheus.Counter
	bad      *prometheus.CounterVec
}

func newSubscriberMetrics(r prometheus.Registerer, sub *Subscriber) *subscriberMetrics {
	sockets := []*zmq.Socket{sub.socket}
	m := &subscriberMetrics{
		received: prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_fanout_received_messages_total",
			Help: "good messages received from the proxies, repeats included"}),
		bad: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_fanout_bad_messages_total",
			Help: "messages from the proxies that are not one frame of topic, space, JSON, by reason"}, []string{"reason"}),
	}
	if r != nil {
		r.MustRegister(m.received, m.bad,
			gaugeFunc("eventspine_fanout_subscribe_queued_messages_count", "messages received and not yet taken",
				stats(sockets, func(s zmq.Stats) float64 { return float64(s.Unread) })),
			gaugeFunc("eventspine_fanout_subscribe_proxies_count", "connected proxies that events are received from",
				stats(sockets, func(s zmq.Stats) float64 { return float64(s.Peers) })),
			gaugeFunc("eventspine_fanout_subscribe_synced_proxies_count", "proxies where every subscription is known to be in effect",
				func() float64 { return float64(sub.sync.route.opened()) }),
			gaugeFunc("eventspine_fanout_subscribe_behind_seconds", "how long this subscriber has not kept up; past a limit it ends itself",
				func() float64 { return time.Duration(sub.behind.Load()).Seconds() }))
	}
	return m
}

type followerMetrics struct {
	gaps, refilled, lost, unfinished, repeats, postponed, failures prometheus.Counter
}

func newFollowerMetrics(r prometheus.Registerer, f *Follower) *followerMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_fanout_" + name + "_total", Help: help})
	}
	m := &followerMetrics{
		gaps:       counter("gaps", "holes in the events of a partition that did not close by themselves"),
		refilled:   counter("refilled_events", "events that did not come from a proxy and were read from the journal"),
		lost:       counter("lost_events", "events that came neither from a proxy nor were in the journal any more; of a follower of deliverable events, at least so many"),
		unfinished: counter("unfinished_events", "events of an epoch that ended, as Redis lost data, before they came; the apis send them again"),
		repeats:    counter("repeated_events", "events dropped because they came before, from another proxy or a worker that published again"),
		postponed:  counter("postponed_events", "events let go because too much waited for a hole to be filled; they are read from the journal"),
		failures:   counter("refill_failures", "tries to read missing events from the journal that failed"),
	}
	if r != nil {
		r.MustRegister(m.gaps, m.refilled, m.lost, m.unfinished, m.repeats, m.postponed, m.failures,
			gaugeFunc("eventspine_fanout_unplaced_partitions_count", "partitions of which it is not known yet where to begin",
				func() float64 { return float64(f.unplaced.Load()) }))
	}
	return m
}

func counterFunc(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read)
}

func gaugeFunc(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
}
