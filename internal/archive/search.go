package archive

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// MaxSize is the most events one page may hold.
const MaxSize = 1000

const defaultSize = 20

// Query says which events. Conditions that are given must all hold.
type Query struct {
	Text      string    // words that all occur in the event's id, type, userId or payload; "a phrase", prefix*, -without
	Type      string    // exact, or everything below a prefix when it ends in .*
	UserID    string    // events addressed to this user
	AnyUser   bool      // events of all users when UserID is empty. With neither, the query is Invalid
	From, To  time.Time // the event's own timestamp: From inclusive, To exclusive; zero: open
	Size      int       // events a page, 1 to MaxSize; 0 means 20
	After     string    // Page.Next of the page before; empty: the first page
	Ascending bool      // oldest first; default newest first
}

// Page is a part of what was found.
type Page struct {
	Total  int64             // how many events match in all
	Events []json.RawMessage // exactly as they were indexed; never nil
	Next   string            // Query.After of the next page; empty: this is the last
}

// Search returns a page of the matching events by timestamp, then seq, then id. Pages go on
// where the one before ended, also while events come in. Errors are of kind Invalid for a
// query or page token that breaks a rule, with the fields named as in the HTTP API, else
// Unavailable (after two seconds of tries when shards are missing) or Overloaded. An answer is whole or an error: never only the shards that worked.
func (a *Archive) Search(ctx context.Context, q Query) (Page, error) {
	return a.search(ctx, a.pattern(), q)
}

func (a *Archive) search(ctx context.Context, pattern string, q Query) (Page, error) {
	const op = "search"
	if q.Size == 0 {
		q.Size = defaultSize
	}
	body, err := q.search()
	if err != nil {
		return Page{}, err
	}
	no := false
	// No filter_path here: with one Elasticsearch writes each _source anew, and 12.50 comes back as 12.5.
	answer, err := patiently(ctx, func(ctx context.Context) ([]byte, error) {
		return a.call(ctx, op, esapi.SearchRequest{
			Index:                     []string{pattern},
			Body:                      bytes.NewReader(body),
			AllowPartialSearchResults: &no,
		})
	})
	if err != nil {
		return Page{}, ours(op, err)
	}
	var found answered
	if err := json.Unmarshal(answer, &found); err != nil {
		return Page{}, fault.E(op, fault.Unavailable, err)
	}
	return found.page(q)
}

// Count returns how many events match. Size, After and Ascending do not matter. Errors are as
// those of Search.
func (a *Archive) Count(ctx context.Context, q Query) (int64, error) {
	const op = "count"
	filter, err := q.filter()
	if err != nil {
		return 0, err
	}
	body, err := json.Marshal(object{"query": filter})
	if err != nil {
		return 0, fault.E(op, fault.Internal, err)
	}
	answer, err := patiently(ctx, func(ctx context.Context) ([]byte, error) {
		return a.call(ctx, op, esapi.CountRequest{Index: []string{a.pattern()}, Body: bytes.NewReader(body)})
	})
	if err != nil {
		return 0, ours(op, err)
	}
	var found struct {
		Count  int64 `json:"count"`
		Shards struct {
			Failed int `json:"failed"`
		} `json:"_shards"`
	}
	if err := json.Unmarshal(answer, &found); err != nil {
		return 0, fault.E(op, fault.Unavailable, err)
	}
	if found.Shards.Failed > 0 {
		return 0, fault.Errorf(op, fault.Unavailable, "%d shards did not answer", found.Shards.Failed)
	}
	return found.Count, nil
}

// patience is how long a search waits for shards: those of an index that is just being made
// answer 503 for a moment.
const patience = 2 * time.Second

