package proxy

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

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

// buffer collects log lines from several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a proxy that a test started; stop ends it and gives Run's result.
type running struct {
	*Deps
	log  *buffer
	stop func() error
}

func start(t testing.TB, change func(*Config)) *running {
	t.Helper()
	log := &buffer{}
	c := DefaultConfig()
	c.XSubBind, c.XPubBind, c.Health, c.Metrics = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "127.0.0.1:0"
	c.ControlBind = "tcp://127.0.0.1:0"
	c.CloneSnapshot, c.CloneUpdates, c.CloneChanges = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"
	c.Log = slog.New(slog.NewJSONHandler(log, nil))
	if change != nil {
		change(&c)
	}
	d, err := Open(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c, d) }()
	var once sync.Once
	var result error
	r := &running{d, log, func() error {
		once.Do(func() { cancel(); result = <-ended })
		return result
	}}
	t.Cleanup(func() { _ = r.stop() })
	return r
}

func socket(t testing.TB, typ zmq.Type, endpoint string, o zmq.Options, topics ...string) *zmq.Socket {
	t.Helper()
	s := zmq.New(typ, o)
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	for _, topic := range topics {
		if err := s.Subscribe(topic); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitRoute publishes on topic until one message of it comes through.
func awaitRoute(t testing.TB, pub, sub *zmq.Socket, topic string) {
	t.Helper()
	testkit.Eventually(t, patience, func() bool {
		if err := pub.TrySend(zmq.Msg{[]byte(topic + " {}")}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err := sub.Recv(ctx)
		return err == nil
	}, "a message of "+topic+" comes through")
	for { // what was sent while waiting
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := sub.Recv(ctx)
		cancel()
		if err != nil {
			return
		}
	}
}
