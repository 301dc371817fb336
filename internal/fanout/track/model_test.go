package track

import (
	"fmt"
	"slices"
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
	got    []uint64
	lost   uint64
	unfin  uint64
	trims  bool
	rolled bool
	epochs int
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
		if rapid.IntRange(0, 9).Draw(w.t, "window") == 0 {
			s.Prev.Feed = 0 // the one before is out of the replay window
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
	if w.track.Wire(s.Item) == Next {
		w.hand(s.Item)
	}
	events, bytes := w.track.Waiting()
	if bytes < 0 || events == 0 && bytes != 0 {
		w.t.Fatalf("%d events of %d bytes wait", events, bytes)
	}
}

// read does what a reader does: the journal's end, then a page.
func (w *world) read(limit int) {
	if w.track.Held() > 0 {
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
	f := w.track.Page(p)
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
		w.trims = w.trims || n > 0
	}
	w.journal = w.journal[n:]
}

// check compares what was handed out with what was stored, when all is quiet.
func (w *world) check() {
	missing := uint64(0)
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
		missing++
	}
	if at != len(w.got) {
		w.t.Fatalf("%v was handed out from %d on: it is not what was stored", w.got, at)
	}
	switch vague := w.rolled || w.trims && w.epochs > 0; { // of an ended epoch nobody knows what it held
	case !w.feed && !vague && w.lost+w.unfin != missing:
		w.t.Fatalf("%d are missing; %d counted as lost and %d as unfinished", missing, w.lost, w.unfin)
	case w.feed && !vague && w.lost+w.unfin > missing:
		w.t.Fatalf("%d are missing; at least %d said to be lost, and %d unfinished", missing, w.lost, w.unfin)
	case !w.trims && w.lost > 0:
		w.t.Fatalf("%d counted as lost, and nothing was trimmed", w.lost)
	case w.lost+w.unfin > missing+uint64(len(w.gone)):
		w.t.Fatalf("%d lost, %d unfinished, and only %d went", w.lost, w.unfin, len(w.gone))
	}
}

// TestAgainstAModel: whatever is dropped, repeated, overtaken, trimmed, and whatever epochs
// begin: what is handed out is what was stored, in order and once, but for what is in the
// journal no more.
func TestAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, feed: rapid.Bool().Draw(t, "feed"), gone: map[uint64]bool{}, epoch: 1000, seq: 1000, top: 1000}
		limits := Limits{Events: rapid.IntRange(1, 8).Draw(t, "room"), Bytes: rapid.IntRange(5, 60).Draw(t, "bytes")}
		w.track = New(w.feed, limits)
		w.store(rapid.IntRange(0, 5).Draw(t, "before"))
		w.wires = [2][]stored{}
		w.from = w.seq
		w.track.Place(w.seq, w.epoch)
		actions := map[string]func(*rapid.T){
			"store":   func(t *rapid.T) { w.store(rapid.IntRange(1, 5).Draw(t, "events")) },
			"receive": func(t *rapid.T) { w.receive(rapid.IntRange(0, 1).Draw(t, "wire")) },
			"read":    func(t *rapid.T) { w.read(rapid.IntRange(1, 6).Draw(t, "limit")) },
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
		t.Repeat(actions)
		for range 100 { // the end: a mark, and the journal as long as something is missing
			w.pop(1000)
			w.mark(true)
			if w.track.Gap() {
				w.read(5)
			}
		}
		w.pop(1000)
		if !w.track.Quiet() {
			at, epoch := w.track.At()
			t.Fatalf("it does not come to rest: at %d of %d, the journal at %d of %d", at, epoch, w.seq, w.epoch)
		}
		w.check()
	})
}
