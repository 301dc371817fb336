package track

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/event"
)

// world is a partition's journal, its workers and its lossy wires, and a Partition that follows.
type world struct {
	t    *rapid.T
	feed bool

	journal  []stored // what it holds, in order
	all      []stored // what was ever stored and not rolled back
	gone     map[uint64]bool
	seq, top uint64 // newest number, highest of all epochs
	epoch    uint64
	deliver  uint64 // newest deliverable number
	wires    [2][]stored

	track  *Partition
	from   uint64 // where it began
	began  uint64 // where it was when it had found the oldest there is
	got    []uint64
	page   *Page           // that was read and not applied yet
	taken  map[uint64]bool // by Wire: it may not be forgotten
	wired  uint64          // the highest number that Wire was given
	lost   uint64
	unfin  uint64
	trims  bool
	rolled bool
	epochs int
	vague  bool // prev.feed does not tell all
	sure   bool // it does from now on
}

type stored struct {
	Item
	deliverable bool
}

func (w *world) store(n int) {
	for range n {
		w.seq++
		w.top = max(w.top, w.seq)
		s := stored{deliverable: rapid.IntRange(0, 2).Draw(w.t, "deliverable") > 0}
		s.Position = event.Position{Seq: w.seq, Epoch: w.epoch, Prev: event.Prev{Feed: w.deliver}}
		if !w.sure && rapid.IntRange(0, 9).Draw(w.t, "window") == 0 {
			s.Prev.Feed, w.vague = 0, true // the one before is out of the replay window
		}
		s.Body = fmt.Appendf(nil, "%d", w.seq)
		if s.deliverable {
			w.deliver = w.seq
		}
		w.journal, w.all = append(w.journal, s), append(w.all, s)
		for i := range w.wires {
			if (s.deliverable || !w.feed) && rapid.IntRange(0, 9).Draw(w.t, "dropped") < 7 {
				w.wires[i] = append(w.wires[i], s)
			}
		}
	}
}

// hand keeps what was given to the caller.
func (w *world) hand(it Item) {
	if string(it.Body) != fmt.Sprint(it.Seq) {
		w.t.Fatalf("event %d has the body %s", it.Seq, it.Body)
	}
	if n := len(w.got); n > 0 && w.got[n-1] >= it.Seq {
		w.t.Fatalf("%d was handed out after %d", it.Seq, w.got[n-1])
	}
	w.got = append(w.got, it.Seq)
}

func (w *world) receive(wire int) {
	if len(w.wires[wire]) == 0 {
		return
	}
	n := 0
	if len(w.wires[wire]) > 1 && rapid.IntRange(0, 4).Draw(w.t, "overtakes") == 0 {
		n = 1 // of another worker
	}
	s := w.wires[wire][n]
	w.wires[wire] = slices.Delete(w.wires[wire], n, n+1)
	if rapid.IntRange(0, 9).Draw(w.t, "again") == 0 {
		w.wires[wire] = append(w.wires[wire], s) // published again
	}
	w.wire(s)
	events, bytes := w.track.Waiting()
	if bytes < 0 || events == 0 && bytes != 0 {
		w.t.Fatalf("%d events of %d bytes wait", events, bytes)
	}
}

func (w *world) wire(s stored) Heard {
	heard := w.track.Wire(s.Item)
	if heard == Next {
		w.hand(s.Item)
	}
	if heard == Next || heard == Waits {
		w.taken[s.Seq] = true
	}
	w.wired = max(w.wired, s.Seq)
	return heard
}

// read does what a reader does: the journal's end, then a page. Meanwhile the wire goes on.
func (w *world) read(limit int) {
	if w.track.Held() > 0 || w.page != nil {
		return
	}
	after, _ := w.track.At()
	p := Page{Upto: w.seq, Epoch: w.epoch}
	for _, s := range w.journal {
		if s.Seq > after && len(p.Entries) < limit {
			p.Entries = append(p.Entries, Entry{Item: s.Item, Skip: w.feed && !s.deliverable})
			p.Upto = s.Seq
		}
	}
	if len(p.Entries) == 0 && w.seq > after {
		w.vague = true // nobody tells what was there
	}
	w.page = &p
}

