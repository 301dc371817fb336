package ingest

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

// Batch is one good message: the events as the producer sent them, not yet validated. Source
// is empty for an event that came without a header.
type Batch struct {
	Header
	Numbered *Numbered // nil: not out of a log that wants an answer
	Events   [][]byte  // one at least; none for a question, which has Numbered
}

// ReceiverOptions are a Receiver's settings.
type ReceiverOptions struct {
	ZMQ     zmq.Options
	Log     *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
}

// Receiver takes in what producers push. Recv is for one goroutine at a time.
type Receiver struct {
	socket   *zmq.Socket
	endpoint string
	log      *quiet.Logger
	m        *receiveMetrics
}

// Listen binds the PULL socket. Producers that send faster than Recv is called are held back
// by its receive high-water mark. Errors are of kind Unavailable when the address is taken,
// Invalid when it makes no sense.
func Listen(ctx context.Context, endpoint string, o ReceiverOptions) (*Receiver, error) {
	if o.ZMQ.Monitor == nil && o.Log != nil {
		o.ZMQ.Monitor = zmq.LogMonitor(o.Log)
	}
	socket := zmq.New(zmq.Pull, o.ZMQ)
	at, err := socket.Bind(ctx, endpoint)
	if err != nil {
		_ = socket.Close(ctx) // nothing was received
		return nil, err
	}
	return &Receiver{socket, at, quiet.New(o.Log, time.Second), newReceiveMetrics(o.Metrics, socket)}, nil
}

// Endpoint is where the socket is bound, with the actual port.
func (r *Receiver) Endpoint() string { return r.endpoint }

// Recv waits for the next good message until ctx ends. Bad ones are counted, logged at a
// bounded rate without their content, and skipped.
func (r *Receiver) Recv(ctx context.Context) (Batch, error) {
	for {
		m, err := r.socket.Recv(ctx)
		if err != nil {
			return Batch{}, err
		}
		b, err := parseMessage(m)
		if err == nil {
			r.m.messages.Inc()
			r.m.received.Add(float64(len(b.Events)))
			return b, nil
		}
		reason := "header"
		if errors.Is(err, errEmpty) {
			reason = "empty"
		}
		r.m.bad.WithLabelValues(reason).Inc()
		r.log.Warn("bad message on the event pipeline", "reason", err.Error(), "frames", len(m))
	}
}

var (
	errEmpty  = errors.New("a message without an event")
	errFrames = errors.New("several frames without a batch header")

	errTooMany = errors.New("more events than a numbered batch may have")
)

// parseMessage tells a single event from a batch. It does not look at the events.
func parseMessage(m zmq.Msg) (Batch, error) {
	switch {
	case len(m) == 0 || len(m) == 1 && len(m[0]) == 0:
		return Batch{}, errEmpty
	case isNumbered(m[0]):
		return parseNumbered(m)
	case len(m) == 1 && !isHeader(m[0]):
		return Batch{Events: m}, nil
	case !isHeader(m[0]):
		return Batch{}, errFrames
	}
	h, err := ParseHeader(m[0])
	if err != nil {
		return Batch{}, err
	}
	if len(m) == 1 {
		return Batch{}, errEmpty
	}
	return Batch{Header: h, Events: m[1:]}, nil
}

// parseNumbered reads a batch or a question. A batch that is too large for one call of the
// journal's script is refused as a whole: its number would stand for a part of it.
func parseNumbered(m zmq.Msg) (Batch, error) {
	h, err := ParseNumbered(m[0])
	if err != nil {
		return Batch{}, err
	}
	if len(m)-1 > MaxBatchEvents {
		return Batch{}, errTooMany
	}
	return Batch{Header: Header{Source: h.Source, Generation: h.Generation, First: h.First}, Numbered: &h, Events: m[1:]}, nil
}

func isNumbered(frame []byte) bool {
	return len(frame) >= len(magicNumbered) && string(frame[:len(magicNumbered)]) == magicNumbered
}

func isHeader(frame []byte) bool {
	return len(frame) >= len(magic) && string(frame[:len(magic)]) == magic
}

// Close stops taking in. What was received and not yet handed out is lost; the error says how
// many messages that were.
func (r *Receiver) Close(ctx context.Context) error {
	err := r.socket.Close(ctx)
	if n := r.socket.Stats().Discarded; n > 0 {
		err = errors.Join(err, fault.Errorf("close receiver", fault.Unavailable, "%d received messages dropped", n))
	}
	return err
}
