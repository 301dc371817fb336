package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// injector is a server that fails as it is told: what a real one does only under stress.
type injector struct {
	mu       sync.Mutex
	script   []http.HandlerFunc // one for each request; afterwards everything is taken
	requests [][]string         // ids in each bulk request
	*httptest.Server
}

func newInjector(t *testing.T, script ...http.HandlerFunc) (*injector, *Archive) {
	t.Helper()
	in := &injector{script: script}
	in.Server = httptest.NewServer(in)
	a, err := New(Options{URLs: []string{in.URL}, Timeout: 5 * time.Second})
	must(t, err)
	t.Cleanup(func() { a.Close(); in.Close() })
	return in, a
}

func (in *injector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	in.mu.Lock()
	ids := idsOf(body)
	in.requests = append(in.requests, ids)
	var next http.HandlerFunc
	if len(in.script) > 0 {
		next, in.script = in.script[0], in.script[1:]
	}
	in.mu.Unlock()
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	w.Header().Set("Content-Type", "application/json")
	if next == nil {
		next = items(slices.Repeat([]int{201}, len(ids))...)
	}
	next(w, r)
}

func idsOf(body []byte) []string {
	var ids []string
	for i, line := range bytes.Split(body, []byte("\n")) {
		var action struct {
			Create struct {
				ID string `json:"_id"`
			} `json:"create"`
		}
		if i%2 == 0 && json.Unmarshal(line, &action) == nil {
			ids = append(ids, action.Create.ID)
		}
	}
	return ids
}

func (in *injector) sent() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return fmt.Sprint(in.requests)
}

