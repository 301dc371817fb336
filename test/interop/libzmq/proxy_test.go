package libzmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// device is our proxy with libzmq at every edge: front, back, capture and control.
type device struct {
	t           *testing.T
	front, back string
	steering    *peer
	captured    *peer
	ended       chan error
}

func startDevice(t *testing.T, front, back zmq.Type) *device {
	t.Helper()
	d := &device{t: t, ended: make(chan error, 1)}
	bound := func(typ zmq.Type) (*zmq.Socket, string) {
		s := zmq.New(typ, zmq.Options{})
		t.Cleanup(func() { _ = s.Close(context.Background()) })
		at, err := s.Bind(t.Context(), "tcp://127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return s, at
	}
	f, frontAt := bound(front)
	b, backAt := bound(back)
	capture, captureAt := bound(zmq.Push)
	control, controlAt := bound(zmq.Rep)
	d.front, d.back = frontAt, backAt
	d.captured = start(t, "PULL", "connect", captureAt, nil)
	d.steering = start(t, "REQ", "connect", controlAt, nil)
	eventually(t, "the capture peer", func() bool { return capture.Stats().Peers == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.ended <- zmq.Proxy(ctx, f, b, capture, control) }()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

// steer sends a word from libzmq and gives the answer.
func (d *device) steer(word string) zmq.Msg {
	d.t.Helper()
	d.steering.send(zmq.Msg{[]byte(word)})
	return d.steering.recv()
}

// statistics are messages and bytes from front, to front, from back, to back.
func (d *device) statistics() (n [8]uint64) {
	d.t.Helper()
	m := d.steer(zmq.ProxyStatistics)
	if len(m) != len(n) {
		d.t.Fatalf("the statistics have %d frames", len(m))
	}
	for i, f := range m {
		if len(f) != 8 {
			d.t.Fatalf("frame %d of the statistics has %d bytes", i, len(f))
		}
		n[i] = binary.NativeEndian.Uint64(f)
	}
	return n
}

// steered pauses the proxy and lets pass send what must reach p only when it is resumed. Then it
// ends the proxy.
func (d *device) steered(pass func(), p *peer, want zmq.Msg) {
	d.t.Helper()
	same(d.t, d.steer(zmq.ProxyPause), zmq.Msg{{}})
	pass()
	if a := p.do(order{Do: "recv", Timeout: 300}); !a.Again {
		d.t.Fatalf("a paused proxy let %q through", a.Frames)
	}
	same(d.t, d.steer("NONSENSE"), zmq.Msg{[]byte("UNKNOWN")})
	same(d.t, d.steer(zmq.ProxyResume), zmq.Msg{{}})
	same(d.t, p.recv(), want)
	same(d.t, d.steer(zmq.ProxyTerminate), zmq.Msg{{}})
	if err := <-d.ended; err != nil {
		d.t.Errorf("the proxy ended with %v", err)
	}
}

func TestProxyQueue(t *testing.T) {
	testkit.Pyzmq(t)
	t.Parallel()
	d := startDevice(t, zmq.Router, zmq.Dealer)
	client, server := start(t, "REQ", "connect", d.front, nil), start(t, "REP", "connect", d.back, nil)
	bytesIn := uint64(0)
	for _, m := range shapes() {
		client.send(m)
		same(t, server.recv(), m)
		server.send(m)
		same(t, client.recv(), m)
		bytesIn += uint64(len(bytes.Join(m, nil)))
	}
	n := d.statistics()
	for i := 0; i < len(n); i += 2 {
		if n[i] != uint64(len(shapes())) || n[i+1] < bytesIn {
			t.Errorf("flow %d moved %d messages of %d bytes, want %d of at least %d", i/2, n[i], n[i+1], len(shapes()), bytesIn)
		}
	}
	last := zmq.Msg{[]byte("paused"), []byte("request")}
	d.steered(func() { client.send(last) }, server, last)
}

func TestProxyForwarder(t *testing.T) {
	testkit.Pyzmq(t)
	t.Parallel()
	d := startDevice(t, zmq.XSub, zmq.XPub)
	pub, sub := start(t, "PUB", "connect", d.front, nil), start(t, "SUB", "connect", d.back, nil)
	sub.subscribe("subscribe", "a.")
	eventually(t, "the subscription to travel up", func() bool {
		pub.send(zmq.Msg{[]byte("a.probe")})
		return !sub.do(order{Do: "recv", Timeout: 20}).Again
	})
	for !sub.do(order{Do: "recv", Timeout: 200}).Again { // the other probes
	}
	before := d.statistics()
	for _, m := range []zmq.Msg{{[]byte("b.nobody")}, {[]byte("a.one")}, {[]byte("a.two"), {}, []byte("frames")}} {
		pub.send(m)
	}
	same(t, sub.recv(), zmq.Msg{[]byte("a.one")})
	same(t, sub.recv(), zmq.Msg{[]byte("a.two"), {}, []byte("frames")})
	if n := d.statistics(); n[0]-before[0] != 2 || n[6]-before[6] != 2 || n[4] == 0 || n[2] != n[4] {
		t.Errorf("from %v to %v: two messages are wanted, and every subscription goes up", before, n)
	}
	last := zmq.Msg{[]byte("a.paused")}
	d.steered(func() { pub.send(last) }, sub, last)
}

func TestProxyStreamer(t *testing.T) {
	testkit.Pyzmq(t)
	t.Parallel()
	d := startDevice(t, zmq.Pull, zmq.Push)
	push, pull := start(t, "PUSH", "connect", d.front, nil), start(t, "PULL", "connect", d.back, nil)
	const n = 2000
	push.do(order{Do: "send_many", N: n, Size: 200})
	if got := pull.do(order{Do: "recv_many", N: n}).N; got != n {
		t.Fatalf("%d of %d messages came in order", got, n)
	}
	if got := d.statistics(); got[0] != n || got[6] != n || got[2] != 0 || got[4] != 0 {
		t.Errorf("the statistics are %v", got)
	}
	if got := d.captured.do(order{Do: "recv_many", N: 100}).N; got != 100 {
		t.Errorf("the capture got %d of the first 100 messages in order", got)
	}
	last := zmq.Msg{[]byte("paused"), {}, []byte("frames")}
	d.steered(func() { push.send(last) }, pull, last)
}
