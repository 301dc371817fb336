package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/zmq"
)

type metrics struct {
	forwarded prometheus.Counter
	addressed prometheus.Counter
	bad       *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, front, back *zmq.Socket) *metrics {
	m := &metrics{
		forwarded: prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_proxy_forwarded_messages_total",
			Help: "good messages taken from publishers and offered to the subscribers"}),
		addressed: prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_proxy_addressed_messages_total",
			Help: "messages that were given to subscribers of one user's events"}),
		bad: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_proxy_bad_messages_total",
			Help: "messages from publishers that are not one frame of topic, space and body, by reason"}, []string{"reason"}),
	}
	r.MustRegister(m.forwarded, m.addressed, m.bad,
		counter("eventspine_proxy_delivered_messages_total", "messages sent, counted for each subscriber",
			func() float64 { return float64(back.Stats().Sent) }),
		counter("eventspine_proxy_dropped_messages_total", "messages dropped for a subscriber whose queue was full, counted for each subscriber",
			func() float64 { return float64(back.Stats().Dropped) }),
		counter("eventspine_proxy_protocol_errors_total", "connections closed because the peer broke the ZeroMQ protocol",
			func() float64 { return float64(front.Stats().ProtocolErrors + back.Stats().ProtocolErrors) }),
		gauge("eventspine_proxy_publishers_count", "connected publishers", func() float64 { return float64(front.Stats().Peers) }),
		gauge("eventspine_proxy_subscribers_count", "connected subscribers", func() float64 { return float64(back.Stats().Peers) }),
		gauge("eventspine_proxy_queued_messages_count", "messages waiting for subscribers", func() float64 { return float64(back.Stats().Queued) }),
		gauge("eventspine_proxy_queued_bytes", "bytes waiting for subscribers", func() float64 { return float64(back.Stats().QueuedBytes) }),
		gauge("eventspine_proxy_waiting_messages_count", "messages received from publishers and not yet forwarded",
			func() float64 { return float64(front.Stats().Unread) }))
	return m
}

func counter(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read)
}

func gauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
}
