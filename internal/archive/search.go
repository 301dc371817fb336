package archive

import (
	"context"
	"encoding/json"
	"time"

	"eventspine/internal/fault"
)

// MaxSize is the most events one page may hold.
const MaxSize = 1000

// Query says which events. Conditions that are given must all hold.
type Query struct {
	Text      string    // words that all occur in the event's id, type, userId or payload; "a phrase", prefix*, -without
	Type      string    // exact, or everything below a prefix when it ends in .*
	UserID    string    // events addressed to this user
	AnyUser   bool      // events of all users; UserID is then ignored. Without either the query is Invalid
	From, To  time.Time // the event's own timestamp: From inclusive, To exclusive; zero: open
	Size      int       // events a page, 1 to MaxSize; 0 means 20
	After     string    // Page.Next of the page before; empty: the first page
	Ascending bool      // oldest first; default newest first
}

// Page is a part of what was found.
type Page struct {
	Total  int64             // how many events match in all
	Events []json.RawMessage // exactly as they were indexed
	Next   string            // Query.After of the next page; empty: this is the last
}

// Search returns a page of matching events by timestamp, then seq, then id. Errors are of kind
// Invalid for a query or page token that breaks a rule, else Unavailable or Overloaded.
func (a *Archive) Search(ctx context.Context, q Query) (Page, error) {
	return Page{}, fault.Errorf("search", fault.Unavailable, "not connected")
}

// Count returns how many events match. Size, After and Ascending do not matter.
func (a *Archive) Count(ctx context.Context, q Query) (int64, error) {
	return 0, fault.Errorf("count", fault.Unavailable, "not connected")
}
