package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/ingest"
)

func TestUnknownRoutesAndMethods(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/nothing", 404, ""},
		{"GET", "/api", 404, ""},
		{"POST", "/api/events/", 404, ""},
		{"GET", "/api/users/", 404, ""},
		{"GET", "/api/users/a/b", 404, ""},
		{"GET", "/../etc/passwd", 404, ""},
		{"GET", "/api/events", 405, "POST"},
		{"HEAD", "/api/events", 405, "POST"},
		{"DELETE", "/api/events/batch", 405, "POST"},
		{"POST", "/api/users/42", 405, "GET, HEAD, PUT, DELETE"},
		{"PATCH", "/api/users/4%2F2", 405, "GET, HEAD, PUT, DELETE"},
		{"OPTIONS", "/api/search", 405, "GET, HEAD"},
		{"POST", "/docs", 405, "GET, HEAD"},
		{"BREW", "/", 405, "GET, HEAD"},
	} {
		res := f.do(request{method: c.method, path: c.path})
		if res.StatusCode != c.status || res.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s answered %d, Allow %q", c.method, c.path, res.StatusCode, res.Header.Get("Allow"))
		}
	}
	if n := testutil.ToFloat64(f.api.metrics.requests.WithLabelValues("none", "GET", "404")); n < 3 {
		t.Errorf("counted %v requests without a route", n)
	}
	if n := testutil.ToFloat64(f.api.metrics.requests.WithLabelValues("none", "other", "405")); n > 1 {
		t.Errorf("counted %v", n)
	}
}

func TestEveryRouteUnderAPINeedsAToken(t *testing.T) {
	f := newFixture(t)
	for _, c := range [][2]string{
		{"POST", "/api/events"}, {"POST", "/api/events/batch"}, {"POST", "/api/orders"}, {"PUT", "/api/users/42"},
		{"GET", "/api/users/42"}, {"DELETE", "/api/users/42"}, {"GET", "/api/search"},
	} {
		for _, tok := range []string{"-", "not.a.token"} {
			res := f.do(request{method: c[0], path: c[1], token: tok, body: "{}"})
			if res.StatusCode != 401 || strings.Contains(res.Header.Get("WWW-Authenticate"), "invalid_token") != (tok != "-") {
				t.Errorf("%v with token %q answered %d, %q", c, tok, res.StatusCode, res.Header.Get("WWW-Authenticate"))
			}
		}
	}
}

func TestRequestIDs(t *testing.T) {
	f := newFixture(t)
	ask := func(id string) string {
		return f.do(request{method: "GET", path: "/nothing", header: map[string]string{"X-Request-Id": id}}).Header.Get("X-Request-Id")
	}
	for _, id := range []string{"a", "A-1_b.2", strings.Repeat("x", 64)} {
		if got := ask(id); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	seen := map[string]bool{}
	for _, id := range []string{"", strings.Repeat("x", 65), "a b", "a\"", "é", "<x>"} {
		got := ask(id)
		if got == id || seen[got] || !usableID(got) {
			t.Errorf("%q became %q", id, got)
		}
		seen[got] = true
	}
}

type exploding struct{ value any }

func (e exploding) Append(context.Context, []event.Event) error { panic(e.value) }

func (e exploding) AppendWait(context.Context, []event.Event) (*ingest.Waiting, error) {
	panic(e.value)
}

func TestAPanicIsAnsweredAndCounted(t *testing.T) {
	f := newFixture(t)
	f.api.send = exploding{"10.0.1.20 went wrong"}
	res := f.do(request{body: `{"type":"a"}`})
	if p := problemOf(t, res); res.StatusCode != 500 || p.Type != "/docs#problem-internal" {
		t.Errorf("answered %d %+v", res.StatusCode, p)
	}
	if n := testutil.ToFloat64(f.api.metrics.panics); n != 1 {
		t.Errorf("counted %v panics", n)
	}
	if !strings.Contains(f.logged.String(), "went wrong") || !strings.Contains(f.logged.String(), res.Header.Get("X-Request-Id")) {
		t.Errorf("logged %s", f.logged)
	}
	if n := testutil.ToFloat64(f.api.metrics.serving); n != 0 {
		t.Errorf("%v requests are still being served", n)
	}
	f.api.send = f.out
	if res := f.do(request{body: `{"type":"a"}`}); res.StatusCode != 202 {
		t.Errorf("the next request answered %d", res.StatusCode)
	}
}

func TestAPanicAfterHalfAnAnswerEndsTheConnection(t *testing.T) {
	f := newFixture(t)
	h := f.api.observe(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("late")
	}))
	defer func() {
		if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // a panic's value
			t.Errorf("panicked with %v", v)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	t.Error("the panic was swallowed")
}

func TestRequestsAtTheSameTimeAreBounded(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxRequests = 1 })
	f.api.serving.Store(1)
	res := f.do(request{body: `{"type":"a"}`})
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "1" {
		t.Errorf("answered %d", res.StatusCode)
	}
	f.api.serving.Store(0)
	if res := f.do(request{body: `{"type":"a"}`}); res.StatusCode != 202 {
		t.Errorf("answered %d", res.StatusCode)
	}
}

