package chaos

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"eventspine/internal/zmq"
	"eventspine/test/harness"
)

// pair is a publisher, and a subscriber of everything behind a link.
func pair(t *testing.T) (pub, sub *zmq.Socket, l *link) {
	t.Helper()
	pub, sub = zmq.New(zmq.XPub, zmq.Options{}), zmq.New(zmq.Sub, zmq.Options{})
	at, err := pub.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if l, err = newLink(true, 1); err != nil {
		t.Fatal(err)
	}
	l.to(strings.TrimPrefix(at, "tcp://"))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _, _ = sub.Close(ctx), pub.Close(ctx), l.Close()
	})
	if err := sub.Connect("tcp://" + l.addr()); err != nil {
		t.Fatal(err)
	}
	if err := sub.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, pub, 5*time.Second); string(m[0]) != "\x01" {
		t.Fatalf("the publisher got %q", m)
	}
	return pub, sub, l
}

func receive(t *testing.T, s *zmq.Socket, limit time.Duration) zmq.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	m, err := s.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestALinkDropsWholeMessages: what comes through is whole and in order, and what does not is
// counted.
func TestALinkDropsWholeMessages(t *testing.T) {
	const n = 500
	pub, sub, l := pair(t)
	l.drop(0.3)
	for i := range n {
		long := strings.Repeat("x", 100*(i%7))
		if err := pub.Send(t.Context(), zmq.Msg{fmt.Appendf(nil, "%d", i), []byte(long)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := harness.Until(t.Context(), 5*time.Second, func() error {
		if l.seen.Load() < n {
			return fmt.Errorf("%d messages came to the link", l.seen.Load())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	lost := int(l.dropped.Load())
	if lost < n/5 || lost > n*2/5 {
		t.Errorf("%d of %d were dropped, want about three in ten", lost, n)
	}
	before := -1
	for range n - lost {
		m := receive(t, sub, 5*time.Second)
		var i int
		if _, err := fmt.Sscan(string(m[0]), &i); err != nil || len(m) != 2 || len(m[1]) != 100*(i%7) || i <= before {
			t.Fatalf("%q of %d frames after %d", m[0], len(m), before)
		}
		before = i
	}
}

// TestACutLinkHoldsAndABrokenOneCloses: nothing is lost on a link that was cut; after a break
// the subscriber connects anew.
func TestACutLinkHoldsAndABrokenOneCloses(t *testing.T) {
	pub, sub, l := pair(t)
	send := func(text string) {
		t.Helper()
		if err := pub.Send(t.Context(), zmq.Msg{[]byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	l.cut()
	send("held")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if m, err := sub.Recv(ctx); err == nil {
		t.Fatalf("%q came through a cut link", m)
	}
	l.heal()
	if m := receive(t, sub, 5*time.Second); string(m[0]) != "held" {
		t.Fatalf("got %q", m)
	}
	l.sever()
	if m := receive(t, pub, 5*time.Second); string(m[0]) != "\x00" {
		t.Fatalf("the publisher got %q", m)
	}
	l.heal()
	if m := receive(t, pub, 10*time.Second); string(m[0]) != "\x01" {
		t.Fatalf("the publisher got %q", m)
	}
	l.slow(20 * time.Millisecond)
	send("slow")
	if m := receive(t, sub, 5*time.Second); string(m[0]) != "slow" {
		t.Fatalf("got %q", m)
	}
}
