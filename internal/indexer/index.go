package indexer

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/retry"
)

// source is where messages come from.
type source interface {
	Recv(ctx context.Context) (fanout.Message, error)
}

// index is where events go.
type index interface {
	Prepare(ctx context.Context) error
	Index(ctx context.Context, events []event.Event) (archive.Result, error)
}

// intake turns messages into events and queues them.
type intake struct {
	queue *queue
	m     *metrics
	log   *quiet.Logger
}

// receive queues every event from src until ctx ends, and returns the reason it ended.
// Reserved topics are not events; what is malformed is counted and logged. An event that was
// received waits for room in the queue until keep ends.
func (in *intake) receive(ctx, keep context.Context, src source) error {
	for {
		msg, err := src.Recv(ctx)
		if err != nil {
			return err
		}
		if strings.HasPrefix(msg.Topic, "_") {
			continue
		}
		e, err := parse(msg.Body)
		if err != nil {
			in.m.malformed.Inc()
			in.log.Warn("malformed event", "reason", err.Error(), "bytes", len(msg.Body))
			continue
		}
		in.m.received.Inc()
		if err := in.queue.put(keep, e); err != nil {
			in.m.lost.Inc()
			return err
		}
	}
}

func parse(body []byte) (event.Event, error) {
	e, err := event.ParseStored(body)
	if err == nil && (e.ID == "" || e.Timestamp == 0) {
		err = fault.Errorf("parse stored event", fault.Corrupt, "id or timestamp is missing")
	}
	return e, err
}

const (
	maxInFlight  = 2                // bulk requests at once; more only make Elasticsearch push back
	prepareEvery = 30 * time.Second // between looks whether the template is still there
)

// sender brings batches into the index.
type sender struct {
	index index
	m     *metrics
	log   *slog.Logger
	retry retry.Policy

	mu       sync.Mutex
	prepared time.Time // when the template was known to be there; zero: not known
	away     error     // why Elasticsearch does not take events at the moment
}

// collect sends what is in the queue, batch by batch and at most maxInFlight at once, until
// the queue is closed and empty. When ctx ends it gives up; what is left is counted as lost.
func (s *sender) collect(ctx context.Context, q *queue, n int, flush time.Duration) (lost int) {
	slots := make(chan struct{}, maxInFlight)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for q.ripe(n, flush) {
		slots <- struct{}{} // the queue grows meanwhile, and so does the next batch
		b := q.take()
		s.m.batch.Observe(float64(len(b.events)))
		wg.Go(func() {
			left := s.send(ctx, b)
			mu.Lock()
			lost += left
			mu.Unlock()
			<-slots
		})
	}
	wg.Wait()
	s.m.lost.Add(float64(lost))
	return lost
}

// send tries until every event of b is indexed, there already, or refused for good. It
// returns how many are left when ctx ends before that.
func (s *sender) send(ctx context.Context, b *batch) (left int) {
	err := s.retry.Forever(ctx, func(ctx context.Context) error {
		start := time.Now()
		err := s.try(ctx, b)
		s.m.tried(b, time.Since(start))
		return err
	}, func(error, time.Duration) { s.m.retries.Inc() })
	if err != nil {
		return len(b.events)
	}
	return 0
}

// try sends b once and leaves in it what has to be sent again. All its errors can be retried.
func (s *sender) try(ctx context.Context, b *batch) error {
	if err := s.prepare(ctx); err != nil {
		return s.failed(err)
	}
	r, err := s.index.Index(ctx, b.events)
	if err != nil {
		wait(ctx, r.Wait)
		return s.failed(err)
	}
	s.m.indexed.Add(float64(r.Indexed))
	s.m.existing.Add(float64(r.Existing))
	s.m.refused.Add(float64(len(r.Refused)))
	for _, x := range r.Refused {
		s.log.Warn("elasticsearch refuses an event", "id", x.ID, "status", x.Status, "reason", x.Reason)
	}
	if len(r.Retry) == 0 {
		s.fine()
		return nil
	}
	again := make([]event.Event, len(r.Retry))
	for i, place := range r.Retry {
		again[i] = b.events[place]
	}
	b.events = again
	wait(ctx, r.Wait)
	return s.failed(r.Cause)
}

// prepare installs the template where it is not known to be there, so that no index is ever
// made without it.
func (s *sender) prepare(ctx context.Context) error {
	s.mu.Lock()
	known := time.Since(s.prepared) < prepareEvery
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.index.Prepare(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.prepared = time.Now()
	s.mu.Unlock()
	return nil
}

// failed notes and returns why a try failed. Elasticsearch may come back without its data, so
// the template is installed again.
func (s *sender) failed(err error) error {
	if !fault.Retryable(err) { // no answer to the whole request is about one event
		err = fault.E("index events", fault.Unavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == nil {
		s.log.Warn("elasticsearch does not take events, trying on", "error", err.Error())
	}
	s.away, s.prepared = err, time.Time{}
	return err
}

func (s *sender) fine() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		s.log.Info("elasticsearch takes events again")
	}
	s.away = nil
}

// wait is a pause that Elasticsearch asked for.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
