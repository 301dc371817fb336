package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eventspine/internal/archive"
	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/presence"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		code = 1
	}
	os.Exit(code)
}

const secret = "a secret of more than sixteen bytes"

// outbox stands for the write-ahead log: it takes events until it is told to refuse.
type outbox struct {
	mu     sync.Mutex
	events []event.Event
	calls  int
	refuse error
	stored chan ingest.Receipt // of those who wait
}

func (o *outbox) Append(_ context.Context, events []event.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.calls++; o.refuse == nil {
		o.events = append(o.events, events...)
	}
	return o.refuse
}

func (o *outbox) AppendWait(ctx context.Context, events []event.Event) (*ingest.Waiting, error) {
	w := &ingest.Waiting{}
	for range events {
		w.Stored = append(w.Stored, o.stored)
	}
	return w, o.Append(ctx, events)
}

// String shows the events as they were sent.
func (o *outbox) String() string {
	var lines []string
	for _, e := range o.events {
		lines = append(lines, string(e.Raw))
	}
	return strings.Join(lines, "\n")
}

func full() error {
	return fault.Errorf("append", fault.Overloaded, "the log on 10.0.1.20 is full")
}

// people keeps metadata in memory.
type people struct {
	mu      sync.Mutex
	known   map[string]json.RawMessage
	online  map[string]presence.State
	changed []string
	err     error
}

func (p *people) Of(_ context.Context, id string) (presence.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.online[id], p.err
}

func (p *people) Put(_ context.Context, id string, meta json.RawMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.known[id] = bytes.Clone(meta)
	}
	return p.err
}

func (p *people) Delete(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, id)
	return p.err
}

func (p *people) Lookup(_ context.Context, id string) (json.RawMessage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	if meta, ok := p.known[id]; ok {
		return meta, nil
	}
	return nil, fault.Errorf("lookup", fault.NotFound, "no user %q in redis", id)
}

func (p *people) UserChanged(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = append(p.changed, id)
}

// shelf answers every search with the same page.
type shelf struct {
	asked archive.Query
	page  archive.Page
	err   error
}

func (s *shelf) Search(_ context.Context, q archive.Query) (archive.Page, error) {
	s.asked = q
	return s.page, s.err
}

// revocations takes note of what is revoked.
type revocations struct {
	tokens, users []string
	err           error // of all it is asked
}

var someday = time.UnixMilli(1479600000000)

func (r *revocations) Token(_ context.Context, jti string) (time.Time, error) {
	if r.err == nil {
		r.tokens = append(r.tokens, jti)
	}
	return someday, r.err
}

func (r *revocations) User(_ context.Context, user string) (time.Time, error) {
	if r.err == nil {
		r.users = append(r.users, user)
	}
	return someday, r.err
}

func (r *revocations) check(_ context.Context, id auth.Identity) error {
	if id.ID != "" && slices.Contains(r.tokens, id.ID) {
		return fault.Errorf("", fault.Unauthorized, "the token was revoked")
	}
	if id.ID == "untold" {
		return fault.Errorf("", fault.Unavailable, "the list is at 10.0.1.20")
	}
	return nil
}

type fixture struct {
	t       testing.TB
	api     *api
	out     *outbox
	people  *people
	shelf   *shelf
	revoked *revocations
	reg     *prometheus.Registry
	logged  *bytes.Buffer
	spec    *spec
}

var rendered = sync.OnceValues(newPages) // for all tests

