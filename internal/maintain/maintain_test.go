package maintain_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"eventspine/internal/archive"
	"eventspine/internal/checkpoint"
	embeddedsearch "eventspine/internal/embedded/search"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/maintain"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const partitions = 4

// fixture is a journal and an index of its own, the index behind a proxy that counts requests.
type fixture struct {
	t        *testing.T
	url      string // of the index, uncounted
	name     string // of the index
	redis    rdb.Client
	redisURL string
	journal  *journal.Journal
	archive  *archive.Archive
	requests atomic.Int64
}

// eachIndex runs fn with the embedded index and with the genuine one.
func eachIndex(t *testing.T, fn func(*fixture)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		s, err := embeddedsearch.Start(t.Context(), embeddedsearch.Options{Dir: t.TempDir()})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
		fn(newFixture(t, s.URL()))
	})
	t.Run("genuine", func(t *testing.T) { fn(newFixture(t, genuine(t))) })
}

func genuine(t *testing.T) string {
	t.Helper()
	at := os.Getenv("EVENTSPINE_TEST_ES")
	if at == "" {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
			t.Fatal("EVENTSPINE_TEST_ES is not set; test/elasticsearch/with.sh sets it")
		}
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	return at
}

func newFixture(t *testing.T, index string) *fixture {
	t.Helper()
	f := &fixture{t: t, url: index, name: "t" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16]}
	server := testkit.StartRedis(t)
	f.redisURL = server.URL()
	var err error
	f.redis, err = rdb.Open(f.redisURL)
	must(t, err)
	t.Cleanup(func() { _ = f.redis.Close() })
	f.journal = journal.New(f.redis, journal.Options{Partitions: partitions})
	must(t, f.journal.Ready(t.Context()))
	target, err := url.Parse(index)
	must(t, err)
	pass := httputil.NewSingleHostReverseProxy(target)
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	pass.Transport = transport
	pass.ErrorLog = log.New(io.Discard, "", 0) // a request that is called off
	counting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		pass.ServeHTTP(w, r)
	}))
	f.archive, err = archive.New(archive.Options{URLs: []string{counting.URL}, Index: f.name})
	must(t, err)
	must(t, f.archive.Prepare(t.Context()))
	t.Cleanup(func() {
		f.cleanUp()
		f.archive.Close()
		counting.Close()
		transport.CloseIdleConnections()
		http.DefaultClient.CloseIdleConnections()
	})
	return f
}

func (f *fixture) cleanUp() {
	ctx := context.WithoutCancel(f.t.Context())
	_, _ = f.archive.Mend(ctx) // for the test
	_, err := f.archive.Retain(ctx, time.Now().AddDate(1, 0, 0), nil)
	if err == nil {
		err = f.archive.PurgeLetters(ctx)
	}
	if err != nil {
		f.t.Error(err)
	}
	for _, template := range []string{f.name, f.name + "-dead"} {
		f.plain(ctx, http.MethodDelete, "/_index_template/"+template, "")
	}
}

// plain sends what archive has no call for.
func (f *fixture) plain(ctx context.Context, method, path, body string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, f.url+path, strings.NewReader(body))
	must(f.t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	must(f.t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	must(f.t, err)
	if res.StatusCode > 299 {
		f.t.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, text)
	}
}

func (f *fixture) verifier() *maintain.Verifier {
	return &maintain.Verifier{Journal: f.journal, Archive: f.archive, Partitions: partitions, Redis: f.redis}
}

// posted is an event as the worker stores it.
func posted(id string, day time.Time) journal.Entry {
	e := event.Event{ID: id, Type: "order.created", UserID: "user-" + id, Timestamp: day.UnixMilli()}
	e.Raw = fmt.Appendf(nil, `{"id":%q,"type":"order.created","userId":"user-%s","timestamp":%d,"data":{"amount":12.50},"processed":true,"processedAt":1700000000123,"latencyMs":1}`, id, id, e.Timestamp)
	return journal.Entry{Event: e}
}

// store puts events into the journal and gives them as they were published.
func (f *fixture) store(entries ...journal.Entry) []event.Event {
	f.t.Helper()
	out := make([]event.Event, 0, len(entries))
	for from := 0; from < len(entries); from += 2000 {
		stored, err := f.journal.Append(f.t.Context(), entries[from:min(from+2000, len(entries))])
		must(f.t, err)
		for _, s := range stored {
			e, err := event.ParseStored(s.Raw)
			must(f.t, err)
			out = append(out, e)
		}
	}
	return out
}

func (f *fixture) index(events ...event.Event) {
	f.t.Helper()
	for from := 0; from < len(events); from += 5000 {
		part := events[from:min(from+5000, len(events))]
		r, err := f.archive.Index(f.t.Context(), part)
		if fault.Retryable(err) {
			f.index(part...)
			continue
		}
		if err != nil || r.Indexed+r.Existing+len(r.Retry) != len(part) {
			f.t.Fatalf("indexed %+v, %v", r, err)
		}
		for _, i := range r.Retry { // its index was deleted at that moment
			f.index(part[i])
		}
	}
}

// remove deletes an event's document behind our back.
func (f *fixture) remove(e event.Event) {
	f.t.Helper()
	f.plain(f.t.Context(), http.MethodDelete, "/"+f.archive.IndexOf(e.Time())+"/_doc/"+url.PathEscape(e.ID), "")
}

func (f *fixture) verify(r maintain.Request) *maintain.Report {
	f.t.Helper()
	return f.verifyWith(f.verifier(), r)
}

func (f *fixture) verifyWith(v *maintain.Verifier, r maintain.Request) *maintain.Report {
	f.t.Helper()
	report, err := v.Verify(f.t.Context(), r)
	must(f.t, err)
	return report
}

func (f *fixture) checkpoint() *checkpoint.Store { return checkpoint.New(f.redis, "indexer") }
