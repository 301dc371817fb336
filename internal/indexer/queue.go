package indexer

import (
	"context"
	"sync"
	"time"

	"eventspine/internal/event"
)

// The most one batch holds, however far behind the indexer is.
const (
	maxBatchEvents = 2000
	maxBatchBytes  = 5 << 20
)

// batch is events that go to Elasticsearch together.
type batch struct {
	events []event.Event
	oldest time.Time // arrival of the first
}

type waiting struct {
	event event.Event
	at    time.Time
}

// queue holds events between receive and the senders, bounded by events and bytes. One
// goroutine puts, one collects.
type queue struct {
	maxEvents, maxBytes int

	mu     sync.Mutex
	items  []waiting
	bytes  int
	closed bool
	held   bool          // put has waited for room since waited was asked
	put1   chan struct{} // something was put, or the queue was closed; holds one signal
	taken  chan struct{} // something was taken; holds one signal
}

func newQueue(maxEvents, maxBytes int) *queue {
	return &queue{maxEvents: maxEvents, maxBytes: maxBytes, put1: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// put adds e, and waits while there is no room, until ctx ends. An empty queue has room for
// any event.
func (q *queue) put(ctx context.Context, e event.Event) error {
	for {
		q.mu.Lock()
		if len(q.items) == 0 || len(q.items) < q.maxEvents && q.bytes+len(e.Raw) <= q.maxBytes {
			q.items = append(q.items, waiting{e, time.Now()})
			q.bytes += len(e.Raw)
			q.mu.Unlock()
			signal(q.put1)
			return nil
		}
		q.held = true
		q.mu.Unlock()
		select {
		case <-q.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waited reports whether put has had to wait for room since it was asked last, or does now:
// then it is Elasticsearch that is slow, and not this process.
func (q *queue) waited() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := len(q.items) >= q.maxEvents || q.bytes >= q.maxBytes
	held := q.held
	q.held = false
	return held || full
}

// close says that nothing more will be put: what is there goes off at once.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	signal(q.put1)
}

func (q *queue) size() (events, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items), q.bytes
}

// ripe waits until there are n events, the first has waited for flush, or the queue is closed.
// It reports false when the queue is closed and empty.
func (q *queue) ripe(n int, flush time.Duration) bool {
	for {
		q.mu.Lock()
		have, closed, first := len(q.items), q.closed, time.Time{}
		if have > 0 {
			first = q.items[0].at
		}
		q.mu.Unlock()
		if have >= n || closed {
			return have > 0
		}
		if have == 0 {
			<-q.put1
			continue
		}
		left := flush - time.Since(first)
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-q.put1:
			timer.Stop()
		case <-timer.C:
			return true
		}
	}
}

// take removes the oldest events, as many as one batch may hold.
func (q *queue) take() *batch {
	q.mu.Lock()
	n, bytes := 0, 0
	for n < min(len(q.items), maxBatchEvents) && (n == 0 || bytes+len(q.items[n].event.Raw) <= maxBatchBytes) {
		bytes += len(q.items[n].event.Raw)
		n++
	}
	b := &batch{events: make([]event.Event, n)}
	for i := range n {
		b.events[i] = q.items[i].event
	}
	if n > 0 {
		b.oldest = q.items[0].at
	}
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:]) // let go of the events
	q.items = q.items[:rest]
	q.bytes -= bytes
	q.mu.Unlock()
	signal(q.taken)
	return b
}
