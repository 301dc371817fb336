package fanout

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// Message is what one topic carried. Body is JSON that nobody has checked.
type Message struct {
	Topic string
	Body  []byte
}

// SubscriberOptions are the settings of a Subscriber.
type SubscriberOptions struct {
	Endpoints []string // XPUB side, one per proxy
	Topics    []string // prefixes; "" is everything. To get one user's topic only, end it with a space
	ZMQ       zmq.Options
	Log       *slog.Logger          // nil: none
	Metrics   prometheus.Registerer // nil: none
}

// Subscriber receives messages from every proxy; with several, each message comes several
// times. Recv is for one goroutine at a time, the rest is safe for concurrent use.
type Subscriber struct {
	socket *zmq.Socket
	limits zmq.Options // as the socket has them
	topics []string    // what is subscribed to
	sync   *syncer
	behind atomic.Int64 // as a time.Duration, for how long it has been; Watch's
	log    *quiet.Logger
	m      *subscriberMetrics
}

// NewSubscriber connects to the proxies in the background: none of them has to be there yet.
// Subscriptions are sent again after every reconnect. Errors are of kind Invalid.
func NewSubscriber(o SubscriberOptions) (*Subscriber, error) {
	const op = "open subscriber"
	if len(o.Endpoints) == 0 {
		return nil, fault.Errorf(op, fault.Invalid, "no proxy endpoint is given")
	}
	limits := withDefaults(o.ZMQ, o.Log)
	s := &Subscriber{limits: limits, topics: o.Topics, sync: newSyncer(newRoute(o.Endpoints, limits.ReconnectMax)), log: quiet.New(o.Log, time.Second)}
	tell := limits.Monitor
	limits.Monitor = func(e zmq.Event) {
		s.sync.watch(e)
		if tell != nil {
			tell(e)
		}
	}
	s.socket = zmq.New(zmq.Sub, limits)
	go s.sync.run(s.socket)
	if err := s.open(o); err != nil {
		_ = s.Close(context.Background()) // nothing was received
		return nil, fault.E(op, fault.Invalid, err)
	}
	s.m = newSubscriberMetrics(o.Metrics, s)
	return s, nil
}

func (s *Subscriber) open(o SubscriberOptions) error {
	for _, topic := range o.Topics {
		if err := s.socket.Subscribe(topic); err != nil {
			return err
		}
	}
	for _, endpoint := range o.Endpoints {
		if err := s.socket.Connect(endpoint); err != nil {
			return err
		}
	}
	return nil
}

// Recv waits for the next good message until ctx ends. Malformed ones are counted, logged at
// a bounded rate without their content, and skipped.
func (s *Subscriber) Recv(ctx context.Context) (Message, error) {
	for {
		frames, err := s.socket.Recv(ctx)
		if err != nil {
			return Message{}, err
		}
		if m, ok := s.message(frames); ok {
			return m, nil
		}
	}
}

// tryRecv is Recv that does not wait: false when nothing has arrived.
func (s *Subscriber) tryRecv() (Message, bool, error) {
	for {
		frames, err := s.socket.TryRecv()
		if err != nil || frames == nil {
			return Message{}, false, err
		}
		if m, ok := s.message(frames); ok {
			return m, true, nil
		}
	}
}

// message takes what was received, and reports whether it is for the caller.
func (s *Subscriber) message(frames zmq.Msg) (Message, bool) {
	m, err := parseMessage(frames)
	switch {
	case err != nil:
		s.refuse(err, "frames", len(frames))
		return m, false
	case strings.HasPrefix(m.Topic, event.TopicSync):
		s.sync.answer(m.Topic)
		return m, false
	}
	s.m.received.Inc()
	return m, true
}

// refuse counts a message that cannot be used, and logs it at a bounded rate.
func (s *Subscriber) refuse(err error, args ...any) {
	s.m.bad.WithLabelValues(reason(err)).Inc()
	s.log.Warn("malformed message from a proxy", append([]any{"reason", err.Error()}, args...)...)
}

var (
	errFrames  = errors.New("it has not exactly one frame")
	errNoTopic = errors.New("it has no topic")
	errNoBody  = errors.New("it has no space after the topic")
	errNoPlace = errors.New("its event has no place in the journal")
	errMark    = errors.New("its mark cannot be read")
)

func reason(err error) string {
	switch {
	case errors.Is(err, errFrames):
		return "frames"
	case errors.Is(err, errNoTopic):
		return "topic"
	case errors.Is(err, errNoPlace):
		return "place"
	case errors.Is(err, errMark):
		return "mark"
	}
	return "body"
}

// parseMessage splits topic and body at the first space; both have to be there. The body is
// not copied.
func parseMessage(frames zmq.Msg) (Message, error) {
	if len(frames) != 1 {
		return Message{}, errFrames
	}
	topic, body, found := bytes.Cut(frames[0], []byte(" "))
	switch {
	case len(topic) == 0:
		return Message{}, errNoTopic
	case !found || len(body) == 0:
		return Message{}, errNoBody
	}
	return Message{Topic: string(topic), Body: body}, nil
}

// Peers is the number of connected proxies.
func (s *Subscriber) Peers() int { return s.socket.Stats().Peers }

// Ready is nil when nothing of the topics is missed any more: the subscriptions are in effect
// at every proxy, or they are at one and the others were not reached within some seconds and
// count as away. Otherwise the error, of kind Unavailable, names the proxies that are missing.
// Only a subscriber that calls Recv becomes ready.
func (s *Subscriber) Ready() error { return s.sync.route.ready() }

// Wait waits until it is ready. It gives the reason why it was not when ctx ended.
func (s *Subscriber) Wait(ctx context.Context) error { return s.sync.route.wait(ctx) }

// Subscribe adds a topic prefix, Unsubscribe takes one back. Both are under way when they return.
func (s *Subscriber) Subscribe(topic string) error { return s.socket.Subscribe(topic) }

// Unsubscribe is the inverse of Subscribe.
func (s *Subscriber) Unsubscribe(topic string) error { return s.socket.Unsubscribe(topic) }

// Confirm waits until everything that was subscribed to before is in effect at every proxy that is
// connected; while none is, it waits for one. It needs Recv to be called meanwhile. The error is
// that of ctx, or of kind Unavailable when the subscriber is closed.
func (s *Subscriber) Confirm(ctx context.Context) error { return s.sync.confirm(ctx) }

// Changes counts the connections to proxies that came or went: what was sent meanwhile may be lost.
func (s *Subscriber) Changes() uint64 {
	s.sync.mu.Lock()
	defer s.sync.mu.Unlock()
	return s.sync.changes
}

// Queued is the number of messages received and not yet taken.
func (s *Subscriber) Queued() int { return int(s.socket.Stats().Unread) }

// Close ends the subscription. What was received and not yet taken is dropped.
func (s *Subscriber) Close(ctx context.Context) error {
	s.sync.close()
	return s.socket.Close(ctx)
}
