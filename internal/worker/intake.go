package worker

import (
	"context"
	"io"
	"sync"

	"eventspine/internal/event"
)

// Bounds of one batch and of what may wait for the next one.
const (
	maxBatchEvents  = 512
	maxBatchBytes   = 4 << 20 // one event more may pass it
	maxWaitingBatch = 2       // full batches that may wait; then receiving stops
)

// intake holds valid events between the receiver and the committer. It is what makes batches
// adaptive: take gives at once whatever is there.
type intake struct {
	mu     sync.Mutex
	events []event.Event
	bytes  int
	closed bool
	filled chan struct{} // has a token when there may be something to take
	room   chan struct{} // has a token when there may be room to put
}

func newIntake() *intake {
	return &intake{filled: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put adds the events, waiting while the intake is full. For one goroutine. On an error, that
// of ctx, none was added.
func (q *intake) put(ctx context.Context, events []event.Event) error {
	for {
		q.mu.Lock()
		if len(q.events) < maxWaitingBatch*maxBatchEvents && q.bytes < maxWaitingBatch*maxBatchBytes {
			break
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer q.mu.Unlock()
	q.events = append(q.events, events...)
	for i := range events {
		q.bytes += len(events[i].Raw)
	}
	token(q.filled)
	return nil
}

// take waits for events and gives as many as fit one batch. For one goroutine. io.EOF after
// close, when everything was taken.
func (q *intake) take(ctx context.Context) ([]event.Event, error) {
	for {
		q.mu.Lock()
		if len(q.events) > 0 {
			break
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil, io.EOF
		}
		select {
		case <-q.filled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.events) && n < maxBatchEvents && size < maxBatchBytes {
		size += len(q.events[n].Raw)
		n++
	}
	batch := q.events[:n:n]
	if q.events = q.events[n:]; len(q.events) == 0 {
		q.events = nil
	}
	q.bytes -= size
	token(q.room)
	return batch, nil
}

// close says that nothing more will be put.
func (q *intake) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	token(q.filled)
}

// len is the number of waiting events.
func (q *intake) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events)
}
