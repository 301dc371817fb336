package indexer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/retry"
	"eventspine/internal/wal"
)

var (
	away = fault.Errorf("index", fault.Unavailable, "away")
	busy = fault.Errorf("index", fault.Overloaded, "busy")
)

func newSender(ix index, dead string, log io.Writer) *sender {
	return &sender{index: ix, dead: &deadFile{path: dead}, m: newMetrics(prometheus.NewRegistry()),
		log: slog.New(slog.NewJSONHandler(log, nil)), retry: retry.Policy{Min: 100 * time.Millisecond}}
}

func newBatch(t *testing.T, n int) *batch {
	x := &batch{spans: spans{}, oldest: time.Now()}
	x.ctx, x.cancel = context.WithCancel(t.Context())
	for i, e := range some(t, n) {
		x.take(at(e, uint64(i)))
	}
	return x
}

func open() bool { return false }

func TestSenderTriesUntilAllIsAccountedFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dead.jsonl")
	synctest.Test(t, func(t *testing.T) {
		ix := &answers{index: []func([]event.Event) (archive.Result, error){
			func([]event.Event) (archive.Result, error) { return archive.Result{}, away },
			func([]event.Event) (archive.Result, error) { return archive.Result{}, errors.New("of no kind") },
			func([]event.Event) (archive.Result, error) {
				return archive.Result{Indexed: 1, Existing: 1, Retry: []int{1, 3}, Cause: busy, Wait: 20 * time.Second,
					Refused: []archive.Refusal{{Doc: 4, ID: "e4", Reason: "a reason", Status: 400}}}, nil
			},
		}, bury: []func([]archive.Letter) (archive.Result, error){
			func([]archive.Letter) (archive.Result, error) { return archive.Result{}, busy },
		}}
		var log bytes.Buffer
		s := newSender(ix, file, &log)
		start := time.Now()
		x := newBatch(t, 5)
		if !s.send(x, open) || len(x.items) > 0 || len(x.letters) > 0 {
			t.Errorf("%d events and %d letters are left", len(x.items), len(x.letters))
		}
		if got := fmt.Sprint(ix.sent[2:]); got != "[[e0 e1 e2 e3 e4] [e1 e3]]" {
			t.Errorf("sent %s", got)
		}
		if got := fmt.Sprint(ix.buried); got != "[[e4] [e4]]" {
			t.Errorf("buried %s", got)
		}
		if d := time.Since(start); d < 20*time.Second {
			t.Errorf("it did not wait as asked: %v", d)
		}
		if ix.prepares != 5 {
			t.Errorf("the templates were looked after %d times, want 5: at first and after each failure", ix.prepares)
		}
		for name, c := range map[string]struct {
			got  prometheus.Counter
			want float64
		}{"indexed": {s.m.indexed, 3}, "existing": {s.m.existing, 1}, "refused": {s.m.refused, 1}, "retries": {s.m.retries, 4}} {
			if v := testutil.ToFloat64(c.got); v != c.want {
				t.Errorf("%s is %v, want %v", name, v, c.want)
			}
		}
		for line, want := range map[string]int{"does not take events": 1, "takes events again": 1, `"id":"e4"`: 1, "a reason": 1} {
			if n := strings.Count(log.String(), line); n != want {
				t.Errorf("%d log lines with %q, want %d:\n%s", n, line, want, log.String())
			}
		}
		text, err := os.ReadFile(file)
		must(t, err)
		var l archive.Letter
		must(t, json.Unmarshal(text, &l)) // one line
		if l.ID != "e4" || l.Reason != "a reason" || l.Status != 400 || l.Raw != body("e4", 5) || l.Seq != 5 {
			t.Errorf("the letter is %+v", l)
		}
	})
}

// A letter that is refused too is in the file; where there is none, it is tried on.
func TestLettersThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	refuse := func([]event.Event) (archive.Result, error) {
		return archive.Result{Refused: []archive.Refusal{{Doc: 0, ID: "e0", Reason: "r", Status: 400}}}, nil
	}
	again := func(l []archive.Letter) (archive.Result, error) {
		return archive.Result{Refused: []archive.Refusal{{Doc: 0, ID: "e0", Reason: "r", Status: 400}}}, nil
	}
	for file, tries := range map[string]int{filepath.Join(dir, "dead.jsonl"): 1, filepath.Join(dir, "no", "such", "place"): 3} {
		synctest.Test(t, func(t *testing.T) {
			ix := &answers{index: []func([]event.Event) (archive.Result, error){refuse},
				bury: []func([]archive.Letter) (archive.Result, error){again, again}}
			s := newSender(ix, file, io.Discard)
			if !s.send(newBatch(t, 1), open) || len(ix.buried) != tries || len(ix.sent) != 1 {
				t.Errorf("%s: buried %d times, sent %d times", file, len(ix.buried), len(ix.sent))
			}
		})
	}
}

func TestTheFileOfDeadLettersIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.jsonl")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, maxDeadFile+1))
	d := &deadFile{path: path}
	for range 2 {
		must(t, d.write([]archive.Letter{{ID: "a"}}))
	}
	now, err := os.Stat(path)
	must(t, err)
	old, err := os.Stat(path + ".old")
	must(t, err)
	if now.Size() > 1000 || old.Size() <= maxDeadFile {
		t.Errorf("%d bytes, and %d in the old one", now.Size(), old.Size())
	}
}

