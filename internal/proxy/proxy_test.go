package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func recv(t testing.TB, s *zmq.Socket) string {
	t.Helper()
	m, err := s.Recv(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(m[0])
}

func publish(t testing.TB, s *zmq.Socket, frames ...string) {
	t.Helper()
	var m zmq.Msg
	for _, f := range frames {
		m = append(m, []byte(f))
	}
	if err := s.TrySend(m); err != nil {
		t.Fatal(err)
	}
}

func TestTopicsReachTheirSubscribers(t *testing.T) {
	p := start(t, nil)
	all := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, "")
	one := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, "notification.42 ")
	pub := socket(t, zmq.Pub, p.XSub(), zmq.Options{})
	awaitRoute(t, pub, all, "warm.up")
	awaitRoute(t, pub, one, "notification.42")
	publish(t, pub, "notification.421 {}")
	publish(t, pub, `notification.42 {"n":1}`)
	if got := recv(t, one); got != `notification.42 {"n":1}` {
		t.Errorf("the subscriber of user 42 got %s", got)
	}
	for want := range 2 {
		for got := recv(t, all); ; got = recv(t, all) {
			if strings.HasPrefix(got, []string{"notification.421 ", `notification.42 {"n":1}`}[want]) {
				break
			}
		}
	}
}

// A publisher that comes after the subscribers learns what they want.
func TestSubscriptionsReachLatePublishers(t *testing.T) {
	p := start(t, nil)
	sub := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, "a")
	early := socket(t, zmq.Pub, p.XSub(), zmq.Options{})
	awaitRoute(t, early, sub, "a.early")
	late := socket(t, zmq.XPub, p.XSub(), zmq.Options{})
	told := []string{recv(t, late), recv(t, late)} // of one connection, in no order
	if slices.Sort(told); !slices.Equal(told, []string{"\x01", "\x01a"}) {
		t.Fatalf("the late publisher was told %q", told)
	}
	if err := sub.Unsubscribe("a"); err != nil {
		t.Fatal(err)
	}
	if got := recv(t, late); got != "\x00a" {
		t.Fatalf("the publisher was told %q", got)
	}
}

// A subscriber that asks is told when all it subscribed to before is in effect, and publishers
// hear nothing of it. What is published after that, by whomever, is not missed.
func TestLateJoinersAreWelcomed(t *testing.T) {
	p := start(t, nil)
	pub := socket(t, zmq.XPub, p.XSub(), zmq.Options{})
	if got := recv(t, pub); got != "\x01" {
		t.Fatalf("the publisher was told %q", got)
	}
	for round := range 20 {
		topic := fmt.Sprintf("a.%d ", round)
		sub := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, topic)
		testkit.Eventually(t, patience, func() bool { return sub.Stats().Peers == 1 }, "connected")
		probe := fmt.Sprintf("_sync.probe%d", round)
		if err := sub.Subscribe(probe); err != nil {
			t.Fatal(err)
		}
		if got := recv(t, sub); got != probe+" {}" {
			t.Fatalf("the answer is %q", got)
		}
		publish(t, pub, topic+"{}")
		if got := recv(t, sub); got != topic+"{}" {
			t.Fatalf("got %q", got)
		}
		if got := recv(t, pub); got != "\x01"+topic {
			t.Fatalf("the publisher was told %q", got)
		}
		if err := sub.Close(within(t)); err != nil {
			t.Fatal(err)
		}
		if got := recv(t, pub); got != "\x00"+topic {
			t.Fatalf("the publisher was told %q", got)
		}
	}
}

