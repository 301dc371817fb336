package pirate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a server in memory: per try, what happens.
type script struct {
	steps  []string // "answer", "silence", "away", "gone"
	dials  []string // endpoints in the order they were dialled
	open   int      // links not closed
	asked  int
	frames zmq.Msg
}

type fake struct {
	s    *script
	step string
}

func (s *script) dial(endpoint string) (link, error) {
	s.dials = append(s.dials, endpoint)
	s.open++
	return &fake{s: s}, nil
}

func (f *fake) Send(ctx context.Context, m zmq.Msg) error {
	f.step, f.s.steps = f.s.steps[0], f.s.steps[1:]
	f.s.asked++
	f.s.frames = m
	if f.step == "away" {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (f *fake) Recv(ctx context.Context) (zmq.Msg, error) {
	switch f.step {
	case "answer":
		return zmq.Msg{[]byte("PONG")}, nil
	case "gone":
		return nil, fault.Errorf("", fault.Unavailable, "it went away")
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f *fake) Close(context.Context) error { f.s.open--; return errors.New("1 message dropped") }

func scripted(t *testing.T, o Options, steps ...string) (*Client, *script) {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{steps: steps}
	c.dial = s.dial
	return c, s
}

var ping = zmq.Msg{[]byte("PING")}

func TestAsk(t *testing.T) {
	two := Options{Endpoints: []string{"a", "b"}, Timeout: time.Second, Retries: 2}
	for _, c := range []struct {
		name  string
		o     Options
		steps string
		dials string
		took  time.Duration
		kind  fault.Kind
		fails bool
	}{
		{"answers at once", two, "answer", "a", 0, 0, false},
		{"a silent server is left for the next one", two, "silence answer", "a b", time.Second, 0, false},
		{"a server that is away is left for the next one", two, "away answer", "a b", time.Second, 0, false},
		{"a server that ends is left at once", two, "gone answer", "a b", 0, 0, false},
		{"comes round to the first one again", two, "silence silence answer", "a b a", 2 * time.Second, 0, false},
		{"gives up", two, "silence away silence", "a b a", 3 * time.Second, fault.Unavailable, true},
		{"without retries", Options{Endpoints: []string{"a"}, Retries: -1, Timeout: time.Second}, "silence", "a", time.Second, fault.Unavailable, true},
		{"defaults", Options{Endpoints: []string{"a"}}, "silence silence silence", "a a a", 7500 * time.Millisecond, fault.Unavailable, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, s := scripted(t, c.o, strings.Fields(c.steps)...)
				began := time.Now()
				answer, err := client.Ask(t.Context(), ping)
				if (err != nil) != c.fails || err != nil && fault.KindOf(err) != c.kind {
					t.Fatalf("%q, %v", answer, err)
				}
				if err == nil && string(answer[0]) != "PONG" {
					t.Errorf("answer %q", answer)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if got := strings.Join(s.dials, " "); got != c.dials {
					t.Errorf("dialled %q, want %q", got, c.dials)
				}
				if want := uint64(len(strings.Fields(c.steps)) - 1); client.Resent() != want {
					t.Errorf("resent %d, want %d", client.Resent(), want)
				}
				client.Close()
				if s.open != 0 || len(s.steps) != 0 {
					t.Errorf("%d links are open, %d steps unused", s.open, len(s.steps))
				}
			})
		})
	}
}

func TestTheSocketIsKeptWhileItAnswers(t *testing.T) {
	c, s := scripted(t, Options{Endpoints: []string{"a", "b"}}, "answer", "gone", "answer", "answer")
	for range 3 {
		if _, err := c.Ask(t.Context(), ping); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(s.dials); got != "[a b]" {
		t.Errorf("dialled %v", got)
	}
	c.Close()
	c.Close() // nothing is left to close
}

func TestTheCallersContextEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, Options{Endpoints: []string{"a"}}, "silence", "answer")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := make(chan error)
		go func() {
			_, err := c.Ask(ctx, ping)
			first <- err
		}()
		synctest.Wait()
		early, stop := context.WithTimeout(t.Context(), time.Millisecond)
		defer stop()
		if _, err := c.Ask(early, ping); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that waits for its turn ends with %v", err)
		}
		if err := <-first; !errors.Is(err, context.DeadlineExceeded) || s.open != 0 {
			t.Errorf("%v, %d links open", err, s.open)
		}
		if _, err := c.Ask(t.Context(), ping); err != nil {
			t.Errorf("the next request fails: %v", err)
		}
		c.Close()
	})
}

func TestWrongUse(t *testing.T) {
	if _, err := New(Options{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no endpoint gives %v", err)
	}
	c, err := New(Options{Endpoints: []string{"nonsense"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(t.Context(), ping); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad endpoint gives %v", err)
	}
	if _, err := c.Ask(t.Context(), nil); err == nil {
		t.Error("an empty message was sent")
	}
	c.Close()
}

// server answers PING on a real socket; the first deaf requests it only reads.
func server(t *testing.T, endpoint string, deaf int) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	rep := zmq.New(zmq.Rep, zmq.Options{})
	at, err := rep.Bind(ctx, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			if _, err := rep.Recv(ctx); err != nil {
				return
			}
			answer := "PONG"
			if n < deaf {
				answer = "late"
				select {
				case <-time.After(150 * time.Millisecond):
				case <-ctx.Done():
				}
			}
			if rep.Send(ctx, zmq.Msg{[]byte(answer)}) != nil {
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); _ = rep.Close(context.Background()) })
	return at
}

// A late answer to a request that was given up is never taken for the answer of the next.
func TestOnRealSockets(t *testing.T) {
	at := server(t, "tcp://127.0.0.1:0", 1)
	c, err := New(Options{Endpoints: []string{at}, Timeout: 100 * time.Millisecond, Retries: 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		answer, err := c.Ask(t.Context(), ping)
		if err != nil || string(answer[0]) != "PONG" {
			t.Fatalf("%q, %v", answer, err)
		}
	}
	if c.Resent() == 0 {
		t.Error("nothing was sent again")
	}
}

func TestNobodyThere(t *testing.T) {
	at := server(t, "tcp://127.0.0.1:0", 0)
	c, err := New(Options{Endpoints: []string{"tcp://127.0.0.1:1", at}, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if answer, err := c.Ask(t.Context(), ping); err != nil || string(answer[0]) != "PONG" {
		t.Errorf("the second server: %q, %v", answer, err)
	}
	alone, err := New(Options{Endpoints: []string{"tcp://127.0.0.1:1"}, Timeout: 50 * time.Millisecond, Retries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	if _, err := alone.Ask(t.Context(), ping); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "2 tries") {
		t.Errorf("nobody there gives %v", err)
	}
}