func (w *world) apply() {
	if w.page == nil {
		return
	}
	_, before := w.track.At()
	f := w.track.Page(*w.page)
	w.page = nil
	if before == 0 {
		w.began, _ = w.track.At()
	}
	w.lost += f.Lost
	w.unfin += f.Unfinished
}

func (w *world) pop(n int) {
	for ; n > 0 && w.track.Held() > 0; n-- {
		w.hand(w.track.Pop())
	}
}

func (w *world) mark(told bool) {
	feed := w.deliver
	if !told {
		feed = 0
	}
	w.track.Mark(w.seq, w.epoch, feed, told)
}

// again begins a new epoch; the newest n events are lost.
func (w *world) again(n int) {
	n = min(n, len(w.journal))
	for _, s := range w.journal[len(w.journal)-n:] {
		w.gone[s.Seq] = true
		w.rolled = true
	}
	w.journal = w.journal[:len(w.journal)-n]
	w.epochs++
	w.epoch = w.top + 1000
	w.seq, w.top = w.epoch, w.epoch
	w.deliver = 0
	for _, s := range w.journal {
		if s.deliverable {
			w.deliver = s.Seq
		}
	}
}

func (w *world) trim(n int) {
	n = min(n, len(w.journal))
	for _, s := range w.journal[:n] {
		w.gone[s.Seq] = true
		w.trims = true
	}
	w.journal = w.journal[n:]
}

// check compares what was handed out with what was stored, when all is quiet.
func (w *world) check() {
	missing, certain := uint64(0), uint64(0) // certain: something later of their epoch came
	at := 0
	for _, s := range w.all {
		if s.Seq <= w.from || w.feed && !s.deliverable {
			continue
		}
		if at < len(w.got) && w.got[at] == s.Seq {
			at++
			continue
		}
		if !w.gone[s.Seq] {
			w.t.Fatalf("%d was stored and is not lost, and was not handed out; got %v", s.Seq, w.got)
		}
		if at == 0 && s.Seq <= w.began { // before the oldest there was
			continue
		}
		if missing++; slices.ContainsFunc(w.got, func(seq uint64) bool { return seq > s.Seq && seq-s.Seq < 500 }) {
			certain++
		}
	}
	if at != len(w.got) {
		w.t.Fatalf("%v was handed out from %d on: it is not what was stored", w.got, at)
	}
	for seq := range w.taken {
		if !slices.Contains(w.got, seq) {
			w.t.Fatalf("%d came from the wire and was forgotten; got %v", seq, w.got)
		}
	}
	counted := w.lost + w.unfin
	switch {
	case !w.trims && w.lost > 0:
		w.t.Fatalf("%d counted as lost, and nothing was trimmed", w.lost)
	case !w.feed && !w.rolled && (counted < certain || counted > missing):
		w.t.Fatalf("%d are missing, %d for certain; %d counted as lost and %d as unfinished", missing, certain, w.lost, w.unfin)
	case !w.feed && !w.rolled && w.epochs == 0 && w.lost != missing:
		w.t.Fatalf("%d are missing; %d counted as lost", missing, w.lost)
	case w.feed && !w.rolled && (counted > missing || counted == 0 && certain > 0 && !w.vague):
		w.t.Fatalf("%d are missing, %d for certain; at least %d said to be lost, and %d unfinished", missing, certain, w.lost, w.unfin)
	case counted > missing+uint64(len(w.gone)):
		w.t.Fatalf("%d lost, %d unfinished, and only %d went", w.lost, w.unfin, len(w.gone))
	}
}

// live wants the next event to be handed out at once, as nothing is missing.
func (w *world) live() {
	w.wires, w.sure = [2][]stored{}, true
	for range 3 {
		w.store(1)
		s := w.all[len(w.all)-1]
		if w.feed && !s.deliverable {
			continue
		}
		heard := w.wire(s)
		if w.feed && s.Prev.Feed == 0 { // it names none, so that the journal is asked
			w.read(5)
			w.apply()
			w.pop(5)
			continue
		}
		if heard != Next {
			at, epoch := w.track.At()
			w.t.Fatalf("%+v became %v, at %d of %d", s.Position, heard, at, epoch)
		}
	}
}