// Who subscribed to a user gets all of the user's events, whatever their type, and nobody else's;
// who takes everything gets each event once, and publishers hear nothing of it.
func TestOneUsersEvents(t *testing.T) {
	p := start(t, nil)
	pub := socket(t, zmq.XPub, p.XSub(), zmq.Options{})
	if got := recv(t, pub); got != "\x01" {
		t.Fatalf("the publisher was told %q", got)
	}
	join := func(probe string, topics ...string) *zmq.Socket {
		s := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, topics...)
		testkit.Eventually(t, patience, func() bool { return s.Stats().Peers == 1 }, "connected")
		if err := s.Subscribe(probe); err != nil {
			t.Fatal(err)
		}
		if got := recv(t, s); got != probe+" {}" {
			t.Fatalf("the answer is %q", got)
		}
		return s
	}
	one, two := join("_sync.a", event.To("42"), event.To("a.b"), "_mark."), join("_sync.b", event.To("42"))
	all := join("_sync.c", "")
	if err := two.Unsubscribe(event.To("42")); err != nil {
		t.Fatal(err)
	}
	events := []string{"notification.order.new.42 {}", "notification.421 {}", "alert.4%2E2 {}", "status.42 {}", "_mark.42 {}", "alert.a%2Eb {}", "x.42 {1}"}
	for _, e := range events {
		publish(t, pub, e)
	}
	for _, want := range []string{"_to.42 {}", "_to.42 {}", "_mark.42 {}", "_to.a%2Eb {}", "_to.42 {1}"} {
		if got := recv(t, one); got != want {
			t.Errorf("the subscriber of two users got %s, want %s", got, want)
		}
	}
	for _, want := range events {
		if got := recv(t, all); got != want {
			t.Errorf("the subscriber of everything got %s, want %s", got, want)
		}
	}
	if err := one.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := all.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() bool { return p.by.n.Load() == 0 }, "nobody's events are wanted any more")
	if err := two.Subscribe("z"); err != nil {
		t.Fatal(err)
	}
	if got := recv(t, pub); got != "\x01z" { // that of _mark. was taken back before anybody looked
		t.Errorf("the publisher was told %q", got)
	}
}

func TestGarbageGoesNoFurther(t *testing.T) {
	p := start(t, nil)
	sub := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, "")
	pub := socket(t, zmq.Pub, p.XSub(), zmq.Options{})
	awaitRoute(t, pub, sub, "a.b")
	for _, frames := range [][]string{{""}, {" {}"}, {"secret"}, {"secret "}, {"a", "secret"}, {"", "x y"}} {
		publish(t, pub, frames...)
	}
	publish(t, pub, "good.one {}")
	if got := recv(t, sub); got != "good.one {}" {
		t.Errorf("got %q", got)
	}
	page := get(t, "http://"+p.Metrics()+"/metrics")
	for _, want := range []string{`eventspine_proxy_bad_messages_total{reason="body"} 2`, `eventspine_proxy_bad_messages_total{reason="frames"} 2`,
		`eventspine_proxy_bad_messages_total{reason="topic"} 2`, "eventspine_proxy_publishers_count 1", "eventspine_proxy_subscribers_count 1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if log := p.log.String(); strings.Count(log, "malformed message") != 1 || strings.Contains(log, "secret") {
		t.Errorf("the log is\n%s", log)
	}
}

// A subscriber that does not read loses its own messages only.
func TestASlowSubscriberHarmsNobody(t *testing.T) {
	p := start(t, func(c *Config) { c.SndHWM, c.SndBytes = 100, 1<<20 })
	slow := socket(t, zmq.Sub, p.XPub(), zmq.Options{RcvHWM: 1, RcvBytes: 1}, "")
	fast := socket(t, zmq.Sub, p.XPub(), zmq.Options{}, "")
	pub := socket(t, zmq.Pub, p.XSub(), zmq.Options{})
	awaitRoute(t, pub, fast, "a.b")
	pad := strings.Repeat("x", 50_000)
	dropped := func() bool { return p.back.Stats().Dropped > 0 }
	for i := 0; !dropped(); i++ {
		publish(t, pub, fmt.Sprintf("n.%d %s", i, pad))
		if got := recv(t, fast); !strings.HasPrefix(got, fmt.Sprintf("n.%d ", i)) {
			t.Fatalf("message %d came as %.20s", i, got)
		}
		if i > 10_000 {
			t.Fatal("500 MB fit the slow subscriber")
		}
	}
	_ = slow
	page := get(t, "http://"+p.Metrics()+"/metrics")
	if strings.Contains(page, "eventspine_proxy_dropped_messages_total 0\n") {
		t.Error("the drops are not in the metrics")
	}
}

