// Package track puts one partition's events back into their order. It is given what comes from
// the wire, with holes, repeats and in any order, and what was read from the journal, and gives
// each position once, in order. It does no I/O, has no clock and takes no lock.
//
//	wire ─▶ Wire ─┬─▶ in order: handed on at once
//	              └─▶ beyond a hole: waits ──┐
//	marks ─▶ Mark ─▶ how far it goes         ├─▶ Held, Pop
//	journal ─▶ Page: what is in the hole ────┘
//
// Numbers are never used twice, and those of a new epoch lie above all of the old one, so that
// they alone order all events of a partition.
package track

import (
	"slices"

	"eventspine/internal/event"
)

// Item is one event at its place.
type Item struct {
	event.Position
	Topic    string
	Body     []byte // the whole event, JSON
	Refilled bool   // read from the journal, not taken from the wire
}

func (i *Item) size() int { return len(i.Topic) + len(i.Body) }

// Limits bound what waits in one partition. What comes beyond them is let go, and read from
// the journal later.
type Limits struct{ Events, Bytes int }

// Partition is where one partition stands. For one goroutine.
type Partition struct {
	feed   bool
	limits Limits

	placed bool
	loose  bool   // to be placed by the first event that comes
	last   uint64 // all up to here was handed out or is in out
	epoch  uint64 // of last; 0: the beginning of what the journal holds
	heard  uint64 // the highest number of this epoch that is known of
	known  uint64 // the highest number of all that an event to be handed out is known to have
	end    uint64 // the highest number of all that one may have
	doubt  bool   // the journal is to be asked, whatever is known

	out     []Item // in order, to be handed out
	waiting []Item // beyond a hole, by their numbers
	bytes   int    // of both
}

// New makes a partition that has no place yet. With feed, only the deliverable events come
// from the wire, and each names the one before it; otherwise all do, and their numbers tell.
func New(feed bool, limits Limits) *Partition { return &Partition{feed: feed, limits: limits} }

// Placed reports whether it is known where to go on.
func (t *Partition) Placed() bool { return t.placed }

// Place says where to go on: behind seq. Epoch 0 means at the oldest that the journal holds, and
// the journal is to be read.
func (t *Partition) Place(seq, epoch uint64) {
	t.placed, t.last, t.epoch, t.heard = true, seq, epoch, seq
	t.settle()
}

// PlaceAtHead says that the journal ends at seq now, and to go on there, but for what came from
// the wire already. It does nothing when the partition has a place.
func (t *Partition) PlaceAtHead(seq, epoch uint64) {
	switch {
	case t.placed:
	case len(t.waiting) > 0 && t.waiting[0].Seq <= seq:
		t.Place(t.waiting[0].Seq-1, t.waiting[0].Epoch)
	default:
		t.Place(seq, epoch)
	}
}

// PlaceByWire says that nobody knows where the journal ends: go on with the first event that
// comes. It does nothing when the partition has a place.
func (t *Partition) PlaceByWire() {
	if t.loose = true; !t.placed && len(t.waiting) > 0 {
		t.Place(t.waiting[0].Seq-1, t.waiting[0].Epoch)
	}
}

// Reset forgets the place and all that waits for a hole to be filled.
func (t *Partition) Reset() {
	for i := range t.waiting {
		t.bytes -= t.waiting[i].size()
	}
	t.waiting, t.known, t.end, t.heard, t.placed = nil, 0, 0, 0, false
}

// At is the last position that was handed out or is to be.
func (t *Partition) At() (seq, epoch uint64) { return t.last, t.epoch }

// Heard is what became of an event from the wire.
type Heard int

// What became of it: it is the next one and to be handed out now; it waits for its turn; it came
// before; there is no room for it, and the journal has it.
const (
	Next Heard = iota
	Waits
	Repeat
	NoRoom
)

// Wire takes an event from the wire.
func (t *Partition) Wire(it Item) Heard {
	if !t.placed && t.loose {
		t.Place(it.Seq-1, it.Epoch)
	}
	if !t.placed {
		return t.wait(it)
	}
	if it.Seq <= t.last || it.Epoch < t.epoch {
		return Repeat
	}
	if it.Epoch == t.epoch {
		t.heard = max(t.heard, it.Seq)
	}
	switch {
	case !t.follows(&it):
		return t.wait(it)
	case len(t.out) == 0:
		t.last = it.Seq
		if len(t.waiting) > 0 {
			t.settle()
		}
		return Next
	case !t.room(&it):
		t.known = max(t.known, it.Seq)
		return NoRoom
	}
	t.hold(it)
	t.settle()
	return Waits
}

