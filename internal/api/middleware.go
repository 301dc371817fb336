package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

// recorder remembers how a request was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += n
	return n, err
}

// Unwrap gives http.ResponseController the writer below.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// requestIDs makes ids that are unique across processes and cheap: a random part for the
// process and a counter.
type requestIDs struct {
	prefix string
	last   atomic.Uint64
}

func (g *requestIDs) start() {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	g.prefix = hex.EncodeToString(b[:]) + "-"
}

func (g *requestIDs) next() string { return g.prefix + strconv.FormatUint(g.last.Add(1), 36) }

// usableID reports whether a caller's own request id is safe to repeat in logs and answers.
func usableID(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

const requestIDHeader = "X-Request-Id"

// requestID is the id of the request that w answers.
func requestID(w http.ResponseWriter) string { return w.Header().Get(requestIDHeader) }

// route is the pattern that matched, such as /api/users/{id}: a closed set.
func route(r *http.Request) string {
	if c := chi.RouteContext(r.Context()); c != nil {
		if p := c.RoutePattern(); p != "" {
			return p
		}
	}
	return "none"
}

var (
	noSniff    = []string{"nosniff"}
	noStore    = []string{"no-store"}
	noReferrer = []string{"no-referrer"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}
	sameOrigin = []string{"same-origin"}
)

// observe is the outermost layer: it names the request, sets the headers that keep browsers
// safe, turns a panic into a 500, and counts and logs the answer.
func (a *api) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		h := w.Header()
		id := r.Header.Get(requestIDHeader)
		if !usableID(id) {
			id = a.ids.next()
		}
		h[requestIDHeader] = []string{id}
		h["X-Content-Type-Options"], h["Cache-Control"], h["Referrer-Policy"] = noSniff, noStore, noReferrer
		h["Content-Security-Policy"], h["Cross-Origin-Resource-Policy"] = noContent, sameOrigin
		defer a.answered(rec, r, start)
		next.ServeHTTP(rec, r)
	})
}

func (a *api) answered(w *recorder, r *http.Request, start time.Time) {
	if v := recover(); v != nil {
		a.panicked(w, r, v)
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	took, route := time.Since(start), route(r)
	a.metrics.answered(route, r.Method, w.status, took)
	if a.log.Enabled(context.Background(), slog.LevelDebug) {
		a.log.Debug("request", "request", requestID(w), "method", r.Method, "route", route, "status", w.status,
			"bytes", w.bytes, "ms", float64(took.Microseconds())/1000, "from", r.RemoteAddr)
	}
}

func (a *api) panicked(w *recorder, r *http.Request, v any) {
	if v == http.ErrAbortHandler { //nolint:errorlint // the documented sentinel, compared as net/http does
		panic(v)
	}
	a.metrics.panics.Inc()
	a.log.Error("request panicked", "request", requestID(w), "route", r.Method+" "+route(r), "panic", v, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // half an answer is out: only the end of the connection can say so
	}
	kind, p := describe(refuse(internal, internal.Meaning))
	a.problem(w, r, kind, p)
}

// admitRequest bounds how many requests are served at the same time.
func (a *api) admitRequest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := a.serving.Add(1)
		defer func() { a.metrics.serving.Set(float64(a.serving.Add(-1))) }()
		a.metrics.serving.Set(float64(n))
		if n > a.limit {
			a.fail(w, r, refuse(tooMany, tooMany.Meaning))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// cors lets the web pages of the configured origins call the API. Only used when there are any.
func (a *api) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		if origin == "" || !slices.Contains(a.origins, origin) && !slices.Contains(a.origins, "*") {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, WWW-Authenticate")
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, X-Request-Id")
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
	})
}
