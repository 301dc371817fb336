package worker

import (
	"log/slog"
	"sync"
	"time"

	"eventspine/internal/fault"
)

// dependency is something the worker waits for when it is away. It logs the first failure and
// every change of it, not each try, and knows what to say to a readiness probe.
type dependency struct {
	name string
	log  *slog.Logger

	mu    sync.Mutex
	err   error
	since time.Time
}

// newDependency counts as away until it was fine once.
func newDependency(name string, log *slog.Logger) *dependency {
	return &dependency{name: name, log: log, since: time.Now(), err: fault.Errorf(name, fault.Unavailable, "not reached yet")}
}

// failed notes why it cannot be used now.
func (d *dependency) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := d.err != nil && d.err.Error() == err.Error()
	if d.err == nil {
		d.since = time.Now()
	}
	if d.err = err; !same {
		d.log.Warn("dependency is away, waiting for it", "dependency", d.name, "error", err.Error(), "kind", fault.KindOf(err))
	}
}

// fine notes that it works.
func (d *dependency) fine() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		d.log.Info("dependency is there", "dependency", d.name, "away_ms", time.Since(d.since).Milliseconds())
		d.err = nil
	}
}

// state is nil when it was fine the last time it was used.
func (d *dependency) state() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
