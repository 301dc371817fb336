package zmq

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/zmq/transport"
	"eventspine/internal/zmq/zmtp"
)

// The files model_*_test.go hold each socket type against a small model of what libzmq's does:
// rapid plays any sequence of calls, and after each one everything that can be seen from outside
// must be what the model says. Sockets are real, over inproc and in some runs over tcp.

// world is where the sockets of one run live.
type world struct {
	*rapid.T
	net *InprocNetwork
	tcp bool
	n   int
}

func newWorld(t *rapid.T) *world {
	return &world{T: t, net: &InprocNetwork{}, tcp: rapid.IntRange(0, 15).Draw(t, "tcp at 15") == 15}
}

// open makes a socket that the run closes.
func (w *world) open(typ Type, o Options) *Socket {
	o.Inproc, o.Linger = w.net, -1
	o.ReconnectMin, o.ReconnectMax = time.Millisecond, 10*time.Millisecond
	s := New(typ, o)
	w.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// bound is open and Bind.
func (w *world) bound(typ Type, o Options) (*Socket, string) {
	s := w.open(typ, o)
	ep := "tcp://127.0.0.1:0"
	if !w.tcp {
		w.n++
		ep = "inproc://" + strconv.Itoa(w.n)
	}
	ep, err := s.Bind(context.Background(), ep)
	if err != nil {
		w.Fatal(err)
	}
	return s, ep
}

// joined is open and Connect, until both ends have one peer more.
func (w *world) joined(typ Type, o Options, to *Socket, ep string) *Socket {
	s, before := w.open(typ, o), to.Stats().Peers
	if err := s.Connect(ep); err != nil {
		w.Fatal(err)
	}
	w.until("the connection", func() bool { return s.Stats().Peers == 1 && to.Stats().Peers == before+1 })
	return s
}

// until waits for cond, at first without sleeping.
func (w *world) until(what string, cond func() bool) {
	for range 200 {
		if cond() {
			return
		}
		runtime.Gosched()
	}
	tick, end := time.NewTicker(50*time.Microsecond), time.NewTimer(patience)
	defer tick.Stop()
	defer end.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end.C:
			w.Fatalf("timed out waiting for: %s", what)
		}
	}
}

// recv gives the next message, which must be there or on its way.
func (w *world) recv(s *Socket) Msg {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := s.Recv(ctx)
	if err != nil {
		w.Fatalf("recv on %s: %v", s.typ, err)
	}
	return m
}

func (w *world) expect(s *Socket, frames ...string) {
	if got, want := fmt.Sprintf("%q", w.recv(s)), fmt.Sprintf("%q", msg(frames...)); got != want {
		w.Fatalf("%s got %s, want %s", s.typ, got, want)
	}
}

// hand is a peer that reads a message only when it is told to. No message that bulky makes ever
// fits into what is between it and a socket, so that a socket's queues are as long as the
// model says whatever the scheduler does.
type hand struct {
	*zmtp.Conn
	remote string // what the socket calls it
}

// hand connects to the socket at ep, which is in the process, as the first type that may.
func (w *world) hand(to *Socket, ep string) *hand {
	t, addr, err := transport.Resolve(ep, w.net)
	if err != nil {
		w.Fatal(err)
	}
	c, err := t.Dial(context.Background(), addr)
	if err != nil {
		w.Fatal(err)
	}
	before := to.Stats().Peers
	z, err := zmtp.Open(c, zmtp.Config{Type: partners[to.typ][0], Timeout: patience, Limits: Options{}.withDefaults().limits()})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = z.Close() })
	w.until("the hand's connection", func() bool { return to.Stats().Peers == before+1 })
	all := to.Peers()
	return &hand{Conn: z, remote: all[len(all)-1].Remote}
}

var bulk = bytes.Repeat([]byte{'x'}, 136<<10)

// bulky is a message of which nothing can be under way.
func bulky(id string) Msg { return Msg{[]byte(id), bulk} }

// take reads one message and gives its first frame.
func (h *hand) take(w *world) string {
	for {
		m, _, err := h.Next()
		if err != nil {
			w.Fatalf("hand: %v", err)
		}
		if m != nil {
			return string(m[0])
		}
	}
}

// queued is what the socket holds for each peer, by the peer's name.
func queued(s *Socket) map[string]int {
	held := map[string]int{}
	for _, p := range s.Peers() {
		held[p.Remote] = p.Queued
	}
	return held
}
