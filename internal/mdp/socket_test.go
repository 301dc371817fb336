package mdp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// broker runs one on a real socket, with heartbeats every 100 ms.
func broker(t testing.TB, endpoint string) (string, *started) {
	t.Helper()
	b, err := Listen(within(t), endpoint, BrokerOptions{Heartbeat: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return b.Endpoint(), start(t, b.Run)
}

func worker(t testing.TB, endpoint, service string, h Handler) *started {
	t.Helper()
	w, err := NewWorker(WorkerOptions{Service: service, Endpoint: endpoint, Heartbeat: 100 * time.Millisecond}, h)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, w.Run)
}

func client(t testing.TB, endpoints ...string) *Client {
	t.Helper()
	c, err := NewClient(ClientOptions{Endpoints: endpoints, Timeout: time.Second, Retries: 9})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRealSockets(t *testing.T) {
	at, b := broker(t, "tcp://127.0.0.1:0")
	w := worker(t, at, "upper", func(_ context.Context, body zmq.Msg) zmq.Msg {
		return zmq.Msg{[]byte(strings.ToUpper(string(body[0])))}
	})
	c := client(t, at)
	answer, err := c.Request(within(t), "upper", []byte("hello")) // it waits for the worker to register
	if err != nil || show(answer) != "HELLO" {
		t.Fatalf("%q, %v", answer, err)
	}
	var list []Listing
	if answer, err = c.Request(within(t), ServiceList); err != nil || json.Unmarshal(answer[0], &list) != nil || len(list) != 1 || list[0].Workers != 1 {
		t.Fatalf("%q, %v", answer, err)
	}
	if _, err := c.Request(within(t), ""); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a service without a name gives %v", err)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool {
		m, err := c.Request(within(t), ServiceLookup, []byte("upper"))
		return err == nil && show(m) == statusNotFound
	}, "the worker is gone")
	if err := b.stop(); err != nil {
		t.Error(err)
	}
}

// Clients and workers outlive their broker, and the requests of that time are answered.
func TestTheBrokerRestarts(t *testing.T) {
	at, b := broker(t, "tcp://127.0.0.1:0")
	worker(t, at, "echo", echo)
	c := client(t, at)
	if _, err := c.Request(within(t), "echo", []byte("before")); err != nil {
		t.Fatal(err)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	asked := make(chan error)
	go func() {
		m, err := c.Request(within(t), "echo", []byte("meanwhile"))
		if err == nil && show(m) != "meanwhile" {
			err = fmt.Errorf("got %q", m)
		}
		asked <- err
	}()
	broker(t, at)
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

// A second broker takes over from one that is away.
func TestTwoBrokers(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	worker(t, at, "echo", echo)
	c, err := NewClient(ClientOptions{Endpoints: []string{"tcp://127.0.0.1:1", at}, Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if m, err := c.Request(within(t), "echo", []byte("x")); err != nil || show(m) != "x" {
		t.Errorf("%q, %v", m, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	for range 3 {
		worker(t, at, "echo", echo)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		c := client(t, at)
		wg.Go(func() {
			for k := range 25 {
				text := fmt.Sprintf("%d of %d", k, i)
				if m, err := c.Request(within(t), "echo", []byte(text)); err != nil || show(m) != text {
					t.Errorf("asked %q, got %q, %v", text, m, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestAPlaceThatIsTaken(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	if _, err := Listen(within(t), at, BrokerOptions{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	b, err := Listen(within(t), "tcp://127.0.0.1:0", BrokerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// peer runs test/interop/mdp_peer.py, an independent client and worker on libzmq.
func peer(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	testkit.Pyzmq(t)
	c := exec.CommandContext(within(t), "python3", append([]string{"../../test/interop/mdp_peer.py"}, args...)...)
	c.Stderr = os.Stderr
	return c
}

func TestAnIndependentClient(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	worker(t, at, "echo", echo)
	out, err := peer(t, "client", at).Output()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%s, %v", out, err)
	}
}

func TestAnIndependentWorker(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	p := peer(t, "worker", at, "0.1")
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	p.Stdout = &out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	c := client(t, at)
	for i := range 3 {
		text := fmt.Sprintf("message %d", i)
		if m, err := c.Request(within(t), "reverse", []byte(text), []byte("second frame")); err != nil || len(m) != 2 || string(m[1]) != "second frame" || string(m[0]) != reverse(text) {
			t.Errorf("%q, %v", m, err)
		}
	}
	count := func() string {
		m, err := c.Request(within(t), ServiceCount, []byte("reverse"))
		if err != nil {
			t.Fatal(err)
		}
		return show(m)
	}
	// It lives on heartbeats alone for longer than the broker's patience.
	quiet := time.NewTimer(time.Second)
	defer quiet.Stop()
	for waiting := true; waiting; {
		select {
		case <-quiet.C:
			waiting = false
		default:
			if n := count(); n != "1" {
				t.Fatalf("%s workers", n)
			}
		}
	}
	_ = stdin.Close() // it says goodbye
	if err := p.Wait(); err != nil || strings.TrimSpace(out.String()) != "ok" {
		t.Errorf("%s, %v", out.String(), err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return count() == "0" }, "the worker said goodbye")
}

// A worker that freezes with a request in hand, its connection open, loses it to another one.
func TestAnIndependentWorkerFreezes(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	p := peer(t, "frozen", at)
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(ClientOptions{Endpoints: []string{at}, Timeout: 10 * time.Second, Retries: -1}) // one try
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := make(chan error, 1)
	go func() {
		m, err := c.Request(within(t), "reverse", []byte("abc"))
		if err == nil && show(m) != "cba" {
			err = fmt.Errorf("got %q", m)
		}
		answered <- err
	}()
	took := make([]byte, len("took it"))
	if _, err := io.ReadFull(stdout, took); err != nil || string(took) != "took it" {
		t.Fatalf("%q, %v", took, err)
	}
	worker(t, at, "reverse", func(_ context.Context, body zmq.Msg) zmq.Msg { return zmq.Msg{[]byte(reverse(string(body[0])))} })
	if err := <-answered; err != nil {
		t.Error(err)
	}
	_ = stdin.Close()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func reverse(s string) string {
	b := []byte(s)
	for i, k := 0, len(b)-1; i < k; i, k = i+1, k-1 {
		b[i], b[k] = b[k], b[i]
	}
	return string(b)
}

func TestAnIndependentMisfit(t *testing.T) {
	at, _ := broker(t, "tcp://127.0.0.1:0")
	worker(t, at, "echo", echo)
	out, err := peer(t, "misfit", at).Output()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%s, %v", out, err)
	}
	if m, err := client(t, at).Request(within(t), "echo", []byte("still here")); err != nil || show(m) != "still here" {
		t.Errorf("%q, %v", m, err)
	}
}
