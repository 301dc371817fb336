package worker

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/quiet"
	"eventspine/internal/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience   = 20 * time.Second // no test waits longer for anything
	partitions = 4
)

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func mustEvent(t testing.TB, raw string) event.Event {
	t.Helper()
	e, err := event.Parse([]byte(raw))
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return e
}

func mustEvents(t testing.TB, raws ...string) []event.Event {
	t.Helper()
	out := make([]event.Event, len(raws))
	for i, raw := range raws {
		out[i] = mustEvent(t, raw)
	}
	return out
}

// people is a users that answers from a map, or with an error.
type people struct {
	mu    sync.Mutex
	known map[string]string
	errs  map[string]error // by user
	asked [][]string
}

func (p *people) Many(_ context.Context, ids []string) (map[string]json.RawMessage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, ids)
	out := map[string]json.RawMessage{}
	for _, id := range ids {
		if err := p.errs[id]; err != nil {
			return nil, err
		}
		if user, ok := p.known[id]; ok {
			out[id] = json.RawMessage(user)
		}
	}
	return out, nil
}

func newProcessor(t testing.TB, u users, src string) *processor {
	t.Helper()
	set, err := rules.Default()
	if src != "" {
		set, err = rules.Parse("rules.yaml", []byte(src))
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &processor{users: u, partitions: partitions, m: newMetrics(nil), log: quiet.New(nil, 0),
		deliverable: map[string]bool{"notification": true, "alert": true},
		now:         func() time.Time { return time.UnixMilli(1_000_000) }}
	p.rules.Store(set)
	return p
}

func raws(entries []journal.Entry) []string {
	out := make([]string, len(entries))
	for i := range entries {
		out[i] = string(entries[i].Event.Raw)
	}
	return out
}

// process gives the entries that events without a number become.
func process(t testing.TB, p *processor, events []event.Event) ([]journal.Entry, error) {
	t.Helper()
	got, err := p.Process(t.Context(), []unit{{events: events}})
	if err != nil {
		return nil, err
	}
	if len(got.runs) > 0 || len(got.replies) > 0 {
		t.Error("events without a number want an answer")
	}
	return got.loose, nil
}
