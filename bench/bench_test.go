package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// TestSmallRun keeps the benchmark itself in order: a short run counts every event.
func TestSmallRun(t *testing.T) {
	o := options{Rate: 100, For: time.Second, WarmUp: time.Millisecond, Clients: 5, Burst: 300, Workers: 1, Senders: 4}
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
		t.Skip("needs redis-server; make test runs it")
	}
	var out bytes.Buffer
	if code := bench(t.Context(), o, &out); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out.String())
	}
	var r result
	_, figures, _ := strings.Cut(out.String(), "{")
	if err := json.Unmarshal([]byte("{"+figures), &r); err != nil {
		t.Fatal(err)
	}
	if r.Steady.Received != 100 || r.Burst.Received != 300 || r.Steady.P99 <= 0 || r.Steady.Machine.LateP99 <= 0 {
		t.Errorf("figures: %+v %+v", r.Steady, r.Burst)
	}
}

// TestSmallSoak: a short soak run counts every event and tells of everything that could grow.
func TestSmallSoak(t *testing.T) {
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
		t.Skip("needs redis-server; make test runs it")
	}
	var out bytes.Buffer
	if code := bench(t.Context(), options{Rate: 100, Soak: 3 * time.Second, Clients: 5, Workers: 1, Senders: 4}, &out); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out.String())
	}
	for _, what := range []string{"RSS of api-1", "RSS of indexer-1", "Redis memory", "disk, log of the api", "disk, spool of the indexer", "disk, index", " %"} {
		if !strings.Contains(out.String(), what) {
			t.Errorf("nothing is said of %q:\n%s", what, out.String())
		}
	}
}

// TestSmallDrain: a backlog goes into the index when Elasticsearch is back, and live events beside it.
func TestSmallDrain(t *testing.T) {
	if os.Getenv("EVENTSPINE_TEST_ES") == "" {
		t.Skip("needs Elasticsearch and redis-server; make test runs it")
	}
	var out bytes.Buffer
	o := options{Rate: 50, For: time.Second, WarmUp: time.Millisecond, Clients: 5, Burst: 50, Workers: 1, Senders: 4, Drain: 2000, ES: os.Getenv("EVENTSPINE_TEST_ES")}
	if code := bench(t.Context(), o, &out); code != 0 {
		t.Fatalf("exit code %d\n%s", code, out.String())
	}
	for _, what := range []string{"backlog: 2000 events", "drained: 2000 events", "live, 50 events/s"} {
		if !strings.Contains(out.String(), what) {
			t.Errorf("nothing is said of %q:\n%s", what, out.String())
		}
	}
}

// TestLossIsSeen wants the exit code to tell when something did not arrive.
func TestLossIsSeen(t *testing.T) {
	for name, change := range map[string]func(*figures){
		"not in a browser": func(f *figures) { f.Received-- },
		"not in the index": func(f *figures) { f.Indexed-- },
		"twice":            func(f *figures) { f.Repeated++ },
		"not accepted":     func(f *figures) { f.Accepted-- },
	} {
		f := figures{Sent: 10, Accepted: 10, Received: 10, Indexed: 10}
		if (&result{Steady: &f}).lost() {
			t.Fatal("a good run counts as lost")
		}
		change(&f)
		if !(&result{Steady: &f}).lost() {
			t.Errorf("%s: not seen", name)
		}
	}
}

func TestQuantile(t *testing.T) {
	got := []int64{1e6, 2e6, 3e6, 4e6, 100e6}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 1: 100} {
		if v := quantile(got, q); v != want {
			t.Errorf("quantile %v is %v, want %v", q, v, want)
		}
	}
}

// TestPacketOfAnEvent reads numbers from packets of this part only, and from none that lacks them.
func TestPacketOfAnEvent(t *testing.T) {
	p := newPart("steady", "x", 10)
	good := `42["notification",{"type":"notification.bench.steadyx","data":{"n":7,"due":1500,"text":"a"}}]`
	if n, due, ok := p.event([]byte(good)); n != 7 || due != 1500 || !ok {
		t.Errorf("event: %d, %d, %v", n, due, ok)
	}
	for _, bad := range []string{
		"", "3", `42["error",{}]`,
		strings.Replace(good, "steadyx", "steadyy", 1), // another run's
		strings.Replace(good, `"n":7`, `"n":10`, 1),    // more than there are
		strings.Replace(good, `"n":7`, `"n":-1`, 1),
		strings.Replace(good, `"n":7`, `"n":`, 1),
		strings.Replace(good, `,"due":1500`, ``, 1),
	} {
		if n, due, ok := p.event([]byte(bad)); ok {
			t.Errorf("%s: event %d, due %d", bad, n, due)
		}
	}
}
