package zmq

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
)

// device runs a Proxy between two bound sockets and gives the endpoints of its edges.
func device(t *testing.T, front, back Type, capture, control *Socket) (in, out string, ended <-chan error) {
	t.Helper()
	f, in := bound(t, front, Options{})
	b, out := bound(t, back, Options{})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Proxy(ctx, f, b, capture, control) }()
	t.Cleanup(stop)
	return in, out, done
}

func TestQueueDevice(t *testing.T) {
	in, out, _ := device(t, Router, Dealer, nil, nil)
	req, rep := connected(t, Req, Options{}, in), connected(t, Rep, Options{}, out)
	other := connected(t, Req, Options{}, in)
	for i := range 5 {
		send(t, req, fmt.Sprint("q", i))
		send(t, other, fmt.Sprint("o", i))
		for range 2 {
			send(t, rep, "re "+string(recv(t, rep)[0]))
		}
		expect(t, req, fmt.Sprint("re q", i))
		expect(t, other, fmt.Sprint("re o", i))
	}
}

func TestStreamerDeviceWithCapture(t *testing.T) {
	capture, tap := bound(t, Pub, Options{})
	sub := connected(t, Sub, Options{}, tap)
	if err := sub.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	subscriptions(t, capture, 1)
	in, out, _ := device(t, Pull, Push, capture, nil)
	push, pull := connected(t, Push, Options{}, in), connected(t, Pull, Options{}, out)
	for i := range 100 {
		send(t, push, fmt.Sprint(i), "")
	}
	for i := range 100 {
		expect(t, pull, fmt.Sprint(i), "")
		expect(t, sub, fmt.Sprint(i), "")
	}
}

func TestForwarderDeviceWithoutRoomForCapture(t *testing.T) {
	capture := open(t, Push, Options{}) // nobody takes it
	in, out, _ := device(t, XSub, XPub, capture, nil)
	sub, pub := connected(t, Sub, Options{}, out), connected(t, XPub, Options{}, in)
	if err := sub.Subscribe("a"); err != nil {
		t.Fatal(err)
	}
	expect(t, pub, "\x01a")
	send(t, pub, "a", "x")
	expect(t, sub, "a", "x")
	if d := capture.Stats().Dropped; d < 1 {
		t.Errorf("%d copies counted as dropped", d)
	}
}

func TestSteering(t *testing.T) {
	control, ep := bound(t, Rep, Options{})
	boss := connected(t, Req, Options{}, ep)
	in, out, ended := device(t, Pull, Push, nil, control)
	push, pull := connected(t, Push, Options{}, in), connected(t, Pull, Options{}, out)
	order := func(word string) Msg { t.Helper(); send(t, boss, word); return recv(t, boss) }
	statistics := func() (n [8]uint64) {
		t.Helper()
		m := order(ProxyStatistics)
		if len(m) != len(n) {
			t.Fatalf("%d frames", len(m))
		}
		for i := range n {
			n[i] = binary.NativeEndian.Uint64(m[i])
		}
		return n
	}
	send(t, push, "abc", "d")
	expect(t, pull, "abc", "d")
	eventually(t, "the count", func() bool { return statistics() == [8]uint64{1, 4, 0, 0, 0, 0, 1, 4} })
	if m := order(ProxyPause); len(m) != 1 || len(m[0]) != 0 {
		t.Errorf("answer %q", m)
	}
	order(ProxyPause) // twice is once
	send(t, push, "waits")
	silent(t, pull, 30*time.Millisecond)
	order(ProxyResume)
	expect(t, pull, "waits")
	if m := order("DANCE"); string(m[0]) != "UNKNOWN" {
		t.Errorf("answer %q", m)
	}
	order(ProxyTerminate)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestProxyEnds(t *testing.T) {
	front, back := open(t, Router, Options{}), open(t, Dealer, Options{})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := Proxy(ctx, front, back, nil, nil); err != nil {
		t.Error(err)
	}
	for _, c := range [][2]Type{{Req, Rep}, {Push, Push}, {Pull, Pull}, {Rep, Dealer}} {
		if err := Proxy(t.Context(), open(t, c[0], Options{}), open(t, c[1], Options{}), nil, nil); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v", c, err)
		}
	}
	_ = back.Close(t.Context())
	if err := Proxy(t.Context(), front, back, nil, nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a closed socket: %v", err)
	}
}

// One stalled client costs the others nothing; its answers are dropped and counted.
func TestQueueDeviceWithAStalledClient(t *testing.T) {
	front, in := bound(t, Router, Options{SndHWM: 2})
	back, out := bound(t, Dealer, Options{})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { _ = Proxy(ctx, front, back, nil, nil) }()
	server := connected(t, Dealer, Options{}, out)
	stalled := connected(t, Dealer, Options{RcvHWM: 1, Identity: "stalled"}, in)
	good := connected(t, Dealer, Options{Identity: "good"}, in)
	peersOf(t, 2, front)
	peersOf(t, 1, back, stalled, good)
	body := strings.Repeat("x", kib64)
	eventually(t, "drops", func() bool {
		send(t, server, "stalled", body)
		return front.Stats().Dropped > 0
	})
	send(t, server, "nobody", "x")
	send(t, server, "good", "x")
	expect(t, good, "x")
}
