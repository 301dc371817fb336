// Package archivetest is the contract of package archive with a server: what must hold on a
// genuine Elasticsearch and on the embedded stand-in alike.
package archivetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"eventspine/internal/archive"
	"eventspine/internal/event"
)

// Run runs the whole suite against the server at url. It works in indices of its own, which
// it deletes; other data on the server is not touched.
func Run(t *testing.T, url string) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"prepare is idempotent", testPrepare},
		{"an empty archive answers", testEmpty},
		{"real input comes back byte for byte", testRealInput},
		{"hostile payloads are kept", testHostile},
		{"hostile ids stay ids", testIDs},
		{"what cannot be kept is refused alone", testRefused},
		{"indexing again changes nothing", testAgain},
		{"large batches become several requests", testLarge},
		{"text finds words", testText},
		{"type, user and time select", testSelect},
		{"pages neither skip nor repeat", testPages},
		{"bad queries are invalid", testInvalid},
		{"an index is deleted by its name", testDelete},
		{"dead letters are kept, found and removed", testLetters},
		{"disks are looked at", testDisk},
		{"numbers are counted by blocks", testTally},
		{"numbers with two documents are found", testRepeats},
		{"ids are looked up", testKnown},
		{"whole days are deleted", testRetain},
		{"old events do not make an index old", testRetainNew},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newFixture(t, url)) })
	}
}

// fixture is an archive with a name of its own on a shared server.
type fixture struct {
	*archive.Archive
	url, name string
	seq       uint64
	days      map[string]bool
}

func newFixture(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{url: url, name: "t" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16], days: map[string]bool{}}
	a, err := archive.New(archive.Options{URLs: []string{url}, Index: f.name})
	must(t, err)
	f.Archive = a
	must(t, a.Prepare(t.Context()))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for day := range f.days {
			_ = f.DeleteIndex(ctx, day) // the test may have deleted it
		}
		f.do(ctx, t, http.MethodDelete, "/_index_template/"+f.name)
		f.do(ctx, t, http.MethodDelete, "/_index_template/"+f.name+"-dead")
		f.Close()
	})
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do sends a plain request, for what archive has no call for.
func (f *fixture) do(ctx context.Context, t *testing.T, method, path string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, f.url+path, nil)
	must(t, err)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	if res.StatusCode > 299 {
		t.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, body)
	}
	http.DefaultClient.CloseIdleConnections()
	return body
}

const noon = 1_700_000_000_000 // 2023-11-14T22:13:20Z

// event makes an event as the worker publishes it from what an application posted.
func (f *fixture) event(t *testing.T, posted string) event.Event {
	t.Helper()
	e, err := event.Parse([]byte(posted))
	must(t, err)
	e.Complete(time.UnixMilli(noon), "test")
	f.seq++
	extra := event.AppendPosition([]byte(`,"processed":true,"processedAt":1700000000123,"latencyMs":1.25`),
		event.Position{Partition: 3, Seq: f.seq, Epoch: 1 << 40})
	e.Raw = event.Splice(e.Raw, extra)
	e, err = event.ParseStored(e.Raw)
	must(t, err)
	return e
}

// index indexes the events and makes them visible.
func (f *fixture) index(t *testing.T, events ...event.Event) archive.Result {
	t.Helper()
	for i := range events {
		f.days[f.IndexOf(events[i].Time())] = true
	}
	r, err := f.Index(t.Context(), events)
	must(t, err)
	must(t, f.Refresh(t.Context()))
	if n := r.Indexed + r.Existing + len(r.Refused) + len(r.Retry); n != len(events) {
		t.Fatalf("the result accounts for %d of %d events: %+v", n, len(events), r)
	}
	return r
}

// all indexes the events and expects every one to be taken.
func (f *fixture) all(t *testing.T, events ...event.Event) {
	t.Helper()
	r := f.index(t, events...)
	if r.Indexed != len(events) {
		t.Fatalf("indexed %d of %d: refused %+v, retry %v because of %v", r.Indexed, len(events), r.Refused, r.Retry, r.Cause)
	}
}

// found is every event that matches, page by page.
func (f *fixture) found(t *testing.T, q archive.Query) []json.RawMessage {
	t.Helper()
	var out []json.RawMessage
	for {
		p, err := f.Search(t.Context(), q)
		must(t, err)
		out = append(out, p.Events...)
		if q.After = p.Next; p.Next == "" {
			if p.Total != int64(len(out)) {
				t.Errorf("the pages hold %d events, the total says %d", len(out), p.Total)
			}
			return out
		}
	}
}

// ids is the ids of what matches, joined by spaces.
func (f *fixture) ids(t *testing.T, q archive.Query) string {
	t.Helper()
	var ids []string
	for _, raw := range f.found(t, q) {
		var e struct{ ID string }
		must(t, json.Unmarshal(raw, &e))
		ids = append(ids, e.ID)
	}
	return strings.Join(ids, " ")
}

// same checks that the archive holds exactly these events, byte for byte.
func (f *fixture) same(t *testing.T, events []event.Event) {
	t.Helper()
	got := map[string][]byte{}
	for _, raw := range f.found(t, archive.Query{AnyUser: true, Size: 100}) {
		e, err := event.ParseStored(raw)
		must(t, err)
		got[e.ID] = raw
	}
	if len(got) != len(events) {
		t.Errorf("found %d events, want %d", len(got), len(events))
	}
	for _, e := range events {
		if !bytes.Equal(got[e.ID], e.Raw) {
			at := 0
			for at < min(len(e.Raw), len(got[e.ID])) && e.Raw[at] == got[e.ID][at] {
				at++
			}
			t.Errorf("event %.40q came back changed at byte %d:\n got %.300s\nwant %.300s", e.ID, at, got[e.ID][max(at-20, 0):], e.Raw[max(at-20, 0):])
		}
	}
}

// mapping is the mapping of one index.
func (f *fixture) mapping(t *testing.T, index string) string {
	t.Helper()
	return string(f.do(t.Context(), t, http.MethodGet, "/"+index+"/_mapping"))
}

// RealInput is the path of testdata/github-webhooks.ndjson, found from any package's folder.
func RealInput(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "testdata", "github-webhooks.ndjson")
		}
		if dir == filepath.Dir(dir) {
			tb.Fatal("no go.mod above the working directory")
		}
	}
}

// lines is the lines of the real input.
func lines(t *testing.T) []string {
	t.Helper()
	file, err := os.Open(RealInput(t))
	must(t, err)
	defer func() { _ = file.Close() }()
	var out []string
	s := bufio.NewScanner(file)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		out = append(out, s.Text())
	}
	must(t, s.Err())
	return out
}

func quote(s string) string { return string(event.AppendString(nil, s)) }

func posted(id, rest string) string {
	return fmt.Sprintf(`{"id":%s,"type":"order.created","userId":"42"%s}`, quote(id), rest)
}