// items answers a bulk request with a status for each document.
func items(status ...int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		out := make([]string, len(status))
		for i, s := range status {
			out[i] = fmt.Sprintf(`{"create":{"status":%d}}`, s)
			if s > 299 {
				out[i] = fmt.Sprintf(`{"create":{"status":%d,"error":{"type":"some_exception","reason":"failed. Preview of field's value: 'secret'","caused_by":{"reason":"because"}}}}`, s)
			}
		}
		_, _ = fmt.Fprintf(w, `{"took":1,"errors":true,"items":[%s]}`, strings.Join(out, ","))
	}
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func hangUp(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func events(n int) []event.Event {
	out := make([]event.Event, n)
	for i := range out {
		id := string(rune('a' + i))
		out[i] = event.Event{ID: id, Type: "t", Timestamp: 1_700_000_000_000,
			Raw: fmt.Appendf(nil, `{"id":"%s","type":"t","timestamp":1700000000000,"seq":%d}`, id, i+1)}
	}
	return out
}

// TestIndexClassifies: what each failure of a request or of a document means.
func TestIndexClassifies(t *testing.T) {
	for name, c := range map[string]struct {
		script            []http.HandlerFunc
		sent              string
		indexed, existing int
		refused, retry    []int
		kind              fault.Kind // of Cause or of the error; Internal: neither
		failed            bool       // Index itself returns an error
	}{
		"all taken":            {sent: "[[a b c d]]", indexed: 4},
		"there already":        {script: []http.HandlerFunc{items(409, 201, 409, 200)}, sent: "[[a b c d]]", indexed: 2, existing: 2},
		"items of all kinds":   {script: []http.HandlerFunc{items(201, 400, 429, 503)}, sent: "[[a b c d]]", indexed: 1, refused: []int{1}, retry: []int{2, 3}, kind: fault.Overloaded},
		"item of no status":    {script: []http.HandlerFunc{items(201, 0, 400, 500)}, sent: "[[a b c d]]", indexed: 1, refused: []int{2}, retry: []int{1, 3}, kind: fault.Unavailable},
		"nobody may write":     {script: []http.HandlerFunc{items(201, 401, 403, 404)}, sent: "[[a b c d]]", indexed: 1, retry: []int{1, 2, 3}, kind: fault.Unavailable},
		"items all pushed off": {script: []http.HandlerFunc{items(429, 429, 429, 429)}, sent: "[[a b c d]]", kind: fault.Overloaded, failed: true},
		"too few items":        {script: []http.HandlerFunc{items(201, 201, 201)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"too many items":       {script: []http.HandlerFunc{items(201, 201, 201, 201, 201)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"no items":             {script: []http.HandlerFunc{status(200, `{"took":1,"errors":false}`)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"not JSON":             {script: []http.HandlerFunc{status(200, `<html>`)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"cut off":              {script: []http.HandlerFunc{cutOff}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"hung up":              {script: []http.HandlerFunc{hangUp}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"busy":                 {script: []http.HandlerFunc{status(429, `{}`)}, sent: "[[a b c d]]", kind: fault.Overloaded, failed: true},
		"503":                  {script: []http.HandlerFunc{status(503, `{}`)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"wrong password":       {script: []http.HandlerFunc{status(401, `{}`)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"wrong place":          {script: []http.HandlerFunc{status(404, `{}`)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"redirect":             {script: []http.HandlerFunc{status(302, ``)}, sent: "[[a b c d]]", kind: fault.Unavailable, failed: true},
		"too large":            {script: []http.HandlerFunc{status(413, ``)}, sent: "[[a b c d] [a b] [c d]]", indexed: 4},
		"one too large": {script: []http.HandlerFunc{status(413, ``), nil, status(413, ``), nil, status(413, ``)},
			sent: "[[a b c d] [a b] [c d] [c] [d]]", indexed: 3, refused: []int{3}},
		"poison": {script: []http.HandlerFunc{status(400, ``), status(400, ``), nil, status(400, `{"error":{"type":"x","reason":"y"}}`)},
			sent: "[[a b c d] [a b] [a] [b] [c d]]", indexed: 3, refused: []int{1}},
		"poison, then gone": {script: []http.HandlerFunc{status(400, ``), nil, hangUp},
			sent: "[[a b c d] [a b] [c d]]", indexed: 2, retry: []int{2, 3}, kind: fault.Unavailable},
		"gone while bisecting": {script: []http.HandlerFunc{status(400, ``), hangUp},
			sent: "[[a b c d] [a b]]", kind: fault.Unavailable, failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			in, a := newInjector(t, c.script...)
			r, err := a.Index(t.Context(), events(4))
			if (err != nil) != c.failed {
				t.Fatalf("error %v", err)
			}
			cause := r.Cause
			if c.failed {
				cause = err
			}
			if fault.KindOf(cause) != c.kind && (cause != nil || c.kind != fault.Internal) {
				t.Errorf("kind %v of %v, want %v", fault.KindOf(cause), cause, c.kind)
			}
			var refused []int
			for _, x := range r.Refused {
				refused = append(refused, x.Doc)
				if x.ID != events(4)[x.Doc].ID || x.Reason == "" || x.Status < 400 || strings.Contains(x.Reason, "secret") {
					t.Errorf("refusal %+v", x)
				}
			}
			if r.Indexed != c.indexed || r.Existing != c.existing || !slices.Equal(refused, c.refused) || !slices.Equal(r.Retry, c.retry) {
				t.Errorf("indexed %d, existing %d, refused %v, retry %v; want %d, %d, %v, %v", r.Indexed, r.Existing, refused, r.Retry,
					c.indexed, c.existing, c.refused, c.retry)
			}
			if in.sent() != c.sent {
				t.Errorf("sent %s, want %s", in.sent(), c.sent)
			}
		})
	}
}

// cutOff announces more than it sends.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"took":1,"items":[{"create":{"status":201}}`)
}

func TestIndexStopsAtTheFirstFailure(t *testing.T) {
	in, a := newInjector(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		status(429, ``)(w, r)
	})
	a.o.MaxBulk = 1 // each document in a request of its own
	r, err := a.Index(t.Context(), events(5))
	must(t, err)
	if in.sent() != "[[a] [b]]" || r.Indexed != 1 || !slices.Equal(r.Retry, []int{1, 2, 3, 4}) || r.Wait != 7*time.Second {
		t.Errorf("sent %s: %+v", in.sent(), r)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	in, a := newInjector(t)
	a.o.MaxBulk = 320 // two documents of about 140 bytes
	r, err := a.Index(t.Context(), events(5))
	must(t, err)
	if in.sent() != "[[a b] [c d] [e]]" || r.Indexed != 5 {
		t.Errorf("sent %s: %+v", in.sent(), r)
	}
}

func TestTimeouts(t *testing.T) {
	release := make(chan struct{})
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	slowBody := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		hang(w, r)
	}
	for name, h := range map[string]http.HandlerFunc{"no header": hang, "no body": slowBody} {
		_, a := newInjector(t, h)
		a.o.Timeout = 50 * time.Millisecond
		start := time.Now()
		_, err := a.Index(t.Context(), events(1))
		if fault.KindOf(err) != fault.Unavailable || time.Since(start) > 3*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
	}
	close(release)
	_, a := newInjector(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Index(ctx, events(1)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestKindsOfOtherCalls(t *testing.T) {
	calls := map[string]func(*Archive) error{
		"prepare": func(a *Archive) error { return a.Prepare(t.Context()) },
		"ping":    func(a *Archive) error { return a.Ping(t.Context()) },
		"refresh": func(a *Archive) error { return a.Refresh(t.Context()) },
		"delete":  func(a *Archive) error { return a.DeleteIndex(t.Context(), "events-2020.01.01") },
		"search":  func(a *Archive) error { _, err := a.Search(t.Context(), Query{AnyUser: true}); return err },
		"count":   func(a *Archive) error { _, err := a.Count(t.Context(), Query{AnyUser: true}); return err },
	}
	for name, call := range calls {
		for code, want := range map[int]fault.Kind{429: fault.Overloaded, 500: fault.Unavailable, 401: fault.Unavailable, 403: fault.Unavailable} {
			_, a := newInjector(t, status(code, `{"error":{"type":"t","reason":"r","root_cause":[{"type":"t","reason":"deep"}]}}`))
			if err := call(a); fault.KindOf(err) != want || !strings.Contains(err.Error(), "deep") {
				t.Errorf("%s with %d: kind %v: %v", name, code, fault.KindOf(err), err)
			}
		}
		_, a := newInjector(t, hangUp)
		if err := call(a); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s, hung up: %v", name, err)
		}
	}
	for name, call := range map[string]func(*Archive) error{"search": calls["search"], "count": calls["count"]} {
		_, a := newInjector(t, status(400, `{}`))
		if err := call(a); fault.KindOf(err) != fault.Internal { // our own query was wrong, not the caller's
			t.Errorf("%s with 400: %v", name, err)
		}
		_, a = newInjector(t, status(200, `nonsense`))
		if err := call(a); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s, nonsense: %v", name, err)
		}
	}
	_, a := newInjector(t, status(200, `{"count":3,"_shards":{"failed":1}}`))
	if _, err := a.Count(t.Context(), Query{AnyUser: true}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a count of some shards: %v", err)
	}
	strange := httptest.NewServer(status(200, `{}`)) // no X-Elastic-Product
	defer strange.Close()
	a, err := New(Options{URLs: []string{strange.URL}})
	must(t, err)
	defer a.Close()
	if err := a.Ping(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a server that is no Elasticsearch: %v", err)
	}
}

func TestSearchWaitsForShardsOfANewIndex(t *testing.T) {
	shardless := status(503, `{"error":{"type":"search_phase_execution_exception","reason":"all shards failed"}}`)
	found := status(200, `{"count":3,"hits":{"total":{"value":3},"hits":[]}}`)
	for _, misses := range []int{1, 3} {
		_, a := newInjector(t, append(slices.Repeat([]http.HandlerFunc{shardless}, misses), found)...)
		if p, err := a.Search(t.Context(), Query{AnyUser: true}); err != nil || p.Total != 3 {
			t.Errorf("search after %d answers without shards: total %d, error %v", misses, p.Total, err)
		}
		_, a = newInjector(t, append(slices.Repeat([]http.HandlerFunc{shardless}, misses), found)...)
		if n, err := a.Count(t.Context(), Query{AnyUser: true}); err != nil || n != 3 {
			t.Errorf("count after %d answers without shards: %d, error %v", misses, n, err)
		}
	}
	in, a := newInjector(t, slices.Repeat([]http.HandlerFunc{shardless}, 50)...)
	if _, err := a.Search(t.Context(), Query{AnyUser: true}); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "all shards") {
		t.Errorf("search without shards: %v", err)
	}
	if n := len(in.requests); n < 3 || n > 8 {
		t.Errorf("%d requests before it gave up, want a handful", n)
	}
}

func TestNew(t *testing.T) {
	for _, o := range []Options{{}, {URLs: []string{"127.0.0.1:9200", "https://user:pass@es.example:443"}}, {Index: "e1"}, {MaxBulk: 1 << 40}} {
		a, err := New(o)
		if err != nil {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		if a.o.MaxBulk > maxBulk {
			t.Errorf("bulk requests of %d bytes", a.o.MaxBulk)
		}
		a.Close()
	}
	for _, o := range []Options{{URLs: []string{"ftp://x"}}, {URLs: []string{"http://"}}, {URLs: []string{"http://user:secret@h:x"}}, {URLs: []string{""}},
		{Index: "Events"}, {Index: "a-b"}, {Index: "*"}, {Index: strings.Repeat("e", 65)}, {Replicas: -1}} {
		if _, err := New(o); fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestAwayAtFirst: a client made before its server listens works as soon as it does.
func TestAwayAtFirst(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	a, err := New(Options{URLs: []string{addr}})
	must(t, err)
	defer a.Close()
	if err := a.Ping(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("away: %v", err)
	}
	in := &injector{}
	l, err = net.Listen("tcp", addr)
	must(t, err)
	in.Server = httptest.NewUnstartedServer(in)
	_ = in.Listener.Close() // the one it came with
	in.Listener = l
	in.Start()
	defer in.Close()
	must(t, a.Ping(t.Context()))
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"order.created":              "order created",
		"  The QUICK, brown—fox! ":   "the quick brown fox",
		"a_b-c/d":                    "a b c d",
		"Größe ÉCOLE":                "größe école",
		"漢字かなカナ":                     "漢 字 か な カナ",
		"x漢y":                        "x 漢 y",
		"e\u0301a \u0301b":           "e\u0301a b",
		"\xff\xfea":                  "a",
		"don't 3.14":                 "don t 3 14",
		"\x00\n\"}":                  "",
		"😀 smile":                    "smile",
		strings.Repeat("w", 1000):    strings.Repeat("w", maxWord),
		"a" + strings.Repeat(" ", 9): "a",
	} {
		if got := string(appendWords(nil, []byte(in), 1000)); got != want {
			t.Errorf("%q is cut into %q, want %q", in, got, want)
		}
	}
	if got := string(appendWords([]byte("one"), []byte("two three"), 9)); got != "one two" {
		t.Errorf("a word above the limit was not left out whole: %q", got)
	}
}

// wordsOnly is the language that a rewritten query must stay within.
func wordsOnly(t interface{ Errorf(string, ...any) }, q string) {
	for _, r := range q {
		if r != ' ' && r != '"' && r != '-' && r != '*' && !isWord(r, true) {
			t.Errorf("the query %q holds %q", q, r)
		}
	}
	if strings.Count(q, `"`)%2 != 0 || strings.Contains(q, "  ") || strings.Contains(q, "--") {
		t.Errorf("the query %q is malformed", q)
	}
}

func TestWordsAreStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		once := appendWords(nil, []byte(s), maxText)
		if again := appendWords(nil, once, maxText); !bytes.Equal(once, again) {
			t.Errorf("%q: %q becomes %q", s, once, again)
		}
		q, none, err := simpleQuery(s)
		if err == nil && none != (q == "") {
			t.Errorf("%q: none is %v for %q", s, none, q)
		}
		wordsOnly(t, q)
	})
}

func TestSimpleQuery(t *testing.T) {
	for in, want := range map[string]string{
		`fox`: `fox`, `Fox bear`: `fox bear`, `"big fox"`: `"big fox"`, `fox*`: `fox*`, `-fox`: `-fox`, `-"big fox"`: `-"big fox"`,
		`order.cre*`: `"order" cre*`, `-order.cre*`: `-"order cre"`, `order.created`: `"order created"`, `"one"`: `one`, `"open phrase`: `"open phrase"`,
		`- fox`: `fox`, `--fox`: `-fox`, `*`: ``, `***fox**`: `fox*`, `"" x`: `x`, `a"b c"d`: `"a b" "c d"`, `x\"`: `x`, `(a|b)+c~2`: `"a b c 2"`,
	} {
		if got, _, err := simpleQuery(in); err != nil || got != want {
			t.Errorf("%q becomes %q (%v), want %q", in, got, err, want)
		}
	}
}

func TestTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := token{rapid.Int64().Draw(t, "ts"), rapid.Int64().Draw(t, "seq"), rapid.StringN(0, 128, 128).Draw(t, "id"), rapid.Bool().Draw(t, "asc")}
		sort, err := json.Marshal([]any{in.Timestamp, in.Seq, in.ID})
		if err != nil {
			t.Fatal(err)
		}
		s, err := nextToken(sort, in.Ascending)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := parseToken(s); err != nil || out != in {
			t.Errorf("%+v became %+v: %v", in, out, err)
		}
	})
	if _, err := nextToken([]byte(`["x"]`), true); err == nil {
		t.Error("a token was made of nonsense")
	}
}

func FuzzToken(f *testing.F) {
	f.Add("WzEsZmFsc2UsNSw1LCJhIl0")
	f.Add("")
	f.Add("!")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parseToken(s)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("kind %v", fault.KindOf(err))
			}
			return
		}
		sort, err := json.Marshal([]any{tok.Timestamp, tok.Seq, tok.ID})
		must(t, err)
		if again, err := nextToken(sort, tok.Ascending); err != nil || again != s {
			t.Errorf("%q was taken, but its own form is %q", s, again)
		}
	})
}

func FuzzSimpleQuery(f *testing.F) {
	for _, s := range []string{`fox "a b" -c d*`, `"`, `-`, `*`, "\xff", `-"`, "a\u00a0b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, _, err := simpleQuery(s)
		if err == nil {
			wordsOnly(t, q)
		}
	})
}

// FuzzDocument: whatever the event, a document is an action line and one line of JSON from
// which the same bytes come back.
func FuzzDocument(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"id":"a"}`, `{"data":5}`, `{"_id":1}`, `{"spine":{"text":"x"}}`, `{"data":{"a":1,"b":[1.50,"x"]},"x":{"":1}}`, `{"a":1,"a":2}`,
		"{\n\"a\" : \"\\u0000\\ud83d\\ude00\"}", `{"data":{"a\u0000":1}}`, `{"x":"\",\"spine\":{\"text\":\""}`, `[]`, `{"a":1}}`, "{\"a\":\"\xff\"}",
	} {
		f.Add("a\n\"\x7f", []byte(s))
	}
	f.Fuzz(func(t *testing.T, id string, raw []byte) {
		e := event.Event{ID: id, Type: "t", Timestamp: 1_700_000_000_000, Raw: raw}
		b := builder{index: "events"}
		if err := b.add(3, &e); err != nil {
			if len(b.buf)+len(b.ends)+len(b.place) != 0 {
				t.Errorf("a refused event left %q behind", b.buf)
			}
			return
		}
		lines := bytes.Split(b.buf, []byte("\n"))
		if len(lines) != 3 || len(lines[2]) != 0 || b.ends[0] != len(b.buf) || b.place[0] != 3 {
			t.Fatalf("not one action and one document: %q", b.buf)
		}
		if !jsontext.Value(lines[0]).IsValid() || !jsontext.Value(lines[1]).IsValid() {
			t.Fatalf("not JSON: %q", b.buf)
		}
		want := jsontext.Value(bytes.TrimSpace(raw))
		if bytes.ContainsAny(want, "\n\r") {
			want = jsontext.Value(bytes.Clone(want))
			must(t, want.Compact())
		}
		if got, err := restore(lines[1]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q came back as %q (%v) from %q", want, got, err, lines[1])
		}
		again := builder{index: "events"}
		other := events(1)
		must(t, again.add(0, &other[0]))
		must(t, again.add(1, &e)) // a builder that was used before makes the same
		if !bytes.HasSuffix(again.buf, b.buf) {
			t.Errorf("the second document depends on the first: %q", again.buf)
		}
	})
}

func TestRestoreRefusesOtherDocuments(t *testing.T) {
	for _, s := range []string{``, `{}`, `{"a":1}`, `{"a":1,"spine":{"text":"x"}`, `{"a":1,"spine":{"text":"x","y":1}}`, `{"a":1,"spine":{"text":"x`,
		`{"a":1,"spine":{"text":"x","raw":"{}`, `{"a":1,"spine":{"text":"x","raw":5}}`} {
		if got, err := restore([]byte(s)); err == nil {
			t.Errorf("%s was restored to %s", s, got)
		}
	}
}

func TestPayloadWordsAreBounded(t *testing.T) {
	e := events(1)[0]
	long := strings.Repeat("https://example.com/x ", 50) + strings.Repeat("filler ", 5000)
	e.Raw = fmt.Appendf(nil, `{"id":"a","data":{"u":"https://example.com/path","s":"%s","t":"never"}}`, long)
	b := builder{index: "events"}
	must(t, b.add(0, &e))
	if n := len(b.scan.words); n > maxText || n < maxText-100 {
		t.Errorf("%d bytes of words", n)
	}
}

func BenchmarkBuild(b *testing.B) {
	e := event.Event{ID: "0193-a", Type: "order.created", UserID: "user-1", Timestamp: 1_700_000_000_000, Raw: []byte(`{"id":"0193-a","type":"order.created","userId":"user-1","timestamp":1700000000000,"source":"api-1","data":{"orderId":1,"amount":12.5,"currency":"EUR","items":[{"sku":"SKU-1","name":"Blue cotton shirt","qty":2},{"sku":"SKU-2","name":"Green socks","qty":1}],"note":"please leave at the door number 7"},"processed":true,"processedAt":1700000000123,"latencyMs":1.25,"partition":3,"seq":17,"prev":{"user":0,"feed":0},"epoch":1099511627776}`)}
	bu := builder{index: "events"}
	b.ReportAllocs()
	for b.Loop() {
		bu.buf, bu.ends, bu.place = bu.buf[:0], bu.ends[:0], bu.place[:0]
		if err := bu.add(0, &e); err != nil {
			b.Fatal(err)
		}
	}
}
