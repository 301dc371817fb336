package mdp

import (
	"context"
	"errors"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

const (
	ticksPerBeat = 4 // how often a heartbeat interval the broker looks at the clock
	maxFrames    = 64
	closeTime    = time.Second            // for a broker's last messages to leave, at the end
	leaveTime    = 200 * time.Millisecond // for a worker's: its broker may be gone already
)

// plug is a ROUTER or DEALER socket, or its stand-in in tests.
type plug interface {
	Send(context.Context, zmq.Msg) error
	TrySend(zmq.Msg) error
	Recv(context.Context) (zmq.Msg, error)
	Close(context.Context) error
}

// Broker is a bound broker; Run serves.
type Broker struct {
	o        BrokerOptions
	socket   plug
	endpoint string
}

// Listen binds a broker to endpoint, one ROUTER for clients and workers. Errors are of kind
// Invalid for a bad endpoint and Unavailable for one that is taken.
func Listen(ctx context.Context, endpoint string, o BrokerOptions) (*Broker, error) {
	o = o.withDefaults()
	s := zmq.New(zmq.Router, zmq.Options{MaxFrame: int64(o.MaxBody), MaxFrames: maxFrames, RcvBytes: 8 * o.MaxBody,
		SndBytes: 8 * o.MaxBody, Linger: closeTime, Curve: o.Curve, Monitor: zmq.LogMonitor(o.Log)})
	at, err := s.Bind(ctx, endpoint)
	if err != nil {
		return nil, errors.Join(fault.E("listen for the control plane", fault.KindOf(err), err), s.Close(ctx))
	}
	return &Broker{o: o, socket: s, endpoint: at}, nil
}

// Endpoint is where clients and workers connect, with the actual port.
func (b *Broker) Endpoint() string { return b.endpoint }

// Close releases the socket of a Broker that Run never served.
func (b *Broker) Close() error { return b.socket.Close(context.Background()) }

// Run serves until ctx ends, tells the workers and closes the socket. It returns nil after a
// clean end. Call it once.
func (b *Broker) Run(ctx context.Context) error {
	x := newExchange(b.o, b.socket.TrySend)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	in := zmq.Receive(reading, b.socket)
	clock := time.NewTicker(b.o.Heartbeat / ticksPerBeat)
	defer clock.Stop()
	var failed error
	for failed == nil && ctx.Err() == nil {
		select {
		case got := <-in:
			if failed = got.Err; failed == nil && got.Msg != nil {
				x.handle(got.Msg)
			}
		case <-clock.C:
			x.tick()
		}
	}
	stop()
	for range in { // waits for the reader
	}
	x.farewell()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if err := b.socket.Close(closing); err != nil {
		b.o.Log.Debug("a peer of the control plane did not take its last messages", "error", err)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fault.E("control plane", fault.KindOf(failed), failed)
}
