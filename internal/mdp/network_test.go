package mdp

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

const beat = time.Second

// serve runs a broker on n's router.
func (n *network) serve(t *testing.T) *started {
	b := &Broker{o: BrokerOptions{Heartbeat: beat}.withDefaults(), socket: n.router}
	return start(t, b.Run)
}

// restart puts a new router in the place of the old one; the peers stay connected.
func (n *network) restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.router = n.newRouter()
}

// cutOff lets what peers send go nowhere.
func (n *network) cutOff() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.router = nil
}

func (n *network) work(t *testing.T, service string, h Handler) *started {
	t.Helper()
	w, err := NewWorker(WorkerOptions{Service: service, Heartbeat: beat}, h)
	if err != nil {
		t.Fatal(err)
	}
	w.dial = n.dealer
	return start(t, w.Run)
}

// tries is how many sockets workers have opened so far.
func (n *network) tries() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.next
}

// open is how many sockets are open.
func (n *network) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dealers)
}

func echo(_ context.Context, body zmq.Msg) zmq.Msg { return body }

// ask sends a request as a client and waits for the answer at most d.
func ask(n *network, name, text string, d time.Duration) string {
	n.mu.Lock()
	c := n.dealers[name]
	if c == nil {
		c = n.peer(name)
	}
	n.mu.Unlock()
	_ = c.TrySend(msg("|MDPC01|" + text))
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	m, err := c.Recv(ctx)
	if err != nil {
		return "nothing"
	}
	return show(m)
}

func TestWorkersStayRegisteredWhileNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		broker := n.serve(t)
		worker := n.work(t, "echo", echo)
		time.Sleep(time.Hour)
		if n.tries() != 1 {
			t.Errorf("the worker registered %d times", n.tries())
		}
		if got := ask(n, "c", "echo|hello", beat); got != "|MDPC01|echo|hello" {
			t.Errorf("got %q", got)
		}
		if err := worker.stop(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := ask(n, "c", "mmi.service|echo", beat); got != "|MDPC01|mmi.service|404" {
			t.Errorf("after the worker's end: %q", got)
		}
		if err := broker.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A long request does not keep the heartbeats from going.
func TestASlowHandlerIsNoDeadWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.serve(t)
		n.work(t, "slow", func(_ context.Context, body zmq.Msg) zmq.Msg { time.Sleep(time.Minute); return body })
		synctest.Wait()
		if got := ask(n, "c", "slow|x", 2*time.Minute); got != "|MDPC01|slow|x" || n.tries() != 1 {
			t.Errorf("got %q of %d sessions", got, n.tries())
		}
		n.mu.Lock()
		for _, d := range n.dealers {
			go func() { _ = d.Close(context.Background()) }()
		}
		n.mu.Unlock()
	})
}

func TestARestartedBrokerHasItsWorkersWithinABeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		broker := n.serve(t)
		n.work(t, "echo", echo)
		time.Sleep(10 * beat)
		n.restart() // without a farewell, as after kill -9
		_ = broker.stop()
		n.serve(t)
		time.Sleep(2 * beat)
		if got := ask(n, "c", "echo|again", beat); got != "|MDPC01|echo|again" {
			t.Errorf("got %q", got)
		}
	})
}

func TestASilentBrokerIsTriedAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.cutOff()
		w := n.work(t, "echo", echo)
		time.Sleep(time.Hour)
		if n.tries() < 3600/9 || n.tries() > 3600/5 { // 3 s of silence and 2.5 to 5 s of pause
			t.Errorf("%d tries an hour", n.tries())
		}
		if err := w.stop(); err != nil || n.open() != 0 {
			t.Errorf("%v, %d sockets open", err, n.open())
		}
	})
}

// A broker that refuses at once is not asked ten times a second.
func TestARefusedWorkerBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		b := &Broker{o: BrokerOptions{Heartbeat: beat, MaxWorkers: 1}.withDefaults(), socket: n.router}
		start(t, b.Run)
		n.work(t, "echo", echo)
		synctest.Wait()
		n.work(t, "echo", echo)
		time.Sleep(10 * time.Minute)
		if n.tries() > 600/2 {
			t.Errorf("%d tries in ten minutes", n.tries())
		}
	})
}

