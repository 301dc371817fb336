package fanout

import (
	"context"
	"strings"
	"sync"
	"time"

	"eventspine/internal/fault"
)

// settleMore is how long after the longest redial a proxy that is there has shaken hands.
const settleMore = 2 * time.Second

// route knows at which of several proxies messages get through, and when that is enough.
//
// One proxy is enough to carry everything, but both ends have to mean the same one. So at first
// every proxy is waited for; one that is still missing some time after another one opened is
// away, and then the others are enough. When the last one closes it begins anew. Safe for
// concurrent use.
type route struct {
	names  []string      // endpoints
	settle time.Duration // for the others, after the first one opened

	mu      sync.Mutex
	open    []bool
	since   time.Time // when the first one opened; zero: none is open
	settled bool
	changed chan struct{} // closed at the next change
}

func newRoute(names []string, redial time.Duration) *route {
	return &route{names: names, settle: redial + settleMore, open: make([]bool, len(names)), changed: make(chan struct{})}
}

// set notes whether messages get through at the proxy with index i.
func (r *route) set(i int, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[i] == open {
		return
	}
	r.open[i] = open
	switch n := r.count(); {
	case n == 0:
		r.since, r.settled = time.Time{}, false
	case r.since.IsZero():
		r.since = time.Now()
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *route) count() (n int) {
	for _, open := range r.open {
		if open {
			n++
		}
	}
	return n
}

// opened is the number of proxies where messages get through.
func (r *route) opened() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count()
}

// ready is nil when messages get through wherever they can; the error is of kind Unavailable.
func (r *route) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.look()
	return err
}

// look is ready with how long it takes until a missing proxy counts as away. mu is held.
func (r *route) look() (left time.Duration, err error) {
	n := r.count()
	if n > 0 {
		left = r.settle - time.Since(r.since)
		if r.settled = r.settled || n == len(r.open) || left <= 0; r.settled {
			return 0, nil
		}
	}
	var missing []string
	for i, open := range r.open {
		if !open {
			missing = append(missing, r.names[i])
		}
	}
	return left, fault.Errorf("", fault.Unavailable, "nothing gets through yet at the proxy %s", strings.Join(missing, ", "))
}

// wait waits until it is ready, or gives the reason why it was not when ctx ended.
func (r *route) wait(ctx context.Context) error {
	for {
		r.mu.Lock()
		left, err := r.look()
		changed := r.changed
		r.mu.Unlock()
		if err == nil {
			return nil
		}
		if left <= 0 { // none is open
			left = r.settle
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return err
		}
	}
}
