package zmq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"eventspine/internal/fault"
)

func subscribe(t testing.TB, s *Socket, topics ...string) {
	t.Helper()
	for _, topic := range topics {
		if err := s.Subscribe(topic); err != nil {
			t.Fatal(err)
		}
	}
}

func unsubscribe(t testing.TB, s *Socket, topic string) {
	t.Helper()
	if err := s.Unsubscribe(topic); err != nil {
		t.Fatal(err)
	}
}

// subscriptions waits until pub's peers want n topics in all.
func subscriptions(t testing.TB, pub *Socket, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d subscriptions", n), func() bool {
		sum := 0
		for _, p := range pub.Peers() {
			sum += p.Subscriptions
		}
		return sum == n
	})
}

func TestPubSub(t *testing.T) {
	pub, ep := bound(t, Pub, Options{})
	sub := connected(t, Sub, Options{}, ep)
	subscribe(t, sub, "a", "ab")
	subscriptions(t, pub, 2)
	send(t, pub, "b1")
	send(t, pub, "ab1", "second frame") // wanted twice, comes once
	send(t, pub, "a2")
	expect(t, sub, "ab1", "second frame")
	expect(t, sub, "a2")
}

func TestTrySendAll(t *testing.T) {
	pub, ep := bound(t, Pub, Options{})
	sub := connected(t, Sub, Options{}, ep)
	subscribe(t, sub, "a")
	subscriptions(t, pub, 1)
	var all []Msg
	for i := range 100 { // more than it writes itself
		all = append(all, msg("a"+strconv.Itoa(i), "x"), msg("b", "not wanted"))
	}
	if n, err := pub.TrySendAll(all); n != len(all) || err != nil {
		t.Fatalf("%d taken, %v", n, err)
	}
	for i := range 100 {
		expect(t, sub, "a"+strconv.Itoa(i), "x")
	}
	if n, err := pub.TrySendAll([]Msg{msg("a1"), {}, msg("a2")}); n != 1 || fault.KindOf(err) != fault.Invalid {
		t.Errorf("with a bad one: %d taken, %v", n, err)
	}
	expect(t, sub, "a1")
	if err := pub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := pub.TrySendAll(all); n != 0 || !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %d taken, %v", n, err)
	}
}

func TestSubscriptionsAreCounted(t *testing.T) {
	pub, ep := bound(t, XPub, Options{})
	sub := connected(t, Sub, Options{}, ep)
	subscribe(t, sub, "a", "a")
	expect(t, pub, "\x01a")
	unsubscribe(t, sub, "a")
	unsubscribe(t, sub, "never")
	send(t, pub, "a1")
	expect(t, sub, "a1")
	unsubscribe(t, sub, "a")
	expect(t, pub, "\x00a")
	send(t, pub, "a2")
	silent(t, sub, 30*time.Millisecond)
}

func TestXPubTellsOnlyTheFirstAndTheLast(t *testing.T) {
	pub, ep := bound(t, XPub, Options{})
	one, two := connected(t, Sub, Options{}, ep), connected(t, Sub, Options{}, ep)
	subscribe(t, one, "a")
	expect(t, pub, "\x01a")
	subscribe(t, two, "a", "b")
	expect(t, pub, "\x01b")
	unsubscribe(t, one, "a")
	subscriptions(t, pub, 2)
	silent(t, pub, 20*time.Millisecond)
	if err := two.Close(t.Context()); err != nil { // going away takes both back
		t.Fatal(err)
	}
	expect(t, pub, "\x00a")
	expect(t, pub, "\x00b")
}

// A change taken back before anybody saw it is never seen, however often.
func TestUnseenChangesDoNotPileUp(t *testing.T) {
	var c changes
	for range 10_000 {
		c.add("a", true)
		c.add("a", false)
	}
	c.add("b", true)
	if n := c.order.len(); n > 200 {
		t.Errorf("%d places kept for one change", n)
	}
	if got := c.pop(); string(got[0]) != "\x01b" || c.pop() != nil || c.len() != 0 {
		t.Errorf("got %q", got)
	}
}

func TestXSubSpeaksUpstream(t *testing.T) {
	pub, ep := bound(t, XPub, Options{})
	sub := connected(t, XSub, Options{}, ep)
	send(t, sub, "\x01a")
	expect(t, pub, "\x01a")
	send(t, sub, "hello", "publisher")
	expect(t, pub, "hello", "publisher")
	send(t, pub, "a1")
	expect(t, sub, "a1")
	send(t, sub, "\x00a")
	expect(t, pub, "\x00a")
}