func TestCORS(t *testing.T) {
	preflight := map[string]string{"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
	for name, c := range map[string]struct {
		origins []string
		method  string
		header  map[string]string
		status  int
		origin  string
	}{
		"none configured":             {nil, "OPTIONS", preflight, 405, ""},
		"preflight":                   {[]string{"https://shop.example"}, "OPTIONS", preflight, 204, "https://shop.example"},
		"preflight of anybody":        {[]string{"*"}, "OPTIONS", preflight, 204, "https://shop.example"},
		"preflight of somebody else":  {[]string{"https://other.example"}, "OPTIONS", preflight, 405, ""},
		"the call itself":             {[]string{"https://shop.example"}, "POST", map[string]string{"Origin": "https://shop.example"}, 202, "https://shop.example"},
		"no origin":                   {[]string{"https://shop.example"}, "POST", nil, 202, ""},
		"OPTIONS that is no question": {[]string{"https://shop.example"}, "OPTIONS", map[string]string{"Origin": "https://shop.example"}, 405, "https://shop.example"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(cfg *Config) { cfg.Origins = c.origins })
			res := f.do(request{method: c.method, header: c.header, body: `{"type":"a"}`})
			if res.StatusCode != c.status || res.Header.Get("Access-Control-Allow-Origin") != c.origin {
				t.Errorf("answered %d, %v", res.StatusCode, res.Header)
			}
			if len(c.origins) > 0 != (res.Header.Get("Vary") == "Origin") {
				t.Errorf("Vary is %q", res.Header.Get("Vary"))
			}
		})
	}
}

func TestTheAccessLogHoldsNoSecrets(t *testing.T) {
	f := newFixture(t)
	tok := token(t, "42")
	f.do(request{method: "GET", path: "/api/search?q=private", token: tok})
	f.do(request{body: `{"type":"a","data":"private"}`, token: tok})
	got := f.logged.String()
	if !strings.Contains(got, "route=/api/search") || !strings.Contains(got, "status=202") {
		t.Errorf("logged %s", got)
	}
	if strings.Contains(got, "private") || strings.Contains(got, tok) {
		t.Errorf("logged a secret: %s", got)
	}
}

func TestMetricsAreByRoute(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"42", "a%2Fb", "c"} {
		f.do(request{method: "GET", path: "/api/users/" + id})
	}
	if n := testutil.CollectAndCount(f.api.metrics.seconds); n != 1 {
		t.Errorf("%d series for one route", n)
	}
	if n := testutil.ToFloat64(f.api.metrics.requests.WithLabelValues("/api/users/{id}", "GET", "403")); n != 2 {
		t.Errorf("counted %v", n)
	}
	if problems, err := testutil.GatherAndLint(f.reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestTheStartLeadsToTheDocumentation(t *testing.T) {
	res := newFixture(t).do(request{method: "GET", path: "/", token: "-"})
	if res.StatusCode != 302 || res.Header.Get("Location") != "/docs" {
		t.Errorf("answered %d, %v", res.StatusCode, res.Header)
	}
}

func TestTheDocumentationPageStandsAlone(t *testing.T) {
	f := newFixture(t)
	res := f.do(request{method: "GET", path: "/docs", token: "-"})
	page := read(t, res)
	for _, want := range []string{"<title>eventspine API</title>", `id="op-postEvent"`, `id="schema-Event"`, "/api/users/{id}", "Idempotency-Key", "curl -X POST"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	for _, p := range problemKinds() {
		if !strings.Contains(page, `id="problem-`+p.Slug+`"`) {
			t.Errorf("the page lacks the problem %s", p.Slug)
		}
	}
	if m := regexp.MustCompile(`(?i)<(script|img|link|iframe)|src=|style="|@import|url\(`).FindString(page); m != "" {
		t.Errorf("the page loads something: %s", m)
	}
	if strings.Contains(page, "ZgotmplZ") || strings.Contains(page, "<no value>") || strings.Contains(page, "map[") {
		t.Error("the template failed somewhere")
	}
	for _, m := range regexp.MustCompile(`href="#([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(page, `id="`+m[1]+`"`) {
			t.Errorf("the link #%s leads nowhere", m[1])
		}
	}
	_, rest, _ := strings.Cut(page, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || strings.Contains(csp, "unsafe") {
		t.Errorf("the policy %s does not let the page's own style through", csp)
	}
	if res := f.do(request{method: "HEAD", path: "/docs", token: "-"}); res.StatusCode != 200 {
		t.Errorf("HEAD answered %d", res.StatusCode)
	}
}

func TestTheSpecIsServedAsItIs(t *testing.T) {
	res := newFixture(t).do(request{method: "GET", path: "/openapi.json", token: "-"})
	if res.StatusCode != 200 || read(t, res) != string(openapiJSON) {
		t.Errorf("answered %d", res.StatusCode)
	}
}

func TestProblemsAreJSONEvenWithOddPaths(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/%22%3Cscript%3E", "/%ff%00", "/a%0d%0ab"} {
		res := f.do(request{method: "GET", path: path})
		if !json.Valid([]byte(read(t, res))) || res.StatusCode != 404 {
			t.Errorf("%s answered %d", path, res.StatusCode)
		}
	}
}

func TestSearchPassesTheQueryOn(t *testing.T) {
	f := newFixture(t)
	f.shelf.page = archive.Page{Total: 3, Next: `a"b`, Events: []json.RawMessage{[]byte(`{"id":"1"}`), []byte(`{"id":"2"}`)}}
	res := f.do(request{method: "GET", scopes: "admin", path: "/api/search?q=a+b&type=x.*&userId=7&from=2015-11-20T12:00:00%2B01:00&to=1448017200001&size=5&after=tok&order=asc"})
	if got := read(t, res); got != `{"total":3,"events":[{"id":"1"},{"id":"2"}],"next":"a\"b"}` {
		t.Errorf("answered %s", got)
	}
	q := f.shelf.asked
	if q.Text != "a b" || q.Type != "x.*" || q.UserID != "7" || q.AnyUser || q.Size != 5 || q.After != "tok" || !q.Ascending ||
		q.From.UnixMilli() != 1448017200000 || q.To.UnixMilli() != 1448017200001 {
		t.Errorf("asked %+v", q)
	}
}