func newFixture(t testing.TB, adjust ...func(*Config)) *fixture {
	t.Helper()
	c := DefaultConfig()
	c.JWTSecret = secret
	for _, f := range adjust {
		f(&c)
	}
	list := &revocations{}
	tokens, err := auth.NewVerifier(c.Settings, auth.Options{Revoked: list.check})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		t: t, out: &outbox{}, people: &people{known: map[string]json.RawMessage{}, online: map[string]presence.State{}}, shelf: &shelf{}, revoked: list,
		reg: prometheus.NewRegistry(), logged: &bytes.Buffer{}, spec: readSpec(t),
	}
	docs, err := rendered()
	if err != nil {
		t.Fatal(err)
	}
	f.api = newAPI(c, parts{
		tokens: tokens, send: f.out, readers: f.people, writers: f.people, announce: f.people, revoker: list, presence: f.people, search: f.shelf,
		pages: docs, registry: f.reg, log: slog.New(slog.NewTextHandler(f.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	return f
}

func token(t testing.TB, subject string, scopes ...string) string {
	t.Helper()
	s, err := auth.Sign(secret, auth.Claims{Subject: subject, Scopes: scopes, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request describes one call in a table. The token is of user 42 unless it says otherwise.
type request struct {
	method string // default POST
	path   string // default /api/events
	media  string // default application/json where there is a body; "-": none
	scopes string // of the token, separated by spaces
	token  string // instead; "-": none
	header map[string]string
	body   string
	chunks bool // send no Content-Length
}

// do serves the request and checks the answer against the OpenAPI document and against what
// every answer must have.
func (f *fixture) do(q request) *http.Response {
	f.t.Helper()
	method, path := or(q.method, http.MethodPost), or(q.path, "/api/events")
	var body io.Reader = strings.NewReader(q.body)
	if q.chunks {
		body = io.MultiReader(body) // hides the length
	}
	r := httptest.NewRequest(method, path, body)
	if q.media = or(q.media, typeJSON); q.media != "-" && q.body != "" {
		r.Header.Set("Content-Type", q.media)
	}
	if q.token == "" {
		q.token = token(f.t, "42", strings.Fields(q.scopes)...)
	}
	if q.token != "-" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	rec := httptest.NewRecorder()
	f.api.ServeHTTP(rec, r)
	f.spec.check(f.t, method, r.URL.Path, rec)
	f.checkHeaders(rec)
	return rec.Result()
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (f *fixture) checkHeaders(rec *httptest.ResponseRecorder) {
	f.t.Helper()
	h := rec.Header()
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
		if h.Get(name) != want {
			f.t.Errorf("%s is %q, want %q", name, h.Get(name), want)
		}
	}
	if h.Get("X-Request-Id") == "" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'") {
		f.t.Errorf("headers lack a request id or a strict policy: %v", h)
	}
	if rec.Code < 400 {
		return
	}
	if ct := h.Get("Content-Type"); ct != "application/problem+json" {
		f.t.Errorf("status %d came as %q, not as a problem: %s", rec.Code, ct, rec.Body)
	}
	var p Problem
	if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil {
		f.t.Fatalf("problem %s: %v", rec.Body, err)
	}
	if p.Status != rec.Code || p.Type == "" || p.Title == "" || p.Detail == "" || !strings.HasSuffix(p.Instance, "#"+h.Get("X-Request-Id")) {
		f.t.Errorf("status %d came with the problem %+v", rec.Code, p)
	}
	for _, secretThing := range []string{secret, "10.0.1.", "redis"} {
		if strings.Contains(strings.ReplaceAll(rec.Body.String(), "Redis or Elasticsearch", ""), secretThing) {
			f.t.Errorf("the problem tells of %q: %s", secretThing, rec.Body)
		}
	}
	if retry := h.Get("Retry-After"); (rec.Code == 503 || rec.Code == 429) != (retry != "") {
		f.t.Errorf("status %d came with Retry-After %q", rec.Code, retry)
	}
	if (rec.Code == 401 || rec.Code == 403) && !strings.HasPrefix(h.Get("WWW-Authenticate"), `Bearer realm="eventspine"`) {
		f.t.Errorf("status %d came with WWW-Authenticate %q", rec.Code, h.Get("WWW-Authenticate"))
	}
}

// read is the body of an answer.
func read(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func problemOf(t testing.TB, res *http.Response) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal([]byte(read(t, res)), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func fields(p Problem) string {
	var names []string
	for _, f := range p.Errors {
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}
