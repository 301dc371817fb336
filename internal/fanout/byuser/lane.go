package byuser

import (
	"slices"
	"time"

	"eventspine/internal/fanout"
)

// What may wait in one lane for those before it.
const (
	waitEvents = 256
	waitBytes  = 1 << 20
)

// lane is where one user's events stand. It does no I/O and has no clock.
type lane struct {
	user      string
	partition int
	begins    bool          // from is known
	from      uint64        // where the journal ended
	ready     chan struct{} // closed when it is placed, and nothing is missed any more

	placed  bool
	anew    bool          // to be placed at the newest event
	last    uint64        // all up to here was handed out
	known   uint64        // the newest number of the user that is known of
	sure    time.Time     // when last was known to be the newest
	waiting []fanout.Item // beyond a hole, by their numbers
	bytes   int
	reading bool
	pause   time.Duration // before the next reading, as the last one brought nothing
}

// place says where to begin: behind last.
func (l *lane) place(last uint64) []fanout.Item {
	l.placed, l.last = true, max(l.last, last)
	return l.settle(time.Time{}, 0)
}

// wire takes an event that came, and gives what is to be handed out now. first is the oldest time at
// which the lane was whole for an event that names none before it to be the next one.
func (l *lane) wire(it fanout.Item, first time.Time) (out []fanout.Item, repeat bool) {
	switch {
	case l.placed && it.Seq <= l.last:
		return nil, true
	case l.placed && len(l.waiting) == 0 && l.follows(&it, first):
		l.last = it.Seq
		return []fanout.Item{it}, false
	}
	l.known = max(l.known, it.Seq)
	at, found := slices.BinarySearchFunc(l.waiting, it.Seq, bySeq)
	switch {
	case found:
		return nil, true
	case len(l.waiting) >= waitEvents || l.bytes+len(it.Body) > waitBytes: // the journal has it
		return nil, false
	}
	l.waiting, l.bytes = slices.Insert(l.waiting, at, it), l.bytes+len(it.Body)
	if !l.placed {
		return nil, false
	}
	return l.settle(first, 0), false
}

func bySeq(it fanout.Item, seq uint64) int {
	if it.Seq < seq {
		return -1
	}
	return int(min(it.Seq-seq, 1))
}

// follows reports that there is no event of the user between the last one and this one. When it
// names none, the window held none when it was stored: then the lane is to have been whole since
// the beginning of that window.
func (l *lane) follows(it *fanout.Item, first time.Time) bool {
	if it.Prev.User == 0 {
		return !first.IsZero() && l.sure.After(first)
	}
	return it.Prev.User <= l.last
}

// settle takes out of what waits what comes next, and all up to the number upto.
func (l *lane) settle(first time.Time, upto uint64) (out []fanout.Item) {
	n := 0
	for ; n < len(l.waiting); n++ {
		it := l.waiting[n]
		if it.Seq > max(l.last, upto) && !l.follows(&it, first) {
			break
		}
		l.bytes -= len(it.Body)
		if it.Seq > l.last {
			out, l.last = append(out, it), it.Seq
		}
	}
	clear(l.waiting[:n])
	if l.waiting = l.waiting[n:]; len(l.waiting) == 0 {
		l.waiting = nil
	}
	return out
}

// newest takes the number of the user's newest event, 0 for none, as it was at a time.
func (l *lane) newest(seq uint64, at time.Time) {
	if l.known = max(l.known, seq); seq <= l.last && len(l.waiting) == 0 {
		l.sure = at
	}
}

// gap reports that the user's events after last are to be read.
func (l *lane) gap() bool { return l.placed && (l.known > l.last || len(l.waiting) > 0) }

// page takes what was read after last: all of the user's events up to the number upto.
func (l *lane) page(items []fanout.Item, upto uint64, first time.Time) (out []fanout.Item, refilled int) {
	for _, it := range items {
		out = append(out, l.settle(first, it.Seq-1)...)
		if it.Seq <= l.last {
			continue
		}
		out, l.last = append(out, it), it.Seq
		refilled++
	}
	out = append(out, l.settle(first, upto)...)
	l.last = max(l.last, upto)
	return append(out, l.settle(first, 0)...), refilled
}