// After the end is asked for, Elasticsearch has one try a batch.
func TestCollectGivesUpAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ix := &answers{away: away}
		b, _ := newTestBacklog(t, filepath.Join(dir, "spool"), 0, 1<<30, wal.Options{})
		defer closeBacklog(t, b)
		s := newSender(ix, filepath.Join(dir, "dead"), io.Discard)
		for i, e := range some(t, 4500) {
			must(t, b.put(t.Context(), at(e, uint64(i))))
		}
		b.close()
		start := time.Now()
		s.collect(t.Context(), b, 100, time.Second)
		if n, _, _, _, _ := b.figures(); n != 4500 || time.Since(start) > time.Second {
			t.Errorf("%d events are left after %v", n, time.Since(start))
		}
		must(t, b.toSpool(t.Context()))
		if n, _, spooled, _, _ := b.figures(); n != 0 || spooled != 4500 {
			t.Errorf("%d events are left, %d in the spool", n, spooled)
		}
	})
}

func TestBatchesGrowWhileElasticsearchIsSlow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b, _ := newTestBacklog(t, dir, 0, 1<<30, wal.Options{})
		defer closeBacklog(t, b)
		ix := &slowIndex{}
		s := newSender(ix, "", io.Discard)
		done := make(chan struct{})
		go func() { defer close(done); s.collect(t.Context(), b, 100, 500*time.Millisecond) }()
		for i, e := range some(t, 3000) {
			<-time.After(time.Millisecond) // simulated
			must(t, b.put(t.Context(), at(e, uint64(i))))
		}
		b.close()
		<-done
		total, largest := 0, 0
		for _, ids := range ix.sent {
			total, largest = total+len(ids), max(largest, len(ids))
		}
		if total != 3000 || largest < 300 || len(ix.sent) > 12 || ix.most > maxInFlight {
			t.Errorf("%d events in %d batches, the largest %d, %d at once", total, len(ix.sent), largest, ix.most)
		}
	})
}

// slowIndex takes a second for each batch.
type slowIndex struct {
	answers
	at, most int
}

func (s *slowIndex) Index(ctx context.Context, events []event.Event) (archive.Result, error) {
	s.mu.Lock()
	s.at++
	s.most = max(s.most, s.at)
	s.mu.Unlock()
	<-time.After(time.Second) // simulated
	s.mu.Lock()
	s.at--
	s.mu.Unlock()
	return s.answers.Index(ctx, events)
}

// fakeDisks is what a test says.
type fakeDisks struct {
	disk   archive.Disk
	lifted [][]string
}

func (f *fakeDisks) Disk(context.Context) (archive.Disk, error) { return f.disk, nil }
func (f *fakeDisks) Unblock(_ context.Context, indices []string) error {
	f.lifted = append(f.lifted, indices)
	return nil
}

func TestDiskWatch(t *testing.T) {
	f := &fakeDisks{}
	early := 0
	var log bytes.Buffer
	w := &diskWatch{disks: f, early: func(context.Context) error { early++; return nil }, m: newMetrics(prometheus.NewRegistry()), log: slog.New(slog.NewJSONHandler(&log, nil))}
	for _, step := range []struct {
		disk          archive.Disk
		early, lifted int
	}{
		{archive.Disk{Used: 0.5}, 0, 0},
		{archive.Disk{Used: 0.91, High: true}, 1, 0},
		{archive.Disk{Used: 0.96, High: true, Flood: true, Blocked: []string{"events-2026.11.21"}}, 2, 0},
		{archive.Disk{Used: 0.92, High: true, Blocked: []string{"events-2026.11.21"}}, 3, 0},
		{archive.Disk{Used: 0.80, Blocked: []string{"events-2026.11.21"}}, 3, 1},
		{archive.Disk{Used: 0.80}, 3, 1},
	} {
		f.disk = step.disk
		w.look(t.Context())
		if early != step.early || len(f.lifted) != step.lifted || testutil.ToFloat64(w.m.diskUsed) != step.disk.Used || int(testutil.ToFloat64(w.m.blocked)) != len(step.disk.Blocked) {
			t.Errorf("%+v: %d times early, %d lifted", step.disk, early, len(f.lifted))
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("%d log lines, want 3:\n%s", n, log.String())
	}
}

// tightIndex takes 130 events in the time of a request; more are a time-out.
type tightIndex struct {
	answers
	got  []string
	sent []int
}

func (x *tightIndex) Index(_ context.Context, events []event.Event) (archive.Result, error) {
	x.sent = append(x.sent, len(events))
	if len(events) > 130 {
		return archive.Result{}, away
	}
	for i := range events {
		x.got = append(x.got, events[i].ID)
	}
	return archive.Result{Indexed: len(events)}, nil
}

// TestRequestsShrinkUntilTheyGoThrough: what Elasticsearch cannot do in the time of a request goes in
// parts, in order and each once, and the parts grow again.
func TestRequestsShrinkUntilTheyGoThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ix := &tightIndex{}
		s := newSender(ix, "", io.Discard)
		x := newBatch(t, 1000)
		want := make([]string, len(x.items))
		for i := range x.items {
			want[i] = x.items[i].event.ID
		}
		if !s.send(x, open) {
			t.Fatal("it was not sent")
		}
		if !slices.Equal(ix.got, want) {
			t.Errorf("%d events came, not the %d in order", len(ix.got), len(want))
		}
		if first := ix.sent[:5]; !slices.Equal(first, []int{1000, 500, 250, 125, 250}) {
			t.Errorf("the requests had %v events", first)
		}
	})
}
