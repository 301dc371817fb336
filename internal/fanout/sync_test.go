package fanout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// received takes what a subscriber gets, in the background, as a service does.
func received(t testing.TB, s *Subscriber) <-chan Message {
	t.Helper()
	got, ended := make(chan Message, 100_000), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		for m, err := s.Recv(ctx); err == nil; m, err = s.Recv(ctx) {
			got <- m
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return got
}

func next(t testing.TB, got <-chan Message) Message {
	t.Helper()
	select {
	case m := <-got:
		return m
	case <-within(t).Done():
		t.Fatal("nothing came")
		return Message{}
	}
}

// What is published as soon as both ends are ready comes through each proxy, in whatever order
// they all began.
func TestNothingIsMissedOnceReady(t *testing.T) {
	const rounds, messages = 30, 20
	for round := range rounds {
		var xsub, xpub []string
		for range 2 {
			xsub, xpub = append(xsub, "tcp://"+testkit.FreeAddr(t)), append(xpub, "tcp://"+testkit.FreeAddr(t))
		}
		var p *Publisher
		var s *Subscriber
		var got <-chan Message
		begin := []func(){
			func() { startProxy(t, xsub[0], xpub[0]) },
			func() { startProxy(t, xsub[1], xpub[1]) },
			func() { p = publisher(t, Options{Endpoints: xsub}) },
			func() {
				s = subscriber(t, SubscriberOptions{Endpoints: xpub, Topics: []string{"b.", "a."}})
				got = received(t, s)
			},
		}
		order := rand.Perm(len(begin))
		for _, i := range order {
			begin[i]()
		}
		if err := p.Wait(within(t)); err != nil {
			t.Fatal(err)
		}
		if err := s.Wait(within(t)); err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			p.Publish("a.x", []byte(fmt.Sprint(i)))
		}
		times := map[string]int{}
		for range 2 * messages {
			times[string(next(t, got).Body)]++
		}
		for i := range messages {
			if times[fmt.Sprint(i)] != 2 {
				t.Fatalf("round %d, order %v: message %d came %d times of two", round, order, i, times[fmt.Sprint(i)])
			}
		}
	}
}

// A proxy that went away and came back is asked again; meanwhile the other one is enough.
func TestReadyWhileOneProxyRestarts(t *testing.T) {
	one, two := startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"), startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
	p := publisher(t, Options{Endpoints: []string{one.xsub, two.xsub}})
	s := subscriber(t, SubscriberOptions{Endpoints: []string{one.xpub, two.xpub}, Topics: []string{""}})
	got := received(t, s)
	synced := func(n int) func() bool {
		return func() bool {
			return p.route.opened() == n && s.sync.route.opened() == n && p.Ready() == nil && s.Ready() == nil
		}
	}
	testkit.Eventually(t, patience, synced(2), "both proxies are synced")
	one.stop()
	testkit.Eventually(t, patience, synced(1), "the other proxy is enough")
	p.Publish("a.b", []byte("1"))
	if m := next(t, got); m.Topic != "a.b" {
		t.Errorf("got %s", m.Topic)
	}
	one = startProxy(t, one.xsub, one.xpub)
	testkit.Eventually(t, patience, synced(2), "the proxy that came back is synced")
	two.stop()
	testkit.Eventually(t, patience, synced(1), "it is enough now")
	one.stop()
	testkit.Eventually(t, patience, func() bool { return p.Ready() != nil && s.Ready() != nil }, "nobody is ready without a proxy")
	if err := s.Ready(); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), one.xpub) {
		t.Errorf("the subscriber says %v", err)
	}
}

// A connection alone is not enough, and a lost answer is asked for again.
func TestNotReadyWithoutAnAnswer(t *testing.T) {
	proxy := startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
	proxy.deaf.Store(true)
	s := subscriber(t, SubscriberOptions{Endpoints: []string{proxy.xpub}, Topics: []string{"a."}})
	received(t, s)
	testkit.Eventually(t, patience, func() bool { return s.Peers() == 1 }, "the proxy is connected")
	soon, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.Wait(soon); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("it is ready without an answer: %v", err)
	}
	proxy.deaf.Store(false)
	if err := s.Wait(within(t)); err != nil {
		t.Error(err)
	}
}

