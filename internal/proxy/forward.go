package proxy

import (
	"bytes"
	"context"

	"eventspine/internal/fanout"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// source and sink are the two ends of a pump: sockets, or their stand-ins in tests.
type (
	source interface {
		Recv(context.Context) (zmq.Msg, error)
	}
	sink interface{ TrySend(zmq.Msg) error }
)

// pump moves the good messages of publishers to the subscribers until from ends.
func pump(ctx context.Context, from source, to sink, m *metrics, log *quiet.Logger) error {
	for {
		msg, err := from.Recv(ctx)
		if err != nil {
			return err
		}
		if reason := problem(msg); reason != "" {
			m.bad.WithLabelValues(reason).Inc()
			log.Warn("malformed message from a publisher", "reason", reason, "frames", len(msg))
			continue
		}
		if err := to.TrySend(msg); err != nil {
			return err
		}
		m.forwarded.Inc()
	}
}

// problem says which part of topic, space, body a message lacks; "" for a good one.
func problem(m zmq.Msg) string {
	if len(m) != 1 {
		return "frames"
	}
	switch i := bytes.IndexByte(m[0], ' '); {
	case i == 0 || len(m[0]) == 0:
		return "topic"
	case i < 0 || i == len(m[0])-1:
		return "body"
	}
	return ""
}

// ends is the socket of the subscribers.
type ends interface {
	source
	sink
}

// subscriptions carries first subscriptions and last unsubscriptions up to the publishers, and
// answers those that ask whether all before them are in effect.
func subscriptions(ctx context.Context, subscribers ends, publishers sink) error {
	for {
		msg, err := subscribers.Recv(ctx)
		if err != nil {
			return err
		}
		answer, probe := fanout.Welcome(msg)
		switch {
		case answer != nil:
			err = subscribers.TrySend(answer)
		case !probe:
			err = publishers.TrySend(msg)
		}
		if err != nil {
			return err
		}
	}
}
