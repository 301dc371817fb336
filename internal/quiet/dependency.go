package quiet

import (
	"log/slog"
	"sync"
	"time"

	"eventspine/internal/fault"
)

// Dependency is something a service waits for while it is away. It logs the first failure and
// every change of it, not each try, and knows what to say to a readiness probe. Safe for
// concurrent use.
type Dependency struct {
	name string
	log  *slog.Logger

	mu    sync.Mutex
	err   error
	since time.Time
}

// NewDependency makes one that counts as away until it was fine once.
func NewDependency(name string, log *slog.Logger) *Dependency {
	return &Dependency{name: name, log: log, since: time.Now(), err: fault.Errorf(name, fault.Unavailable, "not reached yet")}
}

// Failed notes why it cannot be used now.
func (d *Dependency) Failed(err error) {
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

// Fine notes that it works.
func (d *Dependency) Fine() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		d.log.Info("dependency is there", "dependency", d.name, "away_ms", time.Since(d.since).Milliseconds())
		d.err = nil
	}
}

// State is the last failure, nil when it was fine the last time it was used.
func (d *Dependency) State() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
