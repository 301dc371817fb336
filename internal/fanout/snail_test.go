package fanout

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// simulated is a receive queue that fills and empties at given rates, a second.
type simulated struct {
	room     float64
	in, out  func(time.Duration) float64 // after that time
	received float64
	taken    float64
}

// run says after how long a subscriber with such a queue ends itself, 0: not within limit.
func (q *simulated) run(w *watch, limit time.Duration) time.Duration {
	w.load = func() load {
		return load{received: uint64(q.received), taken: uint64(q.taken), full: 2*(q.received-q.taken) >= q.room}
	}
	began, step := time.Now(), w.every()
	w.last = began
	const moment = time.Millisecond
	for at := moment; at <= limit; at += moment {
		q.received += min(q.in(at)*moment.Seconds(), q.room-(q.received-q.taken))
		q.taken = min(q.taken+q.out(at)*moment.Seconds(), q.received)
		if at%step != 0 {
			continue
		}
		if w.look(began.Add(at)); w.behind >= w.limits.Limit {
			return at
		}
	}
	return 0
}

func steady(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

func TestWhoIsASnail(t *testing.T) {
	burst := func(at time.Duration) float64 {
		if at <= 2*time.Second {
			return 50_000
		}
		return 1000
	}
	for name, c := range map[string]struct {
		room     float64
		in, out  func(time.Duration) float64
		from, to time.Duration // 0: never
	}{
		"keeps up":                           {100_000, steady(5000), steady(6000), 0, 0},
		"just too slow, a large queue":       {100_000, steady(5000), steady(4000), 55 * time.Second, 90 * time.Second},
		"far too slow, a small queue":        {1000, steady(5000), steady(2000), 30 * time.Second, 33 * time.Second},
		"takes nothing":                      {100_000, steady(10), steady(0), 35 * time.Second, 38 * time.Second},
		"a burst that it gets through":       {100_000, burst, steady(5000), 0, 0},
		"a burst that it does not":           {100_000, burst, steady(1500), 30 * time.Second, 40 * time.Second},
		"nothing comes":                      {100_000, steady(0), steady(0), 0, 0},
		"every second burst fills the queue": {1000, func(at time.Duration) float64 { return 20_000 * float64(at/time.Second%2) }, steady(15_000), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			q := simulated{room: c.room, in: c.in, out: c.out}
			got := q.run(&watch{limits: Snail{Wait: 5 * time.Second, Limit: 30 * time.Second}}, 5*time.Minute)
			if got < c.from || got > c.to {
				t.Errorf("it ends itself after %s, want %s to %s", got, c.from, c.to)
			}
		})
	}
}

// A subscriber that waits for somebody else is no snail, and has all of its time again after it.
func TestExcusedSnail(t *testing.T) {
	w := &watch{limits: Snail{Wait: time.Second, Limit: 30 * time.Second}}
	excused := true
	w.limits.Excused = func() bool { return excused }
	q := simulated{room: 1000, in: steady(1000), out: steady(1)}
	if got := q.run(w, time.Minute); got != 0 {
		t.Errorf("it ended itself after %s", got)
	}
	excused = false
	if got := q.run(w, time.Minute); got < 30*time.Second || got > 31*time.Second {
		t.Errorf("without an excuse it ended itself after %s", got)
	}
}

// A process that was stopped, or whose machine was suspended, is judged by what it does while it
// runs: two looks' worth for the pause, and then it has to keep up as ever.
func TestAPauseIsNoSnail(t *testing.T) {
	now := time.Now()
	l := load{}
	w := &watch{limits: Snail{Wait: 5 * time.Second, Limit: 30 * time.Second}, load: func() load { return l }, last: now}
	look := func(after time.Duration, now2 load) {
		l = now2
		now = now.Add(after)
		w.look(now)
	}
	look(time.Second, load{received: 10, taken: 5})
	for range 10 {
		look(time.Hour, load{received: 100_000, taken: 10, full: true}) // what came before and after the pause
		if w.behind > 2*time.Second {
			t.Fatalf("a pause counts as %s", w.behind)
		}
		look(time.Second, load{received: 100_000, taken: 20_000, full: true}) // it gets through it
		look(time.Second, load{received: 100_000, taken: 90_000})
		if w.behind != 0 {
			t.Fatalf("it caught up and is behind by %s", w.behind)
		}
		look(time.Second, load{received: 100_000, taken: 100_000})
	}
	look(-time.Hour, load{received: 100_000, taken: 10, full: true}) // cannot be, with a monotonic clock
	if w.behind > 0 {
		t.Errorf("behind by %s", w.behind)
	}
}