// TestAgainstAModel: whatever is dropped, repeated, overtaken, trimmed, and whatever epochs
// begin: what is handed out is what was stored, in order and once, but for what is in the
// journal no more.
func TestAgainstAModel(t *testing.T) {
	for i := range 20 { // some mistakes need a thousand tries to show
		t.Run(strconv.Itoa(i), func(t *testing.T) { rapid.Check(t, tryModel) })
	}
}

func tryModel(t *rapid.T) {
	w := &world{t: t, feed: rapid.Bool().Draw(t, "feed"), gone: map[uint64]bool{}, taken: map[uint64]bool{}, epoch: 1000, seq: 1000, top: 1000}
	limits := Limits{Events: rapid.IntRange(1, 8).Draw(t, "room"), Bytes: rapid.IntRange(5, 60).Draw(t, "bytes")}
	w.track = New(w.feed, limits)
	w.store(rapid.IntRange(0, 5).Draw(t, "before"))
	w.wires = [2][]stored{}
	if rapid.IntRange(0, 3).Draw(t, "from the oldest") == 0 {
		w.track.Place(0, 0)
		w.track.Doubt()
	} else {
		w.from = w.seq
		w.track.Place(w.seq, w.epoch)
	}
	actions := map[string]func(*rapid.T){
		"store":   func(t *rapid.T) { w.store(rapid.IntRange(1, 5).Draw(t, "events")) },
		"receive": func(t *rapid.T) { w.receive(rapid.IntRange(0, 1).Draw(t, "wire")) },
		"read":    func(t *rapid.T) { w.read(rapid.IntRange(1, 6).Draw(t, "limit")) },
		"apply":   func(*rapid.T) { w.apply() },
		"pop":     func(t *rapid.T) { w.pop(rapid.IntRange(1, 5).Draw(t, "items")) },
		"mark":    func(t *rapid.T) { w.mark(rapid.IntRange(0, 3).Draw(t, "with feed") > 0) },
		"epoch": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
				w.again(rapid.IntRange(0, 4).Draw(t, "rolled back"))
			}
		},
		"trim": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "old") == 0 {
				w.trim(rapid.IntRange(0, 6).Draw(t, "trimmed"))
			}
		},
	}
	actions[""] = func(t *rapid.T) {
		if at, _ := w.track.At(); w.wired > at && !w.track.Gap() {
			t.Fatalf("%d came, the partition is at %d and sees no gap", w.wired, at)
		}
	}
	t.Repeat(actions)
	w.apply()
	for range 100 { // the end: a mark, and the journal as long as something is missing
		w.pop(1000)
		w.mark(true)
		if w.track.Gap() || w.track.Doubtful() {
			w.read(5)
			w.apply()
		}
	}
	w.pop(1000)
	if !w.track.Quiet() {
		at, epoch := w.track.At()
		t.Fatalf("it does not come to rest: at %d of %d, the journal at %d of %d", at, epoch, w.seq, w.epoch)
	}
	w.check()
	w.live()
}

// TestMissingIsCountedOnce: a mark and the first event of a new epoch name the same event, which
// the journal does not hold any more.
func TestMissingIsCountedOnce(t *testing.T) {
	p := New(true, Limits{Events: 1, Bytes: 5})
	p.Place(1004, 1000)
	p.Mark(1006, 1000, 1006, true)
	p.Wire(Item{Position: event.Position{Seq: 1005, Epoch: 1000}})
	first := Entry{Skip: true, Item: Item{Position: event.Position{Seq: 2008, Epoch: 2006, Prev: event.Prev{Feed: 1006}}}}
	if f := p.Page(Page{Entries: []Entry{first}, Upto: 2008, Epoch: 2006}); f.Lost != 0 || f.Unfinished != 1 {
		t.Errorf("%+v, want 1006 to be counted once", f)
	}
}
