package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/auth"
	"eventspine/internal/embedded/redis"
	"eventspine/internal/embedded/search"
	"eventspine/internal/fault"
	"eventspine/internal/mdp"
	"eventspine/internal/socketio/client"
	"eventspine/internal/status"
	"eventspine/internal/testkit"
)

const secret = "a-secret-for-tests-only-0123456789"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

// embedded is the configuration of a suite on free ports with embedded servers.
func embedded(t *testing.T) Config {
	t.Helper()
	r, err := redis.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	e, err := search.Start(t.Context(), search.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	c := DefaultConfig()
	c.AnyPort()
	c.Servers(r.URL(), e.URL(), secret)
	c.Data(t.TempDir())
	c.Logger(slog.New(slog.DiscardHandler))
	return c
}

func start(t *testing.T, c Config) (s *Suite, stop func() error) {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return s, func() error { cancel(); return <-ended }
}

func token(t *testing.T, user string) string {
	t.Helper()
	tok, err := auth.Sign(secret, auth.Claims{Subject: user, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func post(t *testing.T, s *Suite, user, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.API+"/api/events", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token(t, user))
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// An event goes all the way, and the end leaves nothing behind: goleak looks after the test.
func TestTheWholeInOneProcess(t *testing.T) {
	s, stop := start(t, embedded(t))
	var c *client.Client
	testkit.Eventually(t, 10*time.Second, func() bool {
		var err error
		c, err = client.Dial(t.Context(), "http://"+s.Bridge, token(t, "ana"), client.Options{})
		return err == nil
	}, "no connection")
	testkit.Eventually(t, 10*time.Second, func() bool {
		return post(t, s, "ana", `{"id":"first","type":"notification.check"}`) == http.StatusAccepted
	}, "the api takes no event")
	name, body, err := c.Recv(t.Context())
	if err != nil || name != "notification" || !strings.Contains(string(body), `"id":"first"`) {
		t.Errorf("got %s %s, %v", name, body, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What is accepted before the end is delivered before the end: upstream stops first.
func TestTheEndDrains(t *testing.T) {
	c := embedded(t)
	s, stop := start(t, c)
	testkit.Eventually(t, 10*time.Second, func() bool {
		return post(t, s, "ana", `{"id":"warm","type":"notification.check"}`) == http.StatusAccepted
	}, "the api takes no event")
	const n = 200
	for i := range n {
		if status := post(t, s, "ana", fmt.Sprintf(`{"id":"e%d","type":"notification.check"}`, i)); status != http.StatusAccepted {
			t.Fatalf("event %d: %d", i, status)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// A second suite on the same servers gives them back.
	again, stop := start(t, c)
	var events []json.RawMessage
	testkit.Eventually(t, 10*time.Second, func() bool {
		b, err := client.Dial(t.Context(), "http://"+again.Bridge, token(t, "ana"), client.Options{})
		if err != nil {
			return false
		}
		defer func() { _ = b.Close() }()
		events, _, err = b.Sync(t.Context(), 0)
		return err == nil && len(events) == n+1
	}, "not all events are there")
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestOpenClosesWhatItOpened(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().String()
	for name, change := range map[string]func(*Config){
		"proxy":   func(c *Config) { c.Proxy.XSubBind = "tcp://" + taken },
		"worker":  func(c *Config) { c.Worker.Bind = "tcp://" + taken },
		"api":     func(c *Config) { c.API.Addr = taken },
		"indexer": func(c *Config) { c.Indexer.Metrics = taken },
		"bridge":  func(c *Config) { c.Bridge.Addr = taken },
	} {
		t.Run(name, func(t *testing.T) {
			c := embedded(t)
			change(&c)
			_, err := Open(t.Context(), c)
			if err == nil || !strings.HasPrefix(err.Error(), name+": ") || fault.KindOf(err) != fault.Unavailable {
				t.Errorf("got %v of kind %s", err, fault.KindOf(err))
			}
		})
	}
}

// One service that fails ends them all, and its error is the suite's.
func TestAFailureEndsAll(t *testing.T) {
	broken := errors.New("it broke")
	stopped := make(chan string, 2)
	waits := func(name string) stage {
		return stage{name, func(ctx context.Context) error { <-ctx.Done(); stopped <- name; return nil }}
	}
	s := &Suite{stages: []stage{waits("first"), {"second", func(context.Context) error { return broken }}, waits("third")}}
	if err := s.Run(t.Context()); !errors.Is(err, broken) || !strings.Contains(err.Error(), "second: ") {
		t.Errorf("got %v", err)
	}
	if a, b := <-stopped, <-stopped; a != "first" || b != "third" {
		t.Errorf("ended in the order %s, %s", a, b)
	}
}

// A configuration that is not told to use any port has no two sockets on one address.
func TestDefaultAddressesDiffer(t *testing.T) {
	c := DefaultConfig()
	seen := map[string]string{}
	add := func(owner, addr string) {
		if addr == "" {
			return
		}
		if other, ok := seen[addr]; ok {
			t.Errorf("%s and %s are both at %s", owner, other, addr)
		}
		seen[addr] = owner
	}
	for _, n := range c.named() {
		add(n.name+" metrics", n.common.Metrics)
		add(n.name+" health", n.common.Health)
	}
	add("worker", c.Worker.Bind)
	add("control", c.Proxy.ControlBind)
	add("clone snapshots", c.Proxy.CloneSnapshot)
	add("clone updates", c.Proxy.CloneUpdates)
	add("clone changes", c.Proxy.CloneChanges)
	add("xsub", c.Proxy.XSubBind)
	add("xpub", c.Proxy.XPubBind)
}

// Every service registers with the control plane, and tells its figures.
func TestEveryServiceTellsItsStatus(t *testing.T) {
	s, stop := start(t, embedded(t))
	o := mdp.ClientOptions{Endpoints: []string{s.Control}, Timeout: 2 * time.Second}
	alive := ""
	testkit.Eventually(t, 10*time.Second, func() bool {
		reports, err := status.Survey(t.Context(), o)
		alive = ""
		for _, r := range reports {
			if r.State == status.Alive && len(r.Status.Queues) > 0 {
				alive += r.Instance + " "
			}
		}
		return err == nil && alive == "api-1 bridge-1 indexer-1 proxy-1 worker-1 "
	}, "not every service is in the survey")
	if err := stop(); err != nil {
		t.Error(err)
	}
}
