package fanout

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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
	queueBytes    = 64 << 20
	linger        = 5 * time.Second
	redial        = 5 * time.Second // at most
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
	sockets []*zmq.Socket // one per proxy; XPUB, which sees what the proxy asks for
	route   *route
	log     *quiet.Logger
	wg      sync.WaitGroup
}

// NewPublisher connects to the proxies in the background: none of them has to be there yet.
// Errors are of kind Invalid.
func NewPublisher(o Options) (*Publisher, error) {
	const op = "open publisher"
	if len(o.Endpoints) == 0 {
		return nil, fault.Errorf(op, fault.Invalid, "no proxy endpoint is given")
	}
	settings := withDefaults(o.ZMQ, o.Log)
	p := &Publisher{log: quiet.New(o.Log, time.Second), route: newRoute(o.Endpoints, settings.ReconnectMax)}
	for i, endpoint := range o.Endpoints {
		socket := zmq.New(zmq.XPub, settings)
		p.sockets = append(p.sockets, socket)
		p.wg.Go(func() { p.listen(i, socket) })
		if err := socket.Connect(endpoint); err != nil {
			_ = p.Close(context.Background()) // nothing was published
			return nil, fault.E(op, fault.Invalid, err)
		}
	}
	registerPublisher(o.Metrics, p)
	return p, nil
}

// listen notes when the proxy with index i asks for everything, and when it is gone, until
// the socket is closed. What is published before a proxy asked for it goes nowhere.
func (p *Publisher) listen(i int, socket *zmq.Socket) {
	for {
		m, err := socket.Recv(context.Background())
		if err != nil {
			return
		}
		if len(m) == 1 && len(m[0]) == 1 && m[0][0] <= 1 {
			p.route.set(i, m[0][0] == 1)
		}
	}
}

// Publish sends one message to the subscribers of topic, through every proxy, and never
// waits: what a proxy's full queue drops is counted, and subscribers see the gap. json is
// copied.
func (p *Publisher) Publish(topic string, json []byte) { p.PublishAll(Message{topic, json}) }

// PublishAll is Publish of each, in order, in fewer and larger writes.
func (p *Publisher) PublishAll(all ...Message) {
	batch := make([]zmq.Msg, len(all))
	for i, m := range all {
		frame := make([]byte, 0, len(m.Topic)+1+len(m.Body))
		batch[i] = zmq.Msg{append(append(append(frame, m.Topic...), ' '), m.Body...)}
	}
	for _, s := range p.sockets {
		for left := batch; len(left) > 0; {
			n, err := s.TrySendAll(left)
			if left = left[n:]; err != nil {
				p.log.Warn("message not published", "error", err.Error(), "bytes", len(left[0][0]))
				left = left[1:]
			}
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

// Ready is nil when what is published gets through: every proxy has asked for everything, or
// one has and the others did not within some seconds and count as away. Otherwise the error, of
// kind Unavailable, names the proxies that are missing.
func (p *Publisher) Ready() error { return p.route.ready() }

// Wait waits until it is ready. It gives the reason why it was not when ctx ended.
func (p *Publisher) Wait(ctx context.Context) error { return p.route.wait(ctx) }

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
	p.wg.Wait()
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
	if o.RcvBytes == 0 {
		o.RcvBytes = queueBytes
	}
	if o.Linger == 0 {
		o.Linger = linger
	}
	if o.ReconnectMax == 0 {
		o.ReconnectMax = redial
	}
	if o.Monitor == nil && log != nil {
		o.Monitor = zmq.LogMonitor(log)
	}
	return o
}
