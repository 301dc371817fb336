package fanout

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/fault"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second // no test waits longer for anything

var quick = zmq.Options{ReconnectMin: 5 * time.Millisecond, ReconnectMax: 20 * time.Millisecond}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// proxy stands in for the proxy node; it gives the two endpoints.
func proxy(t testing.TB) (xsub, xpub string) {
	t.Helper()
	p := startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
	return p.xsub, p.xpub
}

type fakeProxy struct {
	xsub, xpub  string
	front, back *zmq.Socket
	stop        func()
	deaf        atomic.Bool // answers no probes
	drop        atomic.Pointer[func(zmq.Msg) bool]
}

func startProxy(t testing.TB, xsub, xpub string) *fakeProxy {
	t.Helper()
	p := &fakeProxy{front: zmq.New(zmq.XSub, zmq.Options{}), back: zmq.New(zmq.XPub, zmq.Options{SndHWM: 1_000_000})}
	var err error
	if p.xsub, err = p.front.Bind(within(t), xsub); err != nil {
		t.Fatal(err)
	}
	if p.xpub, err = p.back.Bind(within(t), xpub); err != nil {
		t.Fatal(err)
	}
	if err := p.front.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for m, err := p.front.Recv(context.Background()); err == nil; m, err = p.front.Recv(context.Background()) {
			if drop := p.drop.Load(); drop != nil && (*drop)(m) {
				continue
			}
			_ = p.back.TrySend(m) // only a closed socket does not take it
		}
	})
	pumps.Go(func() {
		for m, err := p.back.Recv(context.Background()); err == nil; m, err = p.back.Recv(context.Background()) {
			if answer, _ := Welcome(m); answer != nil && !p.deaf.Load() {
				_ = p.back.TrySend(answer) // likewise
			}
		}
	})
	p.stop = sync.OnceFunc(func() {
		_ = p.front.Close(context.Background())
		_ = p.back.Close(context.Background())
		pumps.Wait()
	})
	t.Cleanup(p.stop)
	return p
}

