package journal

import "sync"

const (
	entryRoom = 64 // bytes that an entry of the journal takes beside its event
	lot       = 64 // events that are counted together
)

// weight counts the bytes of the newest events that this process stored in a partition. It makes a
// bound in bytes one in events, which Redis can count. What others stored in the partition it does
// not know: after they did, the journal may be twice as large for a while. Safe for concurrent use.
type weight struct {
	mu     sync.Mutex
	lots   []lots // oldest first
	events int64
	bytes  int64
	full   bool // more has come than the bound allows
}

type lots struct{ events, bytes int64 }

// add counts new events, and returns how many of the newest fit the bound: limit where that is not
// known, as there were not so many bytes yet.
func (w *weight) add(events, bytes, bound, limit int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.lots); n == 0 || w.lots[n-1].events >= lot {
		w.lots = append(w.lots, lots{})
	}
	last := &w.lots[len(w.lots)-1]
	bytes += events * entryRoom
	last.events, last.bytes = last.events+events, last.bytes+bytes
	w.events, w.bytes = w.events+events, w.bytes+bytes
	for len(w.lots) > 1 && (w.bytes > bound || w.events-w.lots[0].events >= limit) {
		w.events, w.bytes = w.events-w.lots[0].events, w.bytes-w.lots[0].bytes
		w.lots, w.full = w.lots[1:], true
	}
	switch {
	case w.bytes > bound: // one lot alone
		return min(limit, max(w.events*bound/w.bytes, 1))
	case w.full:
		return min(limit, w.events)
	}
	return limit
}

// most is how many events the journal keeps of the partition after the call.
func (j *Journal) most(c *call) int64 {
	bytes := 0
	for _, i := range c.events {
		bytes += len(c.batch[i].Event.Raw)
	}
	return j.weights[c.partition].add(int64(len(c.events)), int64(bytes), j.opts.JournalBytes, j.opts.JournalMax)
}