// A publisher whose proxy has not asked for everything is not ready, though connected.
func TestPublisherWaitsToBeAsked(t *testing.T) {
	front := zmq.New(zmq.XSub, zmq.Options{})
	defer func() { _ = front.Close(context.Background()) }()
	at, err := front.Bind(within(t), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := publisher(t, Options{Endpoints: []string{at}})
	ask := func(topic string, subscribe bool) {
		t.Helper()
		change := front.Subscribe
		if !subscribe {
			change = front.Unsubscribe
		}
		if err := change(topic); err != nil {
			t.Fatal(err)
		}
	}
	ask("a.", true)
	testkit.Eventually(t, patience, func() bool { return p.sockets[0].Stats().Peers == 1 && p.sockets[0].Peers()[0].Subscriptions == 1 }, "a subscription")
	if p.Ready() == nil {
		t.Error("it is ready when only a. is asked for")
	}
	ask("", true)
	if err := p.Wait(within(t)); err != nil {
		t.Error(err)
	}
	ask("", false)
	testkit.Eventually(t, patience, func() bool { return p.Ready() != nil }, "nobody asks for everything any more")
}

// Another subscriber's probes are seen by one of everything, and never given to the caller.
func TestProbesAreNobodysMessages(t *testing.T) {
	proxy := startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
	p := publisher(t, Options{Endpoints: []string{proxy.xsub}})
	all := subscriber(t, SubscriberOptions{Endpoints: []string{proxy.xpub}, Topics: []string{""}})
	got := received(t, all)
	for range 5 {
		other := subscriber(t, SubscriberOptions{Endpoints: []string{proxy.xpub}, Topics: []string{"a."}})
		received(t, other)
		if err := other.Wait(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	if err := all.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	p.Publish("_sync.forged", []byte("{}")) // as a publisher might, too
	p.Publish("a.b", []byte("1"))
	if m := next(t, got); m.Topic != "a.b" {
		t.Errorf("got %s", m.Topic)
	}
}

func TestWelcome(t *testing.T) {
	long := "\x01" + event.TopicSync + strings.Repeat("x", maxProbe)
	for subscription, want := range map[string]string{
		"\x01_sync.abc": "_sync.abc {}, probe", "\x00_sync.abc": "probe", "\x01_sync.": "probe",
		"\x01": "", "\x00": "", "": "", "\x01a.": "", "\x01_mark.3": "", "\x01_syn": "", "\x01_sync.a b": "", long: "",
	} {
		answer, probe := Welcome(zmq.Msg{[]byte(subscription)})
		var got []string
		if answer != nil {
			got = append(got, string(answer[0]))
		}
		if probe {
			got = append(got, "probe")
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%q: %v, want %s", subscription, got, want)
		}
	}
	if answer, probe := Welcome(zmq.Msg{{1}, {2}}); answer != nil || probe {
		t.Error("two frames are no subscription")
	}
}

func TestRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute([]string{"one", "two"}, 5*time.Second)
		began := time.Now()
		waited := func(want time.Duration) {
			t.Helper()
			if err := r.wait(t.Context()); err != nil || time.Since(began) != want {
				t.Errorf("ready after %s (%v), want %s", time.Since(began), err, want)
			}
			began = time.Now()
		}
		after := func(d time.Duration, i int, open bool) {
			go func() { <-time.After(d); r.set(i, open) }()
		}
		after(time.Minute, 0, true)
		after(time.Minute+3*time.Second, 1, true)
		waited(time.Minute + 3*time.Second) // both
		r.set(0, false)
		waited(0) // one is enough now
		r.set(1, false)
		after(time.Second, 1, true)
		waited(8 * time.Second) // the other one may still come, for 7 s
		r.set(0, true)
		r.set(1, false)
		waited(0)
		r.set(0, false)
		after(2*time.Second, 0, true)
		after(4*time.Second, 0, false)
		after(6*time.Second, 1, true)
		waited(13 * time.Second) // the seconds begin anew when none was left
		r.set(1, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.wait(ctx); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "one, two") {
			t.Errorf("without any: %v", err)
		}
	})
}