// patiently repeats a read that was answered with 503, for patience or until ctx ends.
func patiently(ctx context.Context, read func(context.Context) ([]byte, error)) ([]byte, error) {
	for began, wait := time.Now(), 50*time.Millisecond; ; wait *= 2 {
		answer, err := read(ctx)
		var r *refused
		if !errors.As(err, &r) || r.status != http.StatusServiceUnavailable || time.Since(began)+wait > patience {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// ours turns Elasticsearch's refusal of a query that passed our own rules into what it is.
func ours(op string, err error) error {
	if fault.Retryable(err) {
		return err
	}
	return fault.E(op, fault.Internal, err)
}

// search is the body of a search request: one hit more than the page holds, to see whether
// another page follows.
func (q Query) search() ([]byte, error) {
	filter, err := q.filter()
	if err != nil {
		return nil, err
	}
	if q.Size < 1 || q.Size > MaxSize {
		return nil, invalid("size", fmt.Sprintf("must be 1 to %d", MaxSize))
	}
	order := "desc"
	if q.Ascending {
		order = "asc"
	}
	sort := func(field, typ string) object {
		return object{field: object{"order": order, "unmapped_type": typ}}
	}
	body := object{
		"size":             q.Size + 1,
		"track_total_hits": true,
		"query":            filter,
		"sort":             []object{sort("timestamp", "date"), sort("seq", "long"), sort("id", "keyword")},
	}
	if q.After != "" {
		t, err := parseToken(q.After)
		if err != nil || t.Ascending != q.Ascending {
			return nil, invalid("after", "is not the page token of this search")
		}
		body["search_after"] = []any{t.Timestamp, t.Seq, t.ID}
	}
	return json.Marshal(body)
}

func invalid(field, reason string) error {
	return fault.BadFields("search", fault.Field{Name: field, Reason: reason})
}

// filter is the query itself. Nothing is ranked, so every condition is a filter.
func (q Query) filter() (object, error) {
	var all []object
	if strings.TrimSpace(q.Text) != "" {
		text, none, err := simpleQuery(q.Text)
		if err != nil {
			return nil, err
		}
		if none {
			return object{"match_none": object{}}, nil
		}
		all = append(all, object{"simple_query_string": object{
			"query":            text,
			"fields":           []string{helper + "." + helperText},
			"default_operator": "and",
			"flags":            "WHITESPACE|PHRASE|PREFIX|NOT",
		}})
	}
	if q.Type != "" {
		f, err := typeFilter(q.Type)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	switch {
	case q.UserID != "":
		all = append(all, object{"term": object{"userId": q.UserID}})
	case !q.AnyUser:
		return nil, invalid("userId", "is missing")
	}
	if r := q.timeRange(); len(r) > 0 {
		all = append(all, object{"range": object{"timestamp": r}})
	}
	if len(all) == 0 {
		return object{"match_all": object{}}, nil
	}
	return object{"bool": object{"filter": all}}, nil
}

func typeFilter(t string) (object, error) {
	if len(t) > event.MaxType+2 {
		return nil, invalid("type", "is too long")
	}
	if prefix, ok := strings.CutSuffix(t, "*"); ok && strings.HasSuffix(prefix, ".") && !strings.Contains(prefix, "*") {
		return object{"prefix": object{"type": prefix}}, nil
	}
	if strings.Contains(t, "*") {
		return nil, invalid("type", "may hold a * only at its end after a dot, as in order.*")
	}
	return object{"term": object{"type": t}}, nil
}

func (q Query) timeRange() object {
	r := object{}
	if !q.From.IsZero() {
		r["gte"] = q.From.UnixMilli()
	}
	if !q.To.IsZero() {
		r["lt"] = q.To.UnixMilli()
	}
	return r
}

type answered struct {
	Hits struct {
		Total struct {
			Value int64 `json:"value"`
		} `json:"total"`
		Hits []struct {
			Source json.RawMessage `json:"_source"`
			Sort   json.RawMessage `json:"sort"`
		} `json:"hits"`
	} `json:"hits"`
}

func (f *answered) page(q Query) (Page, error) {
	p := Page{Total: f.Hits.Total.Value, Events: []json.RawMessage{}}
	for i, hit := range f.Hits.Hits {
		if i == q.Size {
			next, err := nextToken(f.Hits.Hits[i-1].Sort, q.Ascending)
			if err != nil {
				return Page{}, fault.E("search", fault.Corrupt, err)
			}
			p.Next = next
			break
		}
		raw, err := restore(hit.Source)
		if err != nil { // somebody else's document in our index: show it as it is
			raw = hit.Source
		}
		p.Events = append(p.Events, raw)
	}
	return p, nil
}

// token is the place in a search after which the next page begins.
type token struct {
	Timestamp, Seq int64
	ID             string
	Ascending      bool
}

// nextToken makes a page token from the sort values of a page's last event.
func nextToken(sort []byte, ascending bool) (string, error) {
	t := token{Ascending: ascending}
	if err := json.Unmarshal(sort, &[]any{&t.Timestamp, &t.Seq, &t.ID}); err != nil {
		return "", err
	}
	b, err := json.Marshal([]any{1, t.Ascending, t.Timestamp, t.Seq, t.ID})
	return base64.RawURLEncoding.EncodeToString(b), err
}

// parseToken accepts nothing but what nextToken makes.
func parseToken(s string) (token, error) {
	const op = "parse page token"
	if len(s) > 2048 {
		return token{}, fault.Errorf(op, fault.Invalid, "too long")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return token{}, fault.E(op, fault.Invalid, err)
	}
	var t token
	var version int
	values := []any{&version, &t.Ascending, &t.Timestamp, &t.Seq, &t.ID}
	if err := json.Unmarshal(b, &values); err != nil {
		return token{}, fault.E(op, fault.Invalid, err)
	}
	again, err := json.Marshal([]any{version, t.Ascending, t.Timestamp, t.Seq, t.ID})
	if err != nil || version != 1 || !bytes.Equal(again, b) {
		return token{}, fault.Errorf(op, fault.Invalid, "not a page token")
	}
	return t, nil
}
