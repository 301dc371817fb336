package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/archive"
	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/presence"
	"eventspine/internal/telemetry"
)

// What the handlers need of the rest of the system.
type (
	verifier interface {
		Verify(ctx context.Context, token string) (auth.Identity, error)
	}
	sender interface {
		// Append keeps all of the events on disk or none.
		Append(ctx context.Context, events []event.Event) error
		// AppendWait does the same and tells when each is stored.
		AppendWait(ctx context.Context, events []event.Event) (*ingest.Waiting, error)
	}
	userReader interface {
		Lookup(ctx context.Context, userID string) (json.RawMessage, error)
	}
	userWriter interface {
		Put(ctx context.Context, userID string, meta json.RawMessage) error
		Delete(ctx context.Context, userID string) error
	}
	announcer interface {
		// UserChanged tells every worker's cache to forget the user; it never waits.
		UserChanged(userID string)
	}
	revoker interface {
		// Token and User return until when the tokens are refused, at the latest.
		Token(ctx context.Context, jti string) (until time.Time, err error)
		User(ctx context.Context, user string) (until time.Time, err error)
	}
	presences interface {
		Of(ctx context.Context, user string) (presence.State, error)
	}
	searcher interface {
		Search(ctx context.Context, q archive.Query) (archive.Page, error)
	}
)

// parts is what an api is made of.
type parts struct {
	tokens   verifier
	send     sender
	readers  userReader
	writers  userWriter
	announce announcer
	revoker  revoker
	presence presences
	search   searcher
	statsd   *telemetry.Statsd
	pages    *pages
	registry prometheus.Registerer
	log      *slog.Logger
}

// api answers HTTP requests. Safe for concurrent use.
type api struct {
	parts
	source   string // of events that name none
	origins  []string
	metrics  *metrics
	limit    int64         // requests at the same time
	patience time.Duration // of a request that waits until its event is stored
	serving  atomic.Int64
	batches  chan struct{} // a token for each batch being read
	ids      requestIDs
	router   *chi.Mux
}

func newAPI(c Config, p parts) *api {
	a := &api{
		parts:    p,
		source:   c.InstanceID,
		origins:  c.Origins,
		metrics:  newMetrics(p.registry),
		limit:    int64(c.MaxRequests),
		patience: c.AckTimeout,
		batches:  make(chan struct{}, c.MaxBatches),
	}
	a.ids.start()
	a.router = a.routes()
	return a
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.router.ServeHTTP(w, r) }

func (a *api) routes() *chi.Mux {
	r := chi.NewRouter()
	r.Use(a.observe, a.admitRequest)
	if len(a.origins) > 0 {
		r.Use(a.cors)
	}
	r.Use(middleware.GetHead)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, refuse(notFound, "There is no route "+r.URL.EscapedPath()+"; /docs lists them."))
	})
	r.MethodNotAllowed(a.methodNotAllowed)

	r.Get("/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/docs", http.StatusFound) })
	r.Get("/docs", a.pages.serveDocs)
	r.Get("/openapi.json", a.pages.serveSpec)

	r.Post("/api/events", a.authorized(a.postEvent))
	r.Post("/api/events/batch", a.authorized(a.postBatch))
	r.Post("/api/orders", a.authorized(a.postOrder))
	r.Put("/api/users/{id}", a.authorized(a.putUser))
	r.Get("/api/users/{id}", a.authorized(a.showUser))
	r.Delete("/api/users/{id}", a.authorized(a.deleteUser))
	r.Get("/api/users/{id}/presence", a.authorized(a.showPresence))
	r.Post("/api/tokens/revoke", a.authorized(a.revokeTokens))
	r.Get("/api/search", a.authorized(a.findEvents))
	return r
}

// methodNotAllowed answers 405 and lists what the route does support.
func (a *api) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allowed []string
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
		as := m
		if m == "HEAD" {
			as = "GET"
		}
		if a.router.Match(chi.NewRouteContext(), as, path) {
			allowed = append(allowed, m)
		}
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	a.fail(w, r, refuse(badMethod, r.Method+" is not supported here; "+strings.Join(allowed, " and ")+" would be."))
}

// handler answers one request of a known caller. An error it returns becomes the answer.
type handler func(w http.ResponseWriter, r *http.Request, who auth.Identity) error

// authorized lets only requests with a valid bearer token through.
func (a *api) authorized(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := a.identify(r)
		if err != nil && fault.KindOf(err) != fault.Unauthorized { // it cannot be told now
			a.fail(w, r, err)
			return
		}
		if err != nil {
			challenge := `Bearer realm="eventspine"`
			if r.Header.Get("Authorization") != "" {
				challenge += `, error="invalid_token", error_description="` + cause(err) + `"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
			a.fail(w, r, err)
			return
		}
		if err := h(w, r, who); err != nil {
			a.fail(w, r, err)
		}
	}
}

func (a *api) identify(r *http.Request) (auth.Identity, error) {
	const op = "identify"
	header := r.Header.Get("Authorization")
	if header == "" {
		return auth.Identity{}, fault.Errorf(op, fault.Unauthorized, "the header Authorization is missing; it must be: Bearer <token>")
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return auth.Identity{}, fault.Errorf(op, fault.Unauthorized, "the header Authorization must be: Bearer <token>")
	}
	return a.tokens.Verify(r.Context(), strings.TrimSpace(token))
}

// needScope is the error for a good token that lacks a scope.
func needScope(scope, detail string) error { return &refusal{forbidden, detail, scope} }

// writeJSON answers with a value that is JSON already.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that went away needs no answer
}

var jsonType = []string{"application/json"}

const requestTimeout = 10 * time.Second // for Redis and Elasticsearch to answer one request
