package bridge

import (
	"strings"
	"sync"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/quiet"
)

// recentEvents is how many positions are remembered to drop repeats. Two proxies carry each
// event twice, a moment apart; a worker publishes again what it is not sure of.
const recentEvents = 1 << 16

// users is where events go: hub.Hub.
type users interface {
	ToUser(user, name string, payload []byte) int
	ToAll(name string, payload []byte) int
}

// deliverer brings a message to the connections it is for. For one goroutine.
type deliverer struct {
	users  users
	recent *recent
	m      *metrics
	log    *quiet.Logger
}

// deliver never waits. The message's bytes must not be changed afterwards.
func (d *deliverer) deliver(msg fanout.Message) {
	if strings.HasPrefix(msg.Topic, "_") {
		return
	}
	d.m.received.Inc()
	e, err := event.ParseStored(msg.Body)
	if err != nil {
		d.m.malformed.Inc()
		d.log.Warn("skipped a message that is no stored event", "error", err, "bytes", len(msg.Body))
		return
	}
	if !d.recent.add(place{e.Partition, e.Seq}) {
		d.m.repeated.Inc()
		return
	}
	n := 0
	switch e.UserID {
	case "": // for the index only
	case event.Everybody:
		n = d.users.ToAll(e.Category(), e.Raw)
	default:
		n = d.users.ToUser(e.UserID, e.Category(), e.Raw)
	}
	if n == 0 {
		d.m.nobody.Inc()
	}
	d.m.queued.Add(float64(n))
}

// place is an event's number: no two events ever have the same.
type place struct {
	partition int
	seq       uint64
}

// recent remembers the last places and the order they came in. It is no high mark: two workers
// may interleave, and an event that comes late is still new. Safe for concurrent use.
type recent struct {
	mu    sync.Mutex
	seen  map[place]uint64 // the how-manieth it was
	ring  []place
	count uint64
}

func newRecent(n int) *recent {
	return &recent{seen: make(map[place]uint64, n), ring: make([]place, n)}
}

// add reports whether p was not among the last places, and remembers it.
func (r *recent) add(p place) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.seen[p]; ok {
		return false
	}
	slot := r.count % uint64(len(r.ring))
	if r.count >= uint64(len(r.ring)) {
		delete(r.seen, r.ring[slot])
	}
	r.ring[slot], r.seen[p] = p, r.count
	r.count++
	return true
}

// before reports whether both places are remembered and p came before q.
func (r *recent) before(p, q place) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, ok := r.seen[p]
	second, known := r.seen[q]
	return ok && known && first < second
}