func TestReconnectBringsSubscriptionsBack(t *testing.T) {
	for _, typ := range []Type{Sub, XSub} {
		t.Run(typ.String(), func(t *testing.T) {
			var seen journal
			pub, ep := bound(t, Pub, Options{})
			sub := connected(t, typ, Options{Monitor: seen.note}, ep)
			subscribe(t, sub, "a", "b")
			subscriptions(t, pub, 2)
			if err := pub.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			unsubscribe(t, sub, "b")
			subscribe(t, sub, "c")
			again := open(t, Pub, Options{})
			rebind(t, again, ep)
			subscriptions(t, again, 2)
			send(t, again, "b1")
			send(t, again, "c1")
			expect(t, sub, "c1")
			for _, k := range []EventKind{Connected, Disconnected, Retrying} {
				if len(seen.find(k)) == 0 {
					t.Errorf("no %v event", k)
				}
			}
			if c := sub.Stats(); c.Connects != 2 || c.Disconnects != 1 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// A subscriber that reads nothing loses its own messages, and its neighbour none.
func TestAStalledSubscriberCostsOthersNothing(t *testing.T) {
	const n, window = 30_000, 500
	pub, ep := bound(t, Pub, Options{})
	stalled := connected(t, Sub, Options{RcvHWM: 1}, ep)
	live := connected(t, Sub, Options{}, ep)
	subscribe(t, stalled, "")
	subscribe(t, live, "")
	subscriptions(t, pub, 2)
	body := string(make([]byte, 1024))
	next := func(want int) {
		t.Helper()
		if m := recv(t, live); string(m[0]) != strconv.Itoa(want) {
			t.Fatalf("got %q, want %d", m[0], want)
		}
	}
	for i := range n {
		if i >= window { // a publisher that paces itself by the live one
			next(i - window)
		}
		if err := pub.TrySend(msg(strconv.Itoa(i), body)); err != nil { // it never waits
			t.Fatal(err)
		}
	}
	for i := n - window; i < n; i++ {
		next(i)
	}
	st := pub.Stats()
	if st.Dropped == 0 || st.Peers != 2 {
		t.Errorf("%+v", st)
	}
	for _, p := range pub.Peers() {
		if p.Queued > defaultHWM {
			t.Errorf("%d messages queued for one subscriber", p.Queued)
		}
		if p.Dropped > 0 && p.Dropped != st.Dropped {
			t.Errorf("both subscribers dropped: %d of %d", p.Dropped, st.Dropped)
		}
	}
	last := -1
	for range n - st.Dropped { // each of the stalled one's messages comes in the end or was counted
		i, err := strconv.Atoi(string(recv(t, stalled)[0]))
		if err != nil || i <= last {
			t.Fatalf("%d after %d: %v", i, last, err)
		}
		last = i
	}
	eventually(t, "the end", func() bool { return pub.Stats().Queued == 0 })
	silent(t, stalled, 10*time.Millisecond)
}

func TestPublisherThatConnectsKeepsItsQueue(t *testing.T) {
	sub, ep := bound(t, Sub, Options{RcvHWM: 1})
	subscribe(t, sub, "")
	pub := connected(t, Pub, Options{SndHWM: 20}, ep)
	subscriptions(t, pub, 1)
	full := 0
	eventually(t, "a queue full for good", func() bool {
		for range 10 {
			if err := pub.TrySend(Msg{make([]byte, kib64)}); err != nil {
				t.Fatal(err)
			}
		}
		if full++; pub.Stats().Queued < 20 {
			full = 0
		}
		return full > 100
	})
	if err := sub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	peersOf(t, 0, pub)
	kept := pub.Stats().Queued
	if kept < 17 { // three may be in the kernel
		t.Fatalf("%d messages kept of 20", kept)
	}
	again := open(t, Sub, Options{})
	subscribe(t, again, "")
	rebind(t, again, ep)
	for range kept {
		recv(t, again)
	}
}

func forward(t *testing.T) (in, out string, front, back *Socket) {
	t.Helper()
	front, in = bound(t, XSub, Options{})
	back, out = bound(t, XPub, Options{})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Forward(ctx, front, back) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Forward: %v", err)
		}
	})
	return in, out, front, back
}

func TestForward(t *testing.T) {
	in, out, front, _ := forward(t)
	early := connected(t, XPub, Options{}, in)
	one, two := connected(t, Sub, Options{}, out), connected(t, Sub, Options{}, out)
	subscribe(t, one, "a")
	expect(t, early, "\x01a")
	subscribe(t, two, "a", "b")
	expect(t, early, "\x01b")
	late := connected(t, XPub, Options{}, in) // learns what is wanted already
	expect(t, late, "\x01a")
	expect(t, late, "\x01b")
	send(t, late, "b1")
	expect(t, two, "b1")
	send(t, early, "a1", "body")
	expect(t, one, "a1", "body")
	expect(t, two, "a1", "body")
	send(t, early, "c1")
	unsubscribe(t, two, "b")
	expect(t, late, "\x00b")
	if got := front.Stats().Received; got != 2 {
		t.Errorf("%d messages reached the proxy, 2 were wanted", got)
	}
}

func TestForwardEndsWithItsSockets(t *testing.T) {
	front, back := open(t, XSub, Options{}), open(t, XPub, Options{})
	done := make(chan error, 1)
	go func() { done <- Forward(t.Context(), front, back) }()
	if err := front.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("no error though a socket was closed under it")
	}
}

// TestTrySendExact: who takes everything, or a beginning of the topic, has the message in its other
// form and does not get this one.
func TestTrySendExact(t *testing.T) {
	pub, ep := bound(t, Pub, Options{})
	exact, begin, all := connected(t, Sub, Options{}, ep), connected(t, Sub, Options{}, ep), connected(t, Sub, Options{}, ep)
	subscribe(t, exact, "_to.42 ")
	subscribe(t, begin, "_to.4")
	subscribe(t, all, "")
	subscriptions(t, pub, 3)
	if err := pub.TrySendExact("_to.42 ", Msg{[]byte("_to.42 {}")}); err != nil {
		t.Fatal(err)
	}
	if err := pub.TrySendExact("_to.4", Msg{[]byte("_to.4")}); err != nil {
		t.Fatal(err)
	}
	if err := pub.TrySend(Msg{[]byte("_to.42 end")}); err != nil {
		t.Fatal(err)
	}
	for s, want := range map[*Socket][]string{exact: {"_to.42 {}", "_to.42 end"}, begin: {"_to.4", "_to.42 end"}, all: {"_to.42 end"}} {
		for _, w := range want {
			expect(t, s, w)
		}
	}
	if err := exact.TrySendExact("x", Msg{[]byte("x")}); err == nil {
		t.Error("a SUB cannot")
	}
}
