package fanout

import (
	"context"
	"time"

	"eventspine/internal/fault"
)

// Snail says when a subscriber that cannot keep up is to end itself: the Suicidal Snail of the
// ZeroMQ guide.
type Snail struct {
	Wait    time.Duration // a message that waits longer than this to be taken is late
	Limit   time.Duration // how long the subscriber may go on without catching up; 0: for ever
	Excused func() bool   // asked now and then: Recv was not called because of somebody else; nil: never
}

const (
	looks    = 30          // at least, within Snail.Limit
	maxPause = time.Second // between two of them
	minPause = 5 * time.Millisecond
)

// Watch returns an error of kind Overloaded when the subscriber did not keep up for s.Limit, and
// nil when ctx ends. The process should end then and be started again, rather than fill its own
// memory and the proxies' for ever; what it misses is in the journal.
//
// Behind is who has a receive queue that is half full or more, or holds a message that has
// waited for longer than s.Wait, at each look; caught up is who does not, at a single one. All of
// it is measured in this process, from when a message was read from the network, so that no
// other machine's clock matters, and with the monotonic clock, which a clock step leaves alone.
// A pause of the whole process (a suspended machine, SIGSTOP) counts as one look: nobody could
// have kept up, and a restart would bring nothing. What the proxy had no room for meanwhile is a
// gap like any other.
func (s *Subscriber) Watch(ctx context.Context, limits Snail) error {
	if limits.Limit <= 0 {
		<-ctx.Done()
		return nil
	}
	w := watch{limits: limits, load: s.load, last: time.Now()}
	tick := time.NewTicker(w.every())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		w.look(now)
		s.behind.Store(int64(w.behind))
		if w.behind >= limits.Limit {
			l := s.load()
			s.log.Warn("this subscriber cannot keep up and ends itself, to be started again", "behind_ms", w.behind.Milliseconds(),
				"oldest_waited_ms", w.oldest(now).Milliseconds(), "unread", l.received-l.taken)
			return fault.Errorf("watch subscriber", fault.Overloaded, "could not keep up for %s, so that %d messages wait", limits.Limit, l.received-l.taken)
		}
	}
}

// load is where a subscriber's receive queue stands.
type load struct {
	received, taken uint64 // messages since the beginning
	full            bool   // half of the room for some proxy is taken, or more
}

func (s *Subscriber) load() load {
	st := s.socket.Stats()
	l := load{received: st.Received, taken: st.Received - uint64(st.Unread)}
	for _, p := range s.socket.Peers() {
		l.full = l.full || 2*p.Unread >= s.limits.RcvHWM || 2*p.UnreadBytes >= int64(s.limits.RcvBytes)
	}
	return l
}

// watch judges a subscriber by looks at its load. It has no clock.
type watch struct {
	limits Snail
	load   func() load
	last   time.Time
	marks  []mark // where the receive queue ended at each look, as far as it was not taken yet
	behind time.Duration
}

type mark struct {
	at       time.Time
	received uint64
}

func (w *watch) every() time.Duration { return min(max(w.limits.Limit/looks, minPause), maxPause) }

// look takes one look. A pause before it counts as if it had been two times too late.
func (w *watch) look(now time.Time) {
	lasted := min(now.Sub(w.last), 2*w.every())
	w.last = now
	l := w.load()
	n := 0
	for n < len(w.marks) && w.marks[n].received <= l.taken {
		n++
	}
	w.marks = w.marks[n:]
	late := w.oldest(now) > w.limits.Wait
	if last := len(w.marks) - 1; l.received > l.taken && (last < 0 || w.marks[last].received < l.received) {
		w.marks = append(w.marks, mark{now, l.received})
	}
	excused := w.limits.Excused != nil && w.limits.Excused()
	if excused || !late && !l.full {
		w.behind = 0
		return
	}
	w.behind += lasted
}

// oldest is how long the oldest message has waited, at least.
func (w *watch) oldest(now time.Time) time.Duration {
	if len(w.marks) == 0 {
		return 0
	}
	return now.Sub(w.marks[0].at)
}