// What a broker says against the protocol ends the session; the next one works.
func TestABrokenBroker(t *testing.T) {
	for _, bad := range []string{"|MDPW01|nonsense", "|MDPC01|x", "|MDPW01|REQUEST|c", "|MDPW01|READY|echo"} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			n.work(t, "echo", echo)
			synctest.Wait()
			n.mu.Lock()
			first := n.dealers["w1"]
			n.mu.Unlock()
			first.in <- msg(bad)
			time.Sleep(beat)
			if n.tries() < 2 {
				t.Errorf("%q does not end the session", bad)
			}
		})
	}
}

func TestTwoRequestsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var ended atomic.Int32
		n.work(t, "slow", func(ctx context.Context, _ zmq.Msg) zmq.Msg { <-ctx.Done(); ended.Add(1); return nil })
		synctest.Wait()
		n.mu.Lock()
		first := n.dealers["w1"]
		n.mu.Unlock()
		first.in <- msg("|MDPW01|REQUEST|c||x")
		first.in <- msg("|MDPW01|REQUEST|d||y")
		time.Sleep(beat)
		if n.tries() != 2 || ended.Load() != 1 {
			t.Errorf("%d sessions, %d handlers ended", n.tries(), ended.Load())
		}
	})
}

// At its end a worker answers what it has in hand.
func TestAWorkerEndsAfterItsRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		took time.Duration
		want string
	}{{"in time", beat / 2, "|MDPC01|s|x"}, {"too slow", 10 * beat, "nothing"}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				n.serve(t)
				w := n.work(t, "s", func(ctx context.Context, body zmq.Msg) zmq.Msg { rest(ctx, c.took); return body })
				synctest.Wait()
				got := make(chan string)
				go func() { got <- ask(n, "c", "s|x", 3*beat) }()
				synctest.Wait()
				if err := w.stop(); err != nil {
					t.Error(err)
				}
				if s := <-got; s != c.want {
					t.Errorf("the client got %q", s)
				}
			})
		})
	}
}

func TestAFailingSocketEndsTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		b := n.serve(t)
		synctest.Wait()
		_ = n.router.Close(context.Background())
		synctest.Wait()
		if err := b.stop(); !errors.Is(err, zmq.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWrongWorkers(t *testing.T) {
	for _, name := range []string{"", "mmi.service", "tab\t"} {
		if _, err := NewWorker(WorkerOptions{Service: name}, echo); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q gives %v", name, err)
		}
	}
	w, err := NewWorker(WorkerOptions{Service: "s", Endpoint: "nonsense"}, echo)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad endpoint gives %v", err)
	}
	if _, err := Listen(t.Context(), "nonsense", BrokerOptions{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad endpoint gives %v", err)
	}
	if _, err := NewClient(ClientOptions{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no endpoint gives %v", err)
	}
}

// Many clients, workers that come and go: everybody gets their own answer.
func TestChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.serve(t)
		workers := make([]*started, 3)
		for i := range workers {
			workers[i] = n.work(t, "s", func(ctx context.Context, body zmq.Msg) zmq.Msg { rest(ctx, 100*time.Millisecond); return body })
		}
		failed := make(chan string, 20)
		for c := range 20 {
			go func() {
				for i := range 20 {
					text := fmt.Sprintf("s|%d of %d", i, c)
					if got := ask(n, fmt.Sprintf("c%d", c), text, time.Minute); got != "|MDPC01|"+text {
						failed <- fmt.Sprintf("asked %q, got %q", text, got)
						return
					}
				}
				failed <- ""
			}()
		}
		for i := range 9 {
			time.Sleep(beat)
			w := i % len(workers)
			_ = workers[w].stop()
			workers[w] = n.work(t, "s", echo)
		}
		for range 20 {
			if f := <-failed; f != "" {
				t.Error(f)
			}
		}
	})
}
