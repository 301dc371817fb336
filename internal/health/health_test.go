package health

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/mdp"
	"eventspine/internal/status"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

func common() *config.Common {
	return &config.Common{Health: "tcp://127.0.0.1:0", Metrics: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}
}

// serve runs a server until the test ends and fails the test when it does not end cleanly.
func serve(t *testing.T, checks ...Check) *Server {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "eventspine_test_things_total"}, func() float64 { return 7 }))
	s, err := Listen(t.Context(), common(), nil, reg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, checks...) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func read(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func ask(t *testing.T, endpoint, question string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	req := zmq.New(zmq.Req, zmq.Options{})
	defer func() { _ = req.Close(ctx) }()
	if err := req.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	if err := req.Send(ctx, zmq.Msg{[]byte(question)}); err != nil {
		t.Fatal(err)
	}
	m, err := req.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(m[0])
}

func TestPingPong(t *testing.T) {
	s := serve(t)
	if got := ask(t, s.ZMQ(), "PING"); got != "PONG" {
		t.Errorf("PING is answered by %q", got)
	}
	if got := ask(t, s.ZMQ(), "hello"); !strings.HasPrefix(got, "ERROR") {
		t.Errorf("hello is answered by %q", got)
	}
	if got := ask(t, s.ZMQ(), "PING"); got != "PONG" {
		t.Errorf("after a wrong question PING is answered by %q", got)
	}
}

func TestReadyNamesWhatIsAway(t *testing.T) {
	fine := func(context.Context) error { return nil }
	away := func(context.Context) error { return errors.New("connection refused") }
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		checks []Check
		status int
		want   map[string]string
	}{
		"no dependency":       {nil, 200, nil},
		"all there":           {[]Check{{"redis", fine, false}}, 200, map[string]string{"redis": "ok"}},
		"one away":            {[]Check{{"redis", away, false}, {"proxy", fine, false}}, 503, map[string]string{"redis": "connection refused", "proxy": "ok"}},
		"an optional one":     {[]Check{{"redis", fine, false}, {"search", away, true}}, 200, map[string]string{"redis": "ok", "search": "connection refused"}},
		"one does not answer": {[]Check{{"redis", hangs, false}}, 503, map[string]string{"redis": "context deadline exceeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.checks...)
			status, body := read(t, "http://"+s.HTTP()+"/readyz")
			var got report
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatal(err)
			}
			if status != c.status || (got.Status == "ready") != (status == 200) {
				t.Errorf("status %d, %s", status, body)
			}
			if len(got.Checks) != len(c.want) {
				t.Errorf("checks %v, want %v", got.Checks, c.want)
			}
			for k, v := range c.want {
				if got.Checks[k] != v {
					t.Errorf("%s: %q, want %q", k, got.Checks[k], v)
				}
			}
		})
	}
}

func TestAliveAndMetrics(t *testing.T) {
	s := serve(t, Check{Name: "redis", Probe: func(context.Context) error { return errors.New("away") }})
	if status, _ := read(t, "http://"+s.HTTP()+"/healthz"); status != 200 {
		t.Errorf("/healthz is %d while a dependency is away; it says only that the process lives", status)
	}
	if _, body := read(t, "http://"+s.HTTP()+"/metrics"); !strings.Contains(body, "eventspine_test_things_total 7") {
		t.Errorf("/metrics lacks the counter: %s", body)
	}
	if status, _ := read(t, "http://"+s.HTTP()+"/secrets"); status != 404 {
		t.Errorf("an unknown path is %d", status)
	}
}

func TestListenErrors(t *testing.T) {
	taken := serve(t)
	for name, c := range map[string]struct {
		change func(*config.Common)
		kind   fault.Kind
		names  string
	}{
		"metrics address taken": {func(c *config.Common) { c.Metrics = taken.HTTP() }, fault.Unavailable, "METRICS_ADDR"},
		"health socket taken":   {func(c *config.Common) { c.Health = taken.ZMQ() }, fault.Unavailable, "ZMQ_HEALTH"},
		"no endpoint":           {func(c *config.Common) { c.Health = "nonsense" }, fault.Invalid, "ZMQ_HEALTH"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := common()
			c.change(cfg)
			_, err := Listen(t.Context(), cfg, nil, prometheus.NewRegistry())
			if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.names) {
				t.Errorf("got %v of kind %s, want kind %s naming %s", err, fault.KindOf(err), c.kind, c.names)
			}
		})
	}
}

func TestNothingToServe(t *testing.T) {
	s, err := Listen(t.Context(), &config.Common{Log: slog.New(slog.DiscardHandler)}, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if s.HTTP() != "" || s.ZMQ() != "" {
		t.Errorf("listens at %q and %q", s.HTTP(), s.ZMQ())
	}
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// A client that holds its connection open must not hold up the end.
func TestEndsWithAnIdleClient(t *testing.T) {
	s := serve(t)
	read(t, "http://"+s.HTTP()+"/healthz") // the default client keeps the connection
}

// A service with a name and a control plane is found there under both.
func TestItRegistersWithTheControlPlane(t *testing.T) {
	b, err := mdp.Listen(t.Context(), "tcp://127.0.0.1:0", mdp.BrokerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := common()
	c.Service, c.InstanceID, c.Control = "demo", "demo-7", []string{b.Endpoint()}
	s, err := Listen(t.Context(), c, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- b.Run(ctx) }()
	go func() { ended <- s.Run(ctx) }()
	testkit.Eventually(t, 5*time.Second, func() bool {
		found, err := status.Survey(t.Context(), mdp.ClientOptions{Endpoints: c.Control})
		return err == nil && len(found) == 1 && found[0].State == status.Alive && found[0].Instance == "demo-7" && found[0].Service == "demo"
	}, "the service is in the survey")
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestANameThatIsNoneIsRefused(t *testing.T) {
	c := common()
	c.Service, c.InstanceID, c.Control = "demo", "two\nlines", []string{"tcp://127.0.0.1:1"}
	if _, err := Listen(t.Context(), c, nil, prometheus.NewRegistry()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}
