package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"eventspine/internal/archive"
	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const (
	defaultSize = 20
	maxQuery    = 1024     // bytes of the words to look for
	maxAfter    = 4 << 10  // bytes of a page token
	maxMillis   = 1 << 47  // past the year 6000; keeps time arithmetic far from its limits
	maxAnswer   = 64 << 10 // first guess of an answer's size
)

// findEvents answers what was indexed, a page at a time. A caller without the scope admin sees
// its own events only.
func (a *api) findEvents(w http.ResponseWriter, r *http.Request, who auth.Identity) error {
	q, err := readQuery(r, who)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	page, err := a.search.Search(ctx, q)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, appendPage(make([]byte, 0, maxAnswer), page))
	return nil
}

func appendPage(out []byte, page archive.Page) []byte {
	out = strconv.AppendInt(append(out, `{"total":`...), page.Total, 10)
	out = append(out, `,"events":[`...)
	for i, e := range page.Events {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, e...)
	}
	out = append(out, ']')
	if page.Next != "" {
		out = event.AppendString(append(out, `,"next":`...), page.Next)
	}
	return append(out, '}')
}

// query reads the parameters of a search and keeps every mistake.
type query struct {
	values url.Values
	wrong  []fault.Field
}

func (q *query) bad(name, reason string) {
	q.wrong = append(q.wrong, fault.Field{Name: name, Reason: reason})
}

func readQuery(r *http.Request, who auth.Identity) (archive.Query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return archive.Query{}, fault.Errorf("read query", fault.Invalid, "The query string is not well-formed.")
	}
	q := query{values: values}
	q.names()
	out := archive.Query{
		Text:   q.text("q", maxQuery),
		Type:   q.text("type", event.MaxType),
		UserID: q.text("userId", event.MaxUserID),
		After:  q.text("after", maxAfter),
		From:   q.time("from"),
		To:     q.time("to"),
		Size:   q.size(),
	}
	out.Ascending = q.ascending()
	if !out.From.IsZero() && !out.To.IsZero() && !out.From.Before(out.To) {
		q.bad("to", "must be later than from")
	}
	if len(q.wrong) > 0 {
		return archive.Query{}, fault.BadFields("read query", q.wrong...)
	}
	switch {
	case who.Has(auth.ScopeAdmin):
		out.AnyUser = out.UserID == ""
	case out.UserID == "":
		out.UserID = who.Subject
	case out.UserID != who.Subject:
		return archive.Query{}, needScope(auth.ScopeAdmin, "The events of other users need a token with the scope admin.")
	}
	return out, nil
}

// names refuses parameters that do not exist or are there twice.
func (q *query) names() {
	known := []string{"q", "type", "userId", "from", "to", "size", "after", "order"}
	for _, name := range sortedKeys(q.values) {
		switch {
		case !slices.Contains(known, name):
			q.bad(name, "is not a parameter of this route")
		case len(q.values[name]) > 1:
			q.bad(name, "is given more than once")
		}
	}
}

func sortedKeys(values url.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (q *query) text(name string, limit int) string {
	s := q.values.Get(name)
	switch {
	case len(s) > limit:
		q.bad(name, "must have at most "+strconv.Itoa(limit)+" bytes")
	case !utf8.ValidString(s):
		q.bad(name, "must be UTF-8")
	case s == "" && q.values.Has(name):
		q.bad(name, "must not be empty; leave it out")
	}
	return s
}

// time reads milliseconds since 1970 or an RFC 3339 time.
func (q *query) time(name string) time.Time {
	if !q.values.Has(name) {
		return time.Time{}
	}
	s := q.values.Get(name)
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 && ms < maxMillis {
		return time.UnixMilli(ms).UTC()
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		q.bad(name, "must be an RFC 3339 time such as 2015-11-20T12:00:00Z, or milliseconds since 1970")
	}
	return at.UTC()
}

func (q *query) size() int {
	if !q.values.Has("size") {
		return defaultSize
	}
	n, err := strconv.Atoi(q.values.Get("size"))
	if err != nil || n < 1 || n > archive.MaxSize {
		q.bad("size", "must be a whole number from 1 to "+strconv.Itoa(archive.MaxSize))
	}
	return n
}

func (q *query) ascending() bool {
	switch q.values.Get("order") {
	case "asc":
		return true
	case "desc":
	case "":
		if q.values.Has("order") {
			q.bad("order", "must be asc or desc")
		}
	default:
		q.bad("order", "must be asc or desc")
	}
	return false
}
