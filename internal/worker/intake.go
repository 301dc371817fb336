package worker

import (
	"context"
	"io"
	"sync"

	"eventspine/internal/event"
	"eventspine/internal/ingest"
)

// Bounds of one batch and of what may wait for the next one.
const (
	maxBatchEvents  = ingest.MaxBatchEvents
	maxBatchBytes   = 4 << 20 // one message more may pass it
	maxWaitingBatch = 2       // full batches that may wait; then receiving stops
)

// unit is one message on its way: the valid events of it.
type unit struct {
	numbered *ingest.Numbered // nil: not out of a log that wants an answer
	last     uint64           // numbered: of the last record, valid or not; First-1 for a question
	events   []event.Event
	numbers  []uint64 // numbered: by event
}

// weight is how many events a unit counts for: a question takes room, too.
func (u *unit) weight() int { return max(1, len(u.events)) }

func (u *unit) bytes() (n int) {
	for i := range u.events {
		n += len(u.events[i].Raw)
	}
	return n
}

// pieces splits a unit that is larger than a batch. A numbered one stays whole: its numbers
// are applied in one script call, and its sender bounds it.
func (u unit) pieces() []unit {
	if u.numbered != nil {
		return []unit{u}
	}
	var out []unit
	for len(u.events) > 0 {
		n, size := 0, 0
		for n < len(u.events) && n < maxBatchEvents && size < maxBatchBytes {
			size += len(u.events[n].Raw)
			n++
		}
		out = append(out, unit{events: u.events[:n:n]})
		u.events = u.events[n:]
	}
	return out
}

// intake holds valid events between the receiver and the committer. It is what makes batches
// adaptive: take gives at once whatever is there.
type intake struct {
	mu     sync.Mutex
	units  []unit
	weight int
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

// put adds the unit, waiting while the intake is full. For one goroutine. On an error, that
// of ctx, nothing was added.
func (q *intake) put(ctx context.Context, u unit) error {
	pieces := u.pieces()
	for {
		q.mu.Lock()
		if q.weight < maxWaitingBatch*maxBatchEvents && q.bytes < maxWaitingBatch*maxBatchBytes {
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
	for i := range pieces {
		q.units = append(q.units, pieces[i])
		q.weight += pieces[i].weight()
		q.bytes += pieces[i].bytes()
	}
	token(q.filled)
	return nil
}

// take waits for units and gives as many as fit one batch, one at least. For one goroutine.
// io.EOF after close, when everything was taken.
func (q *intake) take(ctx context.Context) ([]unit, error) {
	for {
		q.mu.Lock()
		if len(q.units) > 0 {
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
	n, weight, size := 0, 0, 0
	for n < len(q.units) && size < maxBatchBytes {
		w := q.units[n].weight()
		if n > 0 && weight+w > maxBatchEvents {
			break
		}
		weight, size, n = weight+w, size+q.units[n].bytes(), n+1
	}
	batch := q.units[:n:n]
	if q.units = q.units[n:]; len(q.units) == 0 {
		q.units = nil
	}
	q.weight -= weight
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
func (q *intake) len() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.units {
		n += len(q.units[i].events)
	}
	return n
}