// follows reports that there is nothing between the last event and this one.
func (t *Partition) follows(it *Item) bool {
	return it.Epoch == t.epoch && (it.Seq == t.last+1 || t.feed && it.Prev.Feed != 0 && it.Prev.Feed <= t.last)
}

func (t *Partition) room(it *Item) bool {
	return len(t.out)+len(t.waiting) < t.limits.Events && t.bytes+it.size() <= t.limits.Bytes
}

// wait keeps an event until those before it are there.
func (t *Partition) wait(it Item) Heard {
	at, found := slices.BinarySearchFunc(t.waiting, it.Seq, func(w Item, seq uint64) int {
		if w.Seq < seq {
			return -1
		}
		return int(min(w.Seq-seq, 1))
	})
	switch {
	case found:
		return Repeat
	case !t.room(&it):
		t.known = max(t.known, it.Seq)
		return NoRoom
	}
	t.waiting = slices.Insert(t.waiting, at, it)
	t.bytes += it.size()
	return Waits
}

// hold puts the next event behind those to be handed out.
func (t *Partition) hold(it Item) {
	t.out = append(t.out, it)
	t.bytes += it.size()
	t.last, t.epoch = it.Seq, it.Epoch
}

// settle moves what has waited and has its turn now.
func (t *Partition) settle() {
	n := 0
	for ; n < len(t.waiting); n++ {
		it := t.waiting[n]
		if it.Seq > t.last && !t.follows(&it) {
			break
		}
		t.bytes -= it.size()
		if it.Seq > t.last {
			t.hold(it)
		}
	}
	t.forget(n)
}

// forget takes the first n out of what waits.
func (t *Partition) forget(n int) {
	clear(t.waiting[:n])
	if t.waiting = t.waiting[n:]; len(t.waiting) == 0 {
		t.waiting = nil
	}
}

// Mark takes what a worker says about the journal's end: its newest number, and, when told is
// true, that of the newest deliverable event, 0 for none in a long time.
func (t *Partition) Mark(seq, epoch, feed uint64, told bool) {
	switch {
	case !t.placed:
	case epoch < t.epoch:
		t.doubt = true
	case epoch > t.epoch:
		t.end = max(t.end, seq)
	case !t.feed:
		t.heard, t.known = max(t.heard, seq), max(t.known, seq)
	case !told:
		t.heard, t.end = max(t.heard, seq), max(t.end, seq)
	default:
		t.heard, t.known = max(t.heard, seq), max(t.known, feed)
		if !t.Gap() {
			t.last = max(t.last, seq) // nothing deliverable is up to there
		}
	}
}

// Gap reports that something is missing, so that the journal is to be read after At.
func (t *Partition) Gap() bool {
	return t.placed && (len(t.waiting) > 0 || max(t.known, t.end) > t.last)
}

// Missing is how many numbers are missing before the first event that waits; 0: nobody knows.
func (t *Partition) Missing() uint64 {
	if len(t.waiting) == 0 || t.waiting[0].Epoch != t.epoch {
		return 0
	}
	return t.waiting[0].Seq - t.last - 1
}

// Doubt says that the journal is to be asked.
func (t *Partition) Doubt() { t.doubt = true }

// Doubtful reports that the journal is to be asked even if there is no gap.
func (t *Partition) Doubtful() bool { return t.doubt }

// Held is the number of events that Pop will give.
func (t *Partition) Held() int { return len(t.out) }

// Waiting is the number of events that wait, for a hole to be filled or for Pop, and their bytes.
func (t *Partition) Waiting() (events, bytes int) { return len(t.out) + len(t.waiting), t.bytes }

// Quiet reports that nothing waits and nothing is missing.
func (t *Partition) Quiet() bool {
	return len(t.out) == 0 && len(t.waiting) == 0 && max(t.known, t.end) <= t.last && !t.doubt
}

// Pop gives the next event that has waited. There must be one.
func (t *Partition) Pop() Item {
	it := t.out[0]
	t.bytes -= it.size()
	t.out[0] = Item{}
	if t.out = t.out[1:]; len(t.out) == 0 {
		t.out = nil
	}
	return it
}
