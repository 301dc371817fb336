package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

// Bounds of one batch message, so that no message holds a worker up for long.
const (
	MaxBatchEvents = 512
	MaxBatchBytes  = 1 << 20 // of events; one event alone may be larger
)

// SenderOptions are a Sender's settings.
type SenderOptions struct {
	Endpoints  []string // one per worker
	Source     string   // this process; 1 to 128 bytes of printable ASCII without spaces
	Partitions int      // the journal's partition count
	ZMQ        zmq.Options
	Log        *slog.Logger          // nil: none
	Metrics    prometheus.Registerer // nil: none
}

// Sender pushes events to the workers and never waits. Safe for concurrent use.
type Sender struct {
	socket     *zmq.Socket
	source     string
	partitions int
	m          *sendMetrics
}

// NewSender connects to the workers in the background: none of them has to be there yet.
// Errors are of kind Invalid and name the wrong setting.
func NewSender(o SenderOptions) (*Sender, error) {
	if err := checkSender(o.Endpoints, o.Partitions, o.Source); err != nil {
		return nil, fault.E("open sender", fault.Invalid, err)
	}
	socket, err := connect(o.Endpoints, o.ZMQ, o.Log)
	if err != nil {
		return nil, fault.E("open sender", fault.Invalid, err)
	}
	return &Sender{socket, o.Source, o.Partitions, newSendMetrics(o.Metrics, socket)}, nil
}

func checkSender(endpoints []string, partitions int, source string) error {
	if len(endpoints) == 0 {
		return errors.New("no worker endpoint is given")
	}
	if partitions < 1 || partitions > maxPartition {
		return fmt.Errorf("the partition count is %d; 1 to %d are possible", partitions, maxPartition)
	}
	return checkSource(source)
}

// connect makes the PUSH socket.
func connect(endpoints []string, o zmq.Options, log *slog.Logger) (*zmq.Socket, error) {
	if o.Monitor == nil && log != nil {
		o.Monitor = zmq.LogMonitor(log)
	}
	socket := zmq.New(zmq.Push, o)
	for _, endpoint := range endpoints {
		if err := socket.Connect(endpoint); err != nil {
			_ = socket.Close(context.Background()) // nothing was sent
			return nil, err
		}
	}
	return socket, nil
}

// TrySend puts the events into the send queues of the workers that own their partitions. The
// result has an error per event: nil when it is in the queue, Overloaded when the queue is full
// or no worker is connected, and then nothing of that event was sent. A user's events keep their
// order; once one of a partition is refused, the later ones of this call are refused too. The
// events' Raw belongs to the Sender afterwards.
func (s *Sender) TrySend(events []event.Event) []error {
	errs := make([]error, len(events))
	if len(events) == 1 {
		p := event.Partition(events[0].UserID, events[0].ID, s.partitions)
		errs[0] = s.push(p, events, []int{0})
		return errs
	}
	groups := make(map[int][]int, s.partitions)
	order := make([]int, 0, s.partitions) // partitions as they first appear
	for i := range events {
		p := event.Partition(events[i].UserID, events[i].ID, s.partitions)
		if len(groups[p]) == 0 {
			order = append(order, p)
		}
		groups[p] = append(groups[p], i)
	}
	for _, p := range order {
		s.group(p, events, groups[p], errs)
	}
	return errs
}

// group sends the events of one partition in as few messages as the bounds allow.
func (s *Sender) group(p int, events []event.Event, members []int, errs []error) {
	var failed error
	for len(members) > 0 {
		n := batchLen(events, members)
		if failed == nil {
			failed = s.push(p, events, members[:n])
		} else {
			s.m.refused.Add(float64(n))
		}
		for _, i := range members[:n] {
			errs[i] = failed
		}
		members = members[n:]
	}
}

// batchLen is how many of the members fit one message; at least one.
func batchLen(events []event.Event, members []int) int {
	size := 0
	for n, i := range members {
		size += len(events[i].Raw)
		if n == MaxBatchEvents || n > 0 && size > MaxBatchBytes {
			return n
		}
	}
	return len(members)
}

// push sends one message. A single event goes without a header.
func (s *Sender) push(p int, events []event.Event, members []int) error {
	m := make(zmq.Msg, 0, len(members)+1)
	if len(members) > 1 {
		m = append(m, Header{Source: s.source}.Append(make([]byte, 0, len(s.source)+8)))
	}
	for _, i := range members {
		m = append(m, events[i].Raw)
	}
	if err := s.socket.TrySendKey(uint64(p), m); err != nil {
		s.m.refused.Add(float64(len(members)))
		return fault.E("send to worker", fault.KindOf(err), err)
	}
	s.m.sent.Add(float64(len(members)))
	s.m.messages.Inc()
	return nil
}

// Workers is the number of connected workers.
func (s *Sender) Workers() int { return s.socket.Stats().Peers }

// Close sends what is queued, for as long as ctx and the socket's Linger allow, and closes. The
// error says how many messages were dropped.
func (s *Sender) Close(ctx context.Context) error { return s.socket.Close(ctx) }
