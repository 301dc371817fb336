package ingest

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/event"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second // no test waits longer for anything

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func listen(t testing.TB, o ReceiverOptions) *Receiver {
	t.Helper()
	r, err := Listen(within(t), "tcp://127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

// send opens a Sender to the endpoints and waits until all of them are connected.
func send(t testing.TB, o SenderOptions) *Sender {
	t.Helper()
	if o.Source == "" {
		o.Source, o.Partitions = "api-1", 16
	}
	o.ZMQ.ReconnectMin = 5 * time.Millisecond
	s, err := NewSender(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	testkit.Eventually(t, patience, func() bool { return s.Workers() == len(o.Endpoints) }, "all workers connected")
	return s
}

func mustEvent(t testing.TB, raw string) event.Event {
	t.Helper()
	e, err := event.Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func pusher(t testing.TB, endpoint string) *zmq.Socket {
	t.Helper()
	s := zmq.New(zmq.Push, zmq.Options{})
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	if err := s.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return s
}
