package indexer

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/retry"
)

// index is where events go.
type index interface {
	Prepare(ctx context.Context) error
	Index(ctx context.Context, events []event.Event) (archive.Result, error)
	Bury(ctx context.Context, letters []archive.Letter) (archive.Result, error)
}

const (
	leastEvents  = 50               // of one request, however often it failed
	maxInFlight  = 2                // bulk requests at once; more only make Elasticsearch push back
	prepareEvery = 30 * time.Second // between looks whether the templates are still there
)

// sender brings batches into the index.
type sender struct {
	index index
	dead  *deadFile
	m     *metrics
	log   *slog.Logger
	retry retry.Policy

	mu       sync.Mutex
	prepared time.Time // when the templates were known to be there; zero: not known
	failures int       // tries that failed, ever
	most     int       // events of one request; 0: maxBatchEvents
	away     error     // why Elasticsearch does not take events at the moment
}

// collect sends the backlog, batch by batch and at most maxInFlight at once, until it is closed
// and all in memory is confirmed. When Elasticsearch fails after that, or ctx ends, it gives up;
// the rest stays in the backlog.
func (s *sender) collect(ctx context.Context, b *backlog, n int, flush time.Duration) {
	slots := make(chan struct{}, maxInFlight)
	var wg sync.WaitGroup
	for {
		slots <- struct{}{} // the backlog grows meanwhile, and so does the next batch
		x := b.next(ctx, n, flush)
		if x == nil {
			break
		}
		s.m.batch.Observe(float64(len(x.items)))
		wg.Go(func() {
			if s.send(x, b.closing) {
				b.confirm(x)
			}
			<-slots
		})
	}
	wg.Wait()
}

// send tries until every event of x is indexed, there already, or buried, and reports whether it
// came so far before the batch's context ended. Once closing says so, the first failure ends it.
func (s *sender) send(x *batch, closing func() bool) bool {
	ctx, giveUp := context.WithCancel(x.ctx)
	defer giveUp()
	err := s.retry.Forever(ctx, func(ctx context.Context) error {
		start := time.Now()
		wait, err := s.try(ctx, x)
		s.m.tried(x, time.Since(start))
		if err != nil && closing() {
			giveUp()
			return err
		}
		pause(ctx, wait)
		return err
	}, func(error, time.Duration) { s.m.retries.Inc() })
	return err == nil
}

// try sends x once and leaves in it what has to be sent again, after wait. All its errors can be
// retried.
func (s *sender) try(ctx context.Context, x *batch) (wait time.Duration, err error) {
	if err := s.prepare(ctx); err != nil {
		return 0, s.failed(ctx, err)
	}
	r, err := s.give(ctx, x)
	if err == nil && len(x.letters) > 0 {
		r.Wait, err = s.bury(ctx, x)
	}
	if err != nil {
		return r.Wait, s.failed(ctx, err)
	}
	s.fine()
	return 0, nil
}

// give sends the events that are left in x, part by part when Elasticsearch failed on more.
func (s *sender) give(ctx context.Context, x *batch) (archive.Result, error) {
	for len(x.items) > 0 {
		n := min(len(x.items), s.limit())
		r, err := s.part(ctx, x, n)
		s.adapt(n, err)
		if err != nil || len(r.Retry) > 0 {
			return r, err
		}
	}
	return archive.Result{}, nil
}

// limit is how many events the next request may have.
func (s *sender) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most == 0 {
		s.most = maxBatchEvents
	}
	return s.most
}

// adapt halves the limit after a request of n events that failed as a whole, as it may have been
// too much for the time a request has, and doubles it after one that did not.
func (s *sender) adapt(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.most = max(n/2, leastEvents)
	case n >= s.most:
		s.most = min(2*s.most, maxBatchEvents)
	}
}

// part sends the first n events of x and leaves those to send again, before the others.
func (s *sender) part(ctx context.Context, x *batch, n int) (archive.Result, error) {
	events := make([]event.Event, n)
	for i := range events {
		events[i] = x.items[i].event
	}
	r, err := s.index.Index(ctx, events)
	if err != nil {
		return r, err
	}
	s.m.indexed.Add(float64(r.Indexed))
	s.m.existing.Add(float64(r.Existing))
	s.m.refused.Add(float64(len(r.Refused)))
	letters := make([]archive.Letter, len(r.Refused))
	for i, refusal := range r.Refused {
		s.log.Warn("elasticsearch refuses an event", "id", refusal.ID, "status", refusal.Status, "reason", refusal.Reason)
		letters[i] = archive.LetterOf(&events[refusal.Doc], refusal, time.Now())
	}
	if err := s.dead.write(letters); err != nil {
		s.log.Error("the local file of dead letters cannot be written; they are in the index alone", "error", err.Error())
	}
	x.letters = append(x.letters, letters...)
	again := make([]item, len(r.Retry), len(r.Retry)+len(x.items)-n)
	for i, place := range r.Retry {
		again[i] = x.items[place]
	}
	x.items = append(again, x.items[n:]...)
	return r, r.Cause
}

// bury puts the letters of x into the index of dead letters. Letters that are refused there too
// are in the local file alone.
func (s *sender) bury(ctx context.Context, x *batch) (time.Duration, error) {
	r, err := s.index.Bury(ctx, x.letters)
	if err != nil {
		return r.Wait, err
	}
	for _, refusal := range r.Refused {
		if err := s.dead.write(x.letters[refusal.Doc : refusal.Doc+1]); err != nil { // so nobody has it
			return r.Wait, fault.E("keep dead letter", fault.Unavailable, err)
		}
		s.m.unburied.Inc()
		s.log.Error("elasticsearch refuses a dead letter, which is in the local file alone", "id", refusal.ID, "status", refusal.Status, "reason", refusal.Reason)
	}
	again := make([]archive.Letter, len(r.Retry))
	for i, place := range r.Retry {
		again[i] = x.letters[place]
	}
	x.letters = again
	return r.Wait, r.Cause
}

// prepare installs the templates where they are not known to be there, so that no index is ever
// made without them.
func (s *sender) prepare(ctx context.Context) error {
	s.mu.Lock()
	known, failures := time.Since(s.prepared) < prepareEvery, s.failures
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.index.Prepare(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	if s.failures == failures { // else it may have been another server, which is gone
		s.prepared = time.Now()
	}
	s.mu.Unlock()
	return nil
}

// install waits for Elasticsearch and gives it the templates before the first event comes.
func (s *sender) install(ctx context.Context) error {
	_ = s.retry.Forever(ctx, func(ctx context.Context) error {
		err := s.prepare(ctx)
		if err != nil {
			return s.failed(ctx, err)
		}
		s.fine()
		return nil
	}, nil) // the only error left is that ctx ended
	return nil
}

// failed notes and returns why a try failed. Elasticsearch may come back without its data, so
// the templates are installed again. A try that was given up does not count as its failure.
func (s *sender) failed(ctx context.Context, err error) error {
	if !fault.Retryable(err) { // no answer to the whole request is about one event
		err = fault.E("index events", fault.Unavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepared = time.Time{}
	s.failures++
	if ctx.Err() != nil {
		return err
	}
	if s.away == nil {
		s.log.Warn("elasticsearch does not take events, trying on", "error", err.Error())
	}
	s.away = err
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
