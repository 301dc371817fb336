package fanout

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// Defaults of the hop's sockets, where Options.ZMQ says nothing. Bursts of 20,000 events have
// to fit; bytes are bounded by the socket's own default.
const (
	queueMessages = 100_000
	linger        = 5 * time.Second
)

// Options are the settings of a Publisher.
type Options struct {
	Endpoints []string // XSUB side, one per proxy
	ZMQ       zmq.Options
	Log       *slog.Logger          // nil: none
	Metrics   prometheus.Registerer // nil: none
}

// Publisher sends messages to every proxy. Safe for concurrent use.
type Publisher struct {
	sockets []*zmq.Socket // one per proxy
	log     *quiet.Logger
}

// NewPublisher connects to the proxies in the background: none of them has to be there yet.
// Errors are of kind Invalid.
func NewPublisher(o Options) (*Publisher, error) {
	const op = "open publisher"
	if len(o.Endpoints) == 0 {
		return nil, fault.Errorf(op, fault.Invalid, "no proxy endpoint is given")
	}
	p := &Publisher{log: quiet.New(o.Log, time.Second)}
	for _, endpoint := range o.Endpoints {
		socket := zmq.New(zmq.Pub, withDefaults(o.ZMQ, o.Log))
		p.sockets = append(p.sockets, socket)
		if err := socket.Connect(endpoint); err != nil {
			_ = p.Close(context.Background()) // nothing was published
			return nil, fault.E(op, fault.Invalid, err)
		}
	}
	registerPublisher(o.Metrics, p.sockets)
	return p, nil
}

// Publish sends one message to the subscribers of topic, through every proxy, and never
// waits: what a proxy's full queue drops is counted, and subscribers see the gap. json is
// copied.
func (p *Publisher) Publish(topic string, json []byte) {
	frame := make([]byte, 0, len(topic)+1+len(json))
	frame = append(append(append(frame, topic...), ' '), json...)
	for _, s := range p.sockets {
		if err := s.TrySend(zmq.Msg{frame}); err != nil {
			p.log.Warn("message not published", "error", err.Error(), "bytes", len(frame))
		}
	}
}

// UserChanged tells every worker to forget what it has cached about the user.
func (p *Publisher) UserChanged(userID string) {
	p.Publish(event.TopicUser+event.EncodeUserID(userID), []byte("{}"))
}

// Peers is the number of connected proxies.
func (p *Publisher) Peers() int {
	n := 0
	for _, s := range p.sockets {
		n += s.Stats().Peers
	}
	return n
}

// Close sends what is queued, for as long as ctx and the socket's Linger allow, and closes. The
// error says how many messages were dropped.
func (p *Publisher) Close(ctx context.Context) error {
	errs := make(chan error, len(p.sockets)) // one place for each, so that nobody waits
	for _, s := range p.sockets {
		go func() { errs <- s.Close(ctx) }()
	}
	var all []error
	for range p.sockets {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// withDefaults fills in the hop's own queue size, linger and monitor.
func withDefaults(o zmq.Options, log *slog.Logger) zmq.Options {
	if o.SndHWM == 0 {
		o.SndHWM = queueMessages
	}
	if o.RcvHWM == 0 {
		o.RcvHWM = queueMessages
	}
	if o.Linger == 0 {
		o.Linger = linger
	}
	if o.Monitor == nil && log != nil {
		o.Monitor = zmq.LogMonitor(log)
	}
	return o
}
