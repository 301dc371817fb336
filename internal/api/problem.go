package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"eventspine/internal/fault"
)

// Problem is an answer that says what went wrong (RFC 9457).
type Problem struct {
	Type     string        `json:"type"`
	Title    string        `json:"title"`
	Status   int           `json:"status"`
	Detail   string        `json:"detail"`
	Errors   []fault.Field `json:"errors,omitempty"`
	Instance string        `json:"instance,omitempty"`
}

// problemKind is one entry of the closed list of problems, also shown by /docs.
type problemKind struct {
	Slug    string
	Status  int
	Title   string
	Meaning string
	retry   string // Retry-After, in seconds
}

// Type is the problem's URI: its place in the documentation.
func (k *problemKind) Type() string { return "/docs#problem-" + k.Slug }

var (
	badRequest   = &problemKind{"invalid", 400, "The request is not valid", "Something in the request breaks a rule. errors names every wrong field and says what to change. Sending it again unchanged will not help.", ""}
	unauthorized = &problemKind{"unauthorized", 401, "A valid token is needed", "The header Authorization: Bearer is missing, or its token is expired, revoked, meant for somebody else, or not signed with a key that the server knows.", ""}
	forbidden    = &problemKind{"forbidden", 403, "The token does not allow this", "The token is good, but what was asked for belongs to somebody else and needs a scope the token lacks.", ""}
	notFound     = &problemKind{"not-found", 404, "There is nothing here", "No such route, or no such user.", ""}
	badMethod    = &problemKind{"method", 405, "The method is not supported here", "The header Allow of the answer lists the methods that are.", ""}
	conflict     = &problemKind{"conflict", 409, "The state has changed", "Something else changed what the request relies on.", ""}
	tooLarge     = &problemKind{"too-large", 413, "The request is over a limit", "An event may have 256 KiB, a batch 5 MiB and 5,000 events, a user's metadata 16 KiB. Nothing of the request was taken.", ""}
	badMedia     = &problemKind{"media-type", 415, "The media type is not supported here", "The header Content-Type names a format this route does not read.", ""}
	tooMany      = &problemKind{"too-many", 429, "Too many requests at the same time", "The server works on as many requests as it can. Wait as long as Retry-After says.", "1"}
	internal     = &problemKind{"internal", 500, "The server made a mistake", "The server's log says more under the request's id, which is in the header X-Request-Id.", ""}
	overloaded   = &problemKind{"overloaded", 503, "There is no room for more events", "The write-ahead log is full, or its disk is: the workers are behind or away. The event was not taken. Wait as long as Retry-After says and send it again.", "1"}
	unavailable  = &problemKind{"unavailable", 503, "A part of the server is away", "Redis, Elasticsearch or the disk does not answer. Wait as long as Retry-After says.", "5"}
)

// problemKinds lists every kind of problem the server answers with.
func problemKinds() []*problemKind {
	return []*problemKind{badRequest, unauthorized, forbidden, notFound, badMethod, conflict, tooLarge, badMedia, tooMany,
		internal, overloaded, unavailable}
}

// kindOf is the one place where a fault becomes an HTTP status.
func kindOf(k fault.Kind) *problemKind {
	switch k {
	case fault.Invalid:
		return badRequest
	case fault.Unauthorized:
		return unauthorized
	case fault.Forbidden:
		return forbidden
	case fault.NotFound:
		return notFound
	case fault.Conflict:
		return conflict
	case fault.TooLarge:
		return tooLarge
	case fault.Overloaded:
		return overloaded
	case fault.Unavailable:
		return unavailable
	}
	return internal
}

// refusal is an error with a problem that no fault.Kind stands for.
type refusal struct {
	kind   *problemKind
	detail string
	scope  string // what the token would have to grant, for forbidden
}

func (r *refusal) Error() string { return r.detail }

func refuse(kind *problemKind, detail string) error { return &refusal{kind: kind, detail: detail} }

// describe turns an error into a problem that is safe to show: what only the server's log
// should hold (addresses, inner errors) is left out.
func describe(err error) (*problemKind, Problem) {
	kind, detail := kindOf(fault.KindOf(err)), ""
	var known *refusal
	switch {
	case errors.As(err, &known):
		kind, detail = known.kind, known.detail
	case kind == internal || kind == unavailable || kind == overloaded:
		detail = kind.Meaning
	default:
		detail = cause(err)
	}
	fields := fault.FieldsOf(err)
	if len(fields) > 0 && detail == "" {
		detail = "1 field is wrong."
		if n := len(fields); n > 1 {
			detail = strconv.Itoa(n) + " fields are wrong."
		}
	}
	return kind, Problem{Type: kind.Type(), Title: kind.Title, Status: kind.Status, Detail: detail, Errors: fields}
}

// cause is the text of the innermost classified error, without the names of operations.
func cause(err error) string {
	var e *fault.Error
	for errors.As(err, &e) {
		if e.Err == nil {
			return ""
		}
		err = e.Err
	}
	return err.Error()
}

// fail answers with the problem that err is.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind, p := describe(err)
	if kind == internal || kind == unavailable {
		a.log.Warn("request failed", "request", requestID(w), "route", r.Method+" "+route(r), "error", err)
	}
	var known *refusal
	if errors.As(err, &known) && known.scope != "" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="eventspine", error="insufficient_scope", scope="`+known.scope+`"`)
	}
	a.problem(w, r, kind, p)
}

func (a *api) problem(w http.ResponseWriter, r *http.Request, kind *problemKind, p Problem) {
	p.Instance = r.URL.EscapedPath() + "#" + requestID(w)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if kind.retry != "" {
		h.Set("Retry-After", kind.retry)
	}
	body, err := json.Marshal(p)
	if err != nil { // strings and numbers only: cannot happen
		body = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":""}`)
	}
	w.WriteHeader(kind.Status)
	_, _ = w.Write(body) // a caller that went away needs no answer
}
