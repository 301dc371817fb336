package proxy

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// source and sink are the two ends of a pump: sockets, or their stand-ins in tests.
type (
	source interface {
		Recv(context.Context) (zmq.Msg, error)
	}
	sink interface {
		TrySend(zmq.Msg) error
		TrySendExact(topic string, m zmq.Msg) error
	}
)

// pump moves the good messages of publishers to the subscribers until from ends, to those who want
// one user's events in the form that they take.
func pump(ctx context.Context, from source, to sink, by *addressees, m *metrics, log *quiet.Logger) error {
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
		if topic, wanted := by.topic(msg[0]); wanted {
			if err := to.TrySendExact(topic, addressed(topic, msg[0])); err != nil {
				return err
			}
			m.addressed.Inc()
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

// addressees are the users whose events somebody wants by user, not by type. Safe for concurrent use.
type addressees struct {
	n  atomic.Int64
	mu sync.RWMutex
	of map[string]struct{} // by subscription, such as "_to.42 "
}

func newAddressees() *addressees { return &addressees{of: map[string]struct{}{}} }

// note takes a subscription as XPUB's Recv gives it, and reports whether it is of this sort: nothing
// that publishers have to know.
func (a *addressees) note(msg zmq.Msg) bool {
	if len(msg) != 1 || len(msg[0]) < 1 || !bytes.HasPrefix(msg[0][1:], []byte(event.TopicTo)) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if topic := string(msg[0][1:]); msg[0][0] == 1 {
		a.of[topic] = struct{}{}
	} else {
		delete(a.of, topic)
	}
	a.n.Store(int64(len(a.of)))
	return true
}

// topic is under which name the message goes to those who want its user's events; not wanted, when
// there is none. The user is what comes after the last dot of the message's topic.
func (a *addressees) topic(frame []byte) (topic string, wanted bool) {
	if a.n.Load() == 0 || frame[0] == '_' {
		return "", false
	}
	end := bytes.IndexByte(frame, ' ')
	user := frame[bytes.LastIndexByte(frame[:end], '.')+1 : end+1]
	var room [256]byte
	name := append(append(room[:0], event.TopicTo...), user...)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if _, wanted = a.of[string(name)]; !wanted {
		return "", false
	}
	return string(name), true
}

// addressed is the message under another topic.
func addressed(topic string, frame []byte) zmq.Msg {
	body := frame[bytes.IndexByte(frame, ' ')+1:]
	return zmq.Msg{append(append(make([]byte, 0, len(topic)+len(body)), topic...), body...)}
}

// ends is the socket of the subscribers.
type ends interface {
	source
	sink
}

// subscriptions carries first subscriptions and last unsubscriptions up to the publishers, and
// answers those that ask whether all before them are in effect. Those to one user's events are ours.
func subscriptions(ctx context.Context, subscribers ends, publishers sink, by *addressees) error {
	for {
		msg, err := subscribers.Recv(ctx)
		if err != nil {
			return err
		}
		answer, probe := fanout.Welcome(msg)
		switch {
		case answer != nil:
			err = subscribers.TrySend(answer)
		case !probe && !by.note(msg):
			err = publishers.TrySend(msg)
		}
		if err != nil {
			return err
		}
	}
}
