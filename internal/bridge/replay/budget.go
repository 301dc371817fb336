package replay

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// What a page costs beside its events: a call to Redis, and the work around it.
const (
	pageCost  = 10      // as so many events
	eventCost = 1 << 10 // bytes that count as one event more
	burst     = 250 * time.Millisecond
)

// budget bounds what replays take: so many at the same time, so many events a second over all of
// them. The others stand in line, first come first served, up to a number and a time; past those
// they are sent away, to come again. Safe for concurrent use.
type budget struct {
	places  chan struct{} // one for each replay under way; who waits for one is served in turn
	line    int           // replays that may wait
	wait    time.Duration // for how long
	rate    float64       // events a second
	waiting atomic.Int64

	mu   sync.Mutex
	paid time.Time // up to when the rate is used up
}

func newBudget(o Options) *budget {
	return &budget{places: make(chan struct{}, o.Concurrent), line: o.Waiting, wait: o.Wait, rate: float64(o.Rate)}
}

// enter waits for a place. When it is not ok, the client is to ask again after retry; leave is to
// be called otherwise. ctx ends the wait as well.
func (b *budget) enter(ctx context.Context) (leave func(), retry time.Duration, ok bool) {
	select {
	case b.places <- struct{}{}:
		return b.leave, 0, true
	default:
	}
	if b.waiting.Add(1) > int64(b.line) {
		b.waiting.Add(-1)
		return nil, b.later(), false
	}
	defer b.waiting.Add(-1)
	timer := time.NewTimer(b.wait)
	defer timer.Stop()
	select {
	case b.places <- struct{}{}:
		return b.leave, 0, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, b.later(), false
}

func (b *budget) leave() { <-b.places }

// later is when a client that was sent away is to come again: not all of them at the same time.
func (b *budget) later() time.Duration {
	return time.Second + rand.N(max(b.wait, time.Second))
}

// soon is when a client that came too early is to come again.
func (b *budget) soon() time.Duration { return time.Second + rand.N(time.Second) }

// pay takes what a page has cost from the budget and waits until that is made up for. It keeps its
// place meanwhile, so that the line does not move on. It returns early when ctx ends.
func (b *budget) pay(ctx context.Context, events, bytes int) {
	cost := time.Duration(float64(pageCost+events+bytes/eventCost) / b.rate * float64(time.Second))
	now := time.Now()
	b.mu.Lock()
	if early := now.Add(-burst); b.paid.Before(early) {
		b.paid = early
	}
	b.paid = b.paid.Add(cost)
	debt := b.paid.Sub(now)
	b.mu.Unlock()
	if debt <= 0 {
		return
	}
	timer := time.NewTimer(debt)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