func get(t testing.TB, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestHealth(t *testing.T) {
	p := start(t, nil)
	req := socket(t, zmq.Req, p.Health(), zmq.Options{})
	if err := req.Send(within(t), zmq.Msg{[]byte("PING")}); err != nil {
		t.Fatal(err)
	}
	if got := recv(t, req); got != "PONG" {
		t.Errorf("got %q", got)
	}
	if got := get(t, "http://"+p.Metrics()+"/readyz"); !strings.Contains(got, `"ready"`) {
		t.Errorf("readyz says %s", got)
	}
}

// What publishers sent before the end still reaches the subscribers.
func TestStopDrains(t *testing.T) {
	p := start(t, nil)
	sub := socket(t, zmq.Sub, p.XPub(), zmq.Options{RcvHWM: 100_000}, "")
	pub := socket(t, zmq.Pub, p.XSub(), zmq.Options{SndHWM: 100_000})
	awaitRoute(t, pub, sub, "a.b")
	const n = 5000
	for i := range n {
		publish(t, pub, fmt.Sprintf("n.%d {}", i))
	}
	if err := pub.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run gave %v", err)
	}
	for i := range n {
		if got, want := recv(t, sub), fmt.Sprintf("n.%d {}", i); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func TestAnEndedContextOnlyCloses(t *testing.T) {
	c := DefaultConfig()
	c.XSubBind, c.XPubBind, c.ControlBind, c.Health, c.Metrics = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "", ""
	d, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, c, d); err != nil {
		t.Error(err)
	}
}

func TestOpenNamesTheWrongSetting(t *testing.T) {
	taken := start(t, nil)
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
		kind   fault.Kind
	}{
		"queue":      {func(c *Config) { c.SndHWM = 0 }, "PROXY_SNDHWM", fault.Invalid},
		"bytes":      {func(c *Config) { c.SndBytes = 1 }, "PROXY_SNDBYTES", fault.Invalid},
		"front":      {func(c *Config) { c.XSubBind = "nonsense" }, "ZMQ_PROXY_XSUB_BIND", fault.Invalid},
		"back taken": {func(c *Config) { c.XPubBind = taken.XPub() }, "ZMQ_PROXY_XPUB_BIND", fault.Unavailable},
		"control":    {func(c *Config) { c.ControlBind = taken.Control() }, "ZMQ_CONTROL_BIND", fault.Unavailable},
		"instance":   {func(c *Config) { c.Service, c.InstanceID, c.Control = "proxy", "\n", []string{"tcp://127.0.0.1:1"} }, "name", fault.Invalid},
		"health":     {func(c *Config) { c.Health = taken.Health() }, "ZMQ_HEALTH", fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.XSubBind, cfg.XPubBind, cfg.ControlBind, cfg.Health, cfg.Metrics = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "", "", ""
			c.change(&cfg)
			_, err := Open(within(t), cfg)
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v of kind %v, want %s named", err, fault.KindOf(err), c.want)
			}
		})
	}
}

func TestTheDefaultsAreValid(t *testing.T) {
	c := DefaultConfig()
	if wrong := c.Validate(); len(wrong) > 0 {
		t.Error(wrong)
	}
}

func TestProblem(t *testing.T) {
	for msg, want := range map[string]string{"a {}": "", "a b": "", "a": "body", "a ": "body", "": "topic", " x": "topic", " ": "topic"} {
		if got := problem(zmq.Msg{[]byte(msg)}); got != want {
			t.Errorf("%q: %q, want %q", msg, got, want)
		}
	}
	if problem(zmq.Msg{}) != "frames" || problem(zmq.Msg{{'a'}, {'b'}}) != "frames" {
		t.Error("frames are not counted")
	}
}

func BenchmarkForward(b *testing.B) {
	for name, forward := range map[string]func(context.Context, *zmq.Socket, *zmq.Socket) error{
		"zmq.Forward": zmq.Forward,
		"filtered": func(ctx context.Context, front, back *zmq.Socket) error {
			ended := make(chan error, 2)
			m := newMetrics(prometheus.NewRegistry(), front, back)
			by := newAddressees()
			go func() { ended <- subscriptions(ctx, back, front, by) }()
			go func() { ended <- pump(ctx, front, back, by, m, quiet.New(nil, time.Second)) }()
			return errors.Join(<-ended, <-ended)
		},
	} {
		b.Run(name, func(b *testing.B) { benchmark(b, forward) })
	}
}

func benchmark(b *testing.B, forward func(context.Context, *zmq.Socket, *zmq.Socket) error) {
	front, back := zmq.New(zmq.XSub, zmq.Options{RcvHWM: 10_000}), zmq.New(zmq.XPub, zmq.Options{SndHWM: 10_000_000, SndBytes: 1 << 32})
	in, err := front.Bind(b.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	out, err := back.Bind(b.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- forward(ctx, front, back) }()
	sub := socket(b, zmq.Sub, out, zmq.Options{}, "")
	pub := socket(b, zmq.Pub, in, zmq.Options{SndHWM: 10_000_000, SndBytes: 1 << 32})
	awaitRoute(b, pub, sub, "a.b")
	m := zmq.Msg{[]byte("a.b " + strings.Repeat("x", 256))}
	b.ResetTimer()
	for range b.N {
		if err := pub.TrySend(m); err != nil {
			b.Fatal(err)
		}
	}
	for range b.N {
		if _, err := sub.Recv(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil && ctx.Err() == nil {
		b.Error(err)
	}
	_ = front.Close(context.Background())
	_ = back.Close(context.Background())
}