func publisher(t testing.TB, o Options) *Publisher {
	t.Helper()
	o.ZMQ = quick
	p, err := NewPublisher(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

func subscriber(t testing.TB, o SubscriberOptions) *Subscriber {
	t.Helper()
	if o.ZMQ.ReconnectMin == 0 {
		o.ZMQ = quick
	}
	s, err := NewSubscriber(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// awaitRoute publishes until a message of the topic comes through every proxy and waits until
// nothing is on the way any more.
func awaitRoute(t testing.TB, p *Publisher, s *Subscriber, topic string, proxies int) {
	t.Helper()
	testkit.Eventually(t, patience, func() bool { return p.Peers() == proxies && s.Peers() == proxies }, "all proxies connected")
	testkit.Eventually(t, patience, func() bool {
		p.Publish(topic, []byte("{}"))
		n := 0
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			_, err := s.Recv(ctx)
			cancel()
			if err != nil {
				return n == proxies
			}
			n++
		}
	}, "a message comes through every proxy")
}

func recv(t testing.TB, s *Subscriber) string {
	t.Helper()
	m, err := s.Recv(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return m.Topic + "|" + string(m.Body)
}

func TestAMessageGoesThroughEveryProxy(t *testing.T) {
	xsub1, xpub1 := proxy(t)
	xsub2, xpub2 := proxy(t)
	p := publisher(t, Options{Endpoints: []string{xsub1, xsub2}})
	s := subscriber(t, SubscriberOptions{Endpoints: []string{xpub1, xpub2}, Topics: []string{"a."}})
	awaitRoute(t, p, s, "a.up", 2)
	p.Publish("b.x", []byte("{}"))
	body := []byte(`{"n": 1}`)
	p.Publish("a.x", body)
	copy(body, "XXXXXXXX") // the caller's bytes were copied
	for range 2 {
		if got := recv(t, s); got != `a.x|{"n": 1}` {
			t.Errorf("got %s", got)
		}
	}
}

// What no frame can hold is left out; the others of the batch go through, in order.
func TestOneOfManyIsTooLarge(t *testing.T) {
	xsub, xpub := proxy(t)
	small := quick
	small.MaxFrame = 1 << 10
	p, err := NewPublisher(Options{Endpoints: []string{xsub}, ZMQ: small})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	s := subscriber(t, SubscriberOptions{Endpoints: []string{xpub}, Topics: []string{"a."}})
	awaitRoute(t, p, s, "a.up", 1)
	large := bytes.Repeat([]byte("x"), 2<<10)
	p.PublishAll(Message{"a.1", large}, Message{"a.2", []byte("{}")}, Message{"a.3", large}, Message{"a.4", []byte("[]")}, Message{"a.5", large})
	p.Publish("a.6", []byte("{}"))
	for _, want := range []string{"a.2|{}", "a.4|[]", "a.6|{}"} {
		if got := recv(t, s); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// One proxy is enough: the other one may be away.
func TestOneProxyAway(t *testing.T) {
	xsub, xpub := proxy(t)
	away := "tcp://" + testkit.FreeAddr(t)
	p := publisher(t, Options{Endpoints: []string{away, xsub}})
	s := subscriber(t, SubscriberOptions{Endpoints: []string{xpub, away}, Topics: []string{""}})
	awaitRoute(t, p, s, "a.up", 1)
	for i := range 100 {
		p.Publish("a.x", []byte(fmt.Sprint(i)))
	}
	for i := range 100 {
		if got := recv(t, s); got != fmt.Sprintf("a.x|%d", i) {
			t.Fatalf("message %d is %s", i, got)
		}
	}
}

func TestUserChanged(t *testing.T) {
	xsub, xpub := proxy(t)
	p := publisher(t, Options{Endpoints: []string{xsub}})
	s := subscriber(t, SubscriberOptions{Endpoints: []string{xpub}, Topics: []string{"_user."}})
	awaitRoute(t, p, s, "_user.up", 1)
	p.UserChanged("a.b c%")
	if got := recv(t, s); got != "_user.a%2Eb%20c%25|{}" {
		t.Errorf("got %s", got)
	}
}

// Whatever comes out of a proxy, the good messages are received.
func TestMalformedMessagesAreSkipped(t *testing.T) {
	pub := zmq.New(zmq.XPub, zmq.Options{})
	defer func() { _ = pub.Close(context.Background()) }()
	at, err := pub.Bind(within(t), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	o := quick
	o.Monitor = func(zmq.Event) {}
	s := subscriber(t, SubscriberOptions{Endpoints: []string{at}, Topics: []string{""}, ZMQ: o, Metrics: reg,
		Log: slog.New(slog.NewJSONHandler(&log, nil))})
	if _, err := pub.Recv(within(t)); err != nil { // the subscription
		t.Fatal(err)
	}
	for _, frames := range []zmq.Msg{
		{[]byte("")}, {[]byte(" {}")}, {[]byte("secret")}, {[]byte("secret ")}, {[]byte("a"), []byte("secret")}, {[]byte("a.b {}")},
	} {
		if err := pub.TrySend(frames); err != nil {
			t.Fatal(err)
		}
	}
	if got := recv(t, s); got != "a.b|{}" {
		t.Errorf("got %s", got)
	}
	want := strings.NewReader(`
# HELP eventspine_fanout_bad_messages_total messages from the proxies that are not one frame of topic, space, JSON, by reason
# TYPE eventspine_fanout_bad_messages_total counter
eventspine_fanout_bad_messages_total{reason="body"} 2
eventspine_fanout_bad_messages_total{reason="frames"} 1
eventspine_fanout_bad_messages_total{reason="topic"} 2
`)
	if err := testutil.GatherAndCompare(reg, want, "eventspine_fanout_bad_messages_total"); err != nil {
		t.Error(err)
	}
	if strings.Count(log.String(), "\n") != 1 || strings.Contains(log.String(), "secret") {
		t.Errorf("the log is\n%s", log.String())
	}
}

// A full queue drops, never waits, and says so in the metrics.
func TestPublishNeverWaits(t *testing.T) {
	front := zmq.New(zmq.XSub, zmq.Options{RcvHWM: 1, RcvBytes: 1})
	defer func() { _ = front.Close(context.Background()) }()
	at, err := front.Bind(within(t), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := front.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	o := quick
	o.SndHWM, o.Linger = 10, -1
	p, err := NewPublisher(Options{Endpoints: []string{at}, ZMQ: o, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("x"), 100_000)
	testkit.Eventually(t, patience, func() bool {
		p.Publish("a.b", body)
		return p.sockets[0].Stats().Dropped > 0
	}, "the full queue drops")
	if n, err := testutil.GatherAndCount(reg, "eventspine_fanout_publish_dropped_messages_total"); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := p.Close(within(t)); err == nil {
		t.Error("Close does not say that messages were dropped")
	}
	p.Publish("a.b", body) // counted and logged, no panic
}

func TestWrongSettings(t *testing.T) {
	for name, err := range map[string]error{
		"no proxy to publish to":   second(NewPublisher(Options{})),
		"bad endpoint to publish":  second(NewPublisher(Options{Endpoints: []string{"tcp://127.0.0.1:1", "x"}})),
		"no proxy to subscribe to": second(NewSubscriber(SubscriberOptions{})),
		"bad endpoint":             second(NewSubscriber(SubscriberOptions{Endpoints: []string{"x"}})),
	} {
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestParseMessage(t *testing.T) {
	for frame, want := range map[string]string{
		"a.b {}": "a.b|{}", "a b c": "a|b c", "a  b": "a| b",
		"": "", " ": "", "a": "", "a ": "", " x": "",
	} {
		m, err := parseMessage(zmq.Msg{[]byte(frame)})
		got := m.Topic + "|" + string(m.Body)
		if want == "" != (err != nil) || err == nil && got != want {
			t.Errorf("%q: %q, %v", frame, got, err)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{"a.b {}", "", " ", "a", "a ", "_mark.3 {\"seq\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		m, err := parseMessage(zmq.Msg{frame})
		if err == nil && (m.Topic+" "+string(m.Body) != string(frame) || strings.Contains(m.Topic, " ") || m.Topic == "" || len(m.Body) == 0) {
			t.Fatalf("%q became %q and %q", frame, m.Topic, m.Body)
		}
	})
}
