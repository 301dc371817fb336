package archive

import (
	"context"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// Result accounts for every event given to Index: Indexed + Existing + len(Refused) +
// len(Retry) is their number.
type Result struct {
	Indexed  int           // new documents
	Existing int           // were there before
	Refused  []Refusal     // will never be taken; sending them again does not help
	Retry    []int         // places in the batch of the events to send again
	Wait     time.Duration // how long Elasticsearch asked to wait before that; 0 when it did not say
}

// Refusal is an event that Elasticsearch will not take, and why.
type Refusal struct {
	Doc    int // place in the batch
	ID     string
	Reason string
	Status int // HTTP status that Elasticsearch gave the event; 400 when it was never sent
}

// Index stores the events, each under its own id in the index of its own day.
func (a *Archive) Index(ctx context.Context, events []event.Event) (Result, error) {
	return Result{}, fault.Errorf("index events", fault.Unavailable, "not connected")
}
