package mdp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// show writes a message as text: frames divided by "|", commands by their names.
func show(m zmq.Msg) string {
	names := map[string]string{"\x01": "READY", "\x02": "REQUEST", "\x03": "REPLY", "\x04": "HEARTBEAT", "\x05": "DISCONNECT"}
	parts := make([]string, len(m))
	for i, f := range m {
		parts[i] = string(f)
		if name := names[string(f)]; name != "" {
			parts[i] = name
		}
	}
	return strings.Join(parts, "|")
}

// msg reads what show writes.
func msg(text string) zmq.Msg {
	codes := map[string]string{"READY": "\x01", "REQUEST": "\x02", "REPLY": "\x03", "HEARTBEAT": "\x04", "DISCONNECT": "\x05"}
	var m zmq.Msg
	for part := range strings.SplitSeq(text, "|") {
		if code := codes[part]; code != "" {
			part = code
		}
		m = append(m, []byte(part))
	}
	return m
}

// network is one ROUTER and any number of DEALERs in memory, for synctest.
type network struct {
	mu      sync.Mutex
	router  *wire
	dealers map[string]*wire
	next    int
}

// wire is one end: what it receives, and where what it sends goes.
type wire struct {
	in     chan zmq.Msg
	closed chan struct{}
	once   sync.Once
	out    func(zmq.Msg) error
	gone   func()
}

var errGone = errors.New("no peer has this identity")

func newNetwork() *network {
	n := &network{dealers: map[string]*wire{}}
	n.router = n.newRouter()
	return n
}

// newRouter is a router that reaches the peers for as long as it is the network's.
func (n *network) newRouter() *wire {
	r := &wire{in: make(chan zmq.Msg, 1000), closed: make(chan struct{}), gone: func() {}}
	r.out = func(m zmq.Msg) error {
		n.mu.Lock()
		d := n.dealers[string(m[0])]
		if n.router != r {
			d = nil
		}
		n.mu.Unlock()
		if d == nil {
			return errGone
		}
		d.in <- m[1:]
		return nil
	}
	return r
}

// dealer connects a peer; its name is its address at the router.
func (n *network) dealer() (plug, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	name := fmt.Sprintf("w%d", n.next)
	d := n.peer(name)
	return d, nil
}

func (n *network) peer(name string) *wire {
	d := &wire{in: make(chan zmq.Msg, 1000), closed: make(chan struct{})}
	d.out = func(m zmq.Msg) error {
		n.mu.Lock()
		r := n.router
		n.mu.Unlock()
		if r != nil {
			r.in <- append(zmq.Msg{[]byte(name)}, m...)
		}
		return nil
	}
	d.gone = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.dealers, name)
	}
	n.dealers[name] = d
	return d
}

func (w *wire) TrySend(m zmq.Msg) error                 { return w.out(m) }
func (w *wire) Send(_ context.Context, m zmq.Msg) error { return w.out(m) }
func (w *wire) Close(context.Context) error {
	w.once.Do(func() { close(w.closed); w.gone() })
	return nil
}
func (w *wire) Recv(ctx context.Context) (zmq.Msg, error) {
	select {
	case m := <-w.in:
		return m, nil
	case <-w.closed:
		return nil, zmq.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// started is something that a test runs; stop ends it and gives its error.
type started struct {
	cancel context.CancelFunc
	err    chan error
	once   sync.Once
	result error
}

func start(t testing.TB, run func(context.Context) error) *started {
	ctx, cancel := context.WithCancel(context.Background())
	s := &started{cancel: cancel, err: make(chan error, 1)}
	go func() { s.err <- run(ctx) }()
	t.Cleanup(func() { _ = s.stop() })
	return s
}

func (s *started) stop() error {
	s.once.Do(func() { s.cancel(); s.result = <-s.err })
	return s.result
}

func why(v *prometheus.CounterVec, reason string) float64 {
	return testutil.ToFloat64(v.WithLabelValues(reason))
}

// total is the sum over a counter's or gauge's labels.
func total(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// value is what a counter or gauge without labels shows.
func value(c prometheus.Collector) float64 { return testutil.ToFloat64(c) }
