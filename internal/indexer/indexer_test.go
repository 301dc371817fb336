package indexer

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func body(id string, seq int) string {
	return fmt.Sprintf(`{"id":"%s","type":"order.created","userId":"42","timestamp":%d,"data":{"n":%d},"partition":1,"seq":%d,"prev":{"user":0,"feed":0},"epoch":7}`,
		id, 1_700_000_000_000+seq, seq, seq)
}

func stored(t *testing.T, id string, seq int) event.Event {
	t.Helper()
	e, err := event.ParseStored([]byte(body(id, seq)))
	must(t, err)
	return e
}

func some(t *testing.T, n int) []event.Event {
	t.Helper()
	out := make([]event.Event, n)
	for i := range out {
		out[i] = stored(t, fmt.Sprint("e", i), i+1)
	}
	return out
}

// answers is an index that answers as it is told, and takes everything when it has no answer left.
type answers struct {
	mu       sync.Mutex
	index    []func([]event.Event) (archive.Result, error)
	bury     []func([]archive.Letter) (archive.Result, error)
	prepares int
	away     error // of Prepare
	sent     [][]string
	buried   [][]string
}

func (a *answers) Bury(_ context.Context, letters []archive.Letter) (archive.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, len(letters))
	for i := range letters {
		ids[i] = letters[i].ID
	}
	a.buried = append(a.buried, ids)
	if len(a.bury) == 0 {
		return archive.Result{Indexed: len(letters)}, nil
	}
	next := a.bury[0]
	a.bury = a.bury[1:]
	return next(letters)
}

func (a *answers) Prepare(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.prepares++
	return a.away
}

func (a *answers) Index(_ context.Context, events []event.Event) (archive.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, len(events))
	for i := range events {
		ids[i] = events[i].ID
	}
	a.sent = append(a.sent, ids)
	if len(a.index) == 0 {
		return archive.Result{Indexed: len(events)}, nil
	}
	next := a.index[0]
	a.index = a.index[1:]
	return next(events)
}

func TestConfig(t *testing.T) {
	good := DefaultConfig()
	if wrong := good.Validate(); len(wrong) > 0 {
		t.Errorf("the defaults are wrong: %v", wrong)
	}
	bad := Config{Replicas: -1, SnailLimit: time.Millisecond}
	if wrong := bad.Validate(); len(wrong) != 16 {
		t.Errorf("%d fields are wrong, want 16: %v", len(wrong), wrong)
	}
	for name, change := range map[string]func(*Config){
		"ES_HOST":  func(c *Config) { c.ESHosts = []string{"ftp://x"} },
		"ES_INDEX": func(c *Config) { c.Index = "No!" },
		"proxy":    func(c *Config) { c.Proxies = []string{"nonsense"} },
		"flush":    func(c *Config) { c.Flush = 0 },
	} {
		c := DefaultConfig()
		c.Health, c.Metrics, c.SpoolDir = "", "", t.TempDir()
		change(&c)
		if _, err := Open(t.Context(), c); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: kind %v: %v", name, fault.KindOf(err), err)
		}
	}
}
