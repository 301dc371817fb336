package zmq

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second // no test waits longer for anything

// open makes a socket that the test closes.
func open(t testing.TB, typ Type, o Options) *Socket {
	t.Helper()
	if o.Linger == 0 {
		o.Linger = 50 * time.Millisecond
	}
	if o.ReconnectMin == 0 {
		o.ReconnectMin, o.ReconnectMax = 5*time.Millisecond, 50*time.Millisecond
	}
	s := New(typ, o)
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// bound is open and Bind to a free port.
func bound(t testing.TB, typ Type, o Options) (*Socket, string) {
	t.Helper()
	s := open(t, typ, o)
	ep, err := s.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return s, ep
}

// connected is open and Connect, without waiting for the connection.
func connected(t testing.TB, typ Type, o Options, endpoints ...string) *Socket {
	t.Helper()
	s := open(t, typ, o)
	for _, ep := range endpoints {
		if err := s.Connect(ep); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// eventually polls until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("timed out waiting for: %s", what)
		}
	}
}

func peersOf(t testing.TB, n int, sockets ...*Socket) {
	t.Helper()
	for _, s := range sockets {
		eventually(t, fmt.Sprintf("%d peers of %s", n, s.typ), func() bool { return s.Stats().Peers == n })
	}
}

func send(t testing.TB, s *Socket, frames ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Send(ctx, msg(frames...)); err != nil {
		t.Fatalf("send %q: %v", frames, err)
	}
}

func msg(frames ...string) Msg {
	m := make(Msg, len(frames))
	for i, f := range frames {
		m[i] = []byte(f)
	}
	return m
}

func recv(t testing.TB, s *Socket) Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := s.Recv(ctx)
	if err != nil {
		t.Fatalf("recv on %s: %v", s.typ, err)
	}
	return m
}

// expect receives one message and compares it.
func expect(t testing.TB, s *Socket, frames ...string) {
	t.Helper()
	if got, want := fmt.Sprintf("%q", recv(t, s)), fmt.Sprintf("%q", msg(frames...)); got != want {
		t.Fatalf("%s got %s, want %s", s.typ, got, want)
	}
}

// silent checks that nothing is there to receive after everything before has arrived.
func silent(t testing.TB, s *Socket, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if m, err := s.Recv(ctx); err == nil {
		t.Fatalf("%s got %q, want nothing", s.typ, m)
	}
}

// journal is a monitor that remembers.
type journal struct {
	mu     sync.Mutex
	events []Event
}

func (j *journal) note(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
}

func (j *journal) find(k EventKind) (found []Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.events {
		if e.Kind == k {
			found = append(found, e)
		}
	}
	return found
}
