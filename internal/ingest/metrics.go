package ingest

import (
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/zmq"
)

type sendMetrics struct {
	sent, refused, messages prometheus.Counter
}

func newSendMetrics(r prometheus.Registerer, socket *zmq.Socket) *sendMetrics {
	m := &sendMetrics{
		sent:     counter("eventspine_ingest_sent_events_total", "events put into a worker's send queue"),
		refused:  counter("eventspine_ingest_refused_events_total", "events refused because the send queue was full or no worker was there"),
		messages: counter("eventspine_ingest_sent_messages_total", "messages that carried the sent events"),
	}
	if r != nil {
		r.MustRegister(m.sent, m.refused, m.messages,
			gauge("eventspine_ingest_workers_count", "connected workers", func() float64 { return float64(socket.Stats().Peers) }),
			gauge("eventspine_ingest_queued_messages_count", "messages waiting for a worker", func() float64 { return float64(socket.Stats().Queued) }))
	}
	return m
}

type outboxMetrics struct {
	sent, messages, questions, redelivered, missing prometheus.Counter
	rounds                                          *prometheus.CounterVec
}

func newOutboxMetrics(r prometheus.Registerer, b *Outbox) *outboxMetrics {
	m := &outboxMetrics{
		sent:        counter("eventspine_ingest_sent_events_total", "events put into a worker's send queue, again ones included"),
		messages:    counter("eventspine_ingest_sent_messages_total", "messages that carried the sent events"),
		questions:   counter("eventspine_ingest_questions_total", "questions to workers how far a partition is stored"),
		redelivered: counter("eventspine_ingest_redelivered_events_total", "events sent again that had been stored, because the journal lost data"),
		missing:     counter("eventspine_ingest_missing_events_total", "accepted events that are damaged or missing in the write-ahead log"),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_ingest_rounds_total",
			Help: "times that a partition's events were sent again, by reason: gap or epoch"}, []string{"reason"}),
	}
	if r != nil {
		r.MustRegister(m.sent, m.messages, m.questions, m.redelivered, m.missing, m.rounds,
			gauge("eventspine_ingest_unacknowledged_events_count", "events kept on disk and not known to be stored", func() float64 { return float64(b.Unacknowledged()) }),
			gauge("eventspine_ingest_workers_count", "connected workers", func() float64 { return float64(b.Workers()) }),
			gauge("eventspine_ingest_queued_messages_count", "messages waiting for a worker", func() float64 { return float64(b.socket.Stats().Queued) }))
	}
	return m
}

type receiveMetrics struct {
	received, messages prometheus.Counter
	bad                *prometheus.CounterVec
}

func newReceiveMetrics(r prometheus.Registerer, socket *zmq.Socket) *receiveMetrics {
	m := &receiveMetrics{
		received: counter("eventspine_ingest_received_events_total", "events taken in from producers"),
		messages: counter("eventspine_ingest_received_messages_total", "good messages taken in from producers"),
		bad: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_ingest_bad_messages_total",
			Help: "messages that are neither one event nor a batch, by reason"}, []string{"reason"}),
	}
	if r != nil {
		r.MustRegister(m.received, m.messages, m.bad,
			gauge("eventspine_ingest_producers_count", "connected producers", func() float64 { return float64(socket.Stats().Peers) }),
			gauge("eventspine_ingest_waiting_messages_count", "messages received and not yet taken by the worker", func() float64 { return float64(socket.Stats().Unread) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "eventspine_ingest_protocol_errors_total",
				Help: "connections closed because the peer broke the ZeroMQ protocol"}, func() float64 { return float64(socket.Stats().ProtocolErrors) }))
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
}