// pile makes a subscriber with n unread messages that nobody takes.
func pile(t *testing.T, n int, o SubscriberOptions) (*Subscriber, *Publisher) {
	t.Helper()
	proxy := startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
	o.Endpoints, o.Topics = []string{proxy.xpub}, []string{""}
	p, s := publisher(t, Options{Endpoints: []string{proxy.xsub}}), subscriber(t, o)
	awaitRoute(t, p, s, "a.up", 1)
	for i := range n {
		p.Publish("a.b", []byte(fmt.Sprint(i)))
	}
	testkit.Eventually(t, patience, func() bool { return s.Queued() >= n }, "the messages wait")
	return s, p
}

func TestASnailEndsItself(t *testing.T) {
	var log bytes.Buffer
	s, _ := pile(t, 100, SubscriberOptions{Log: slog.New(slog.NewTextHandler(&log, nil)), ZMQ: zmq.Options{Monitor: func(zmq.Event) {}, ReconnectMin: time.Millisecond}})
	err := s.Watch(within(t), Snail{Wait: 50 * time.Millisecond, Limit: 300 * time.Millisecond})
	if fault.KindOf(err) != fault.Overloaded {
		t.Errorf("Watch gave %v", err)
	}
	if !strings.Contains(log.String(), "cannot keep up and ends itself") {
		t.Errorf("the log is %s", log.String())
	}
	if s.behind.Load() < int64(300*time.Millisecond) {
		t.Errorf("the metric is %d", s.behind.Load())
	}
}

// A full queue is enough, however young its messages are.
func TestAFullQueueIsBehind(t *testing.T) {
	s, _ := pile(t, 50, SubscriberOptions{ZMQ: zmq.Options{RcvHWM: 100, ReconnectMin: time.Millisecond}})
	if err := s.Watch(within(t), Snail{Wait: time.Hour, Limit: 100 * time.Millisecond}); fault.KindOf(err) != fault.Overloaded {
		t.Errorf("half of the messages it may hold: %v", err)
	}
	s, _ = pile(t, 49, SubscriberOptions{ZMQ: zmq.Options{RcvHWM: 100, RcvBytes: 1 << 30, ReconnectMin: time.Millisecond}})
	if s.load().full {
		t.Error("fewer than half of the messages it may hold count as full")
	}
	s, _ = pile(t, 10, SubscriberOptions{ZMQ: zmq.Options{RcvBytes: 500, ReconnectMin: time.Millisecond}})
	if !s.load().full {
		t.Error("half of the bytes it may hold do not count")
	}
}

func TestWatchWithoutALimit(t *testing.T) {
	s, _ := pile(t, 10, SubscriberOptions{ZMQ: zmq.Options{RcvHWM: 10, ReconnectMin: time.Millisecond}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Watch(ctx, Snail{}) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Excused for as long as it may be, a subscriber whose queue stands still costs no more memory
// with every look.
func TestWaitingForOthersTakesNoMemory(t *testing.T) {
	q := simulated{room: 1000, in: steady(10_000), out: steady(0)}
	w := watch{limits: Snail{Wait: time.Second, Limit: time.Minute, Excused: func() bool { return true }}}
	if at := q.run(&w, 10*time.Minute); at != 0 {
		t.Errorf("ended after %s", at)
	}
	if len(w.marks) > 2 {
		t.Errorf("%d marks for a queue that stands still", len(w.marks))
	}
}
