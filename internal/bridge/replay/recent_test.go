package replay

import (
	"testing"

	"pgregory.net/rapid"
)

// TestRecent: what came before is known within the window, and never wrong, and memory stays
// bounded.
func TestRecent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "window")
		r := newRecent(n, 3)
		var added []place
		next := [3]uint64{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			p := rapid.IntRange(0, 2).Draw(t, "partition")
			next[p] += uint64(rapid.IntRange(1, 3).Draw(t, "later"))
			r.add(place{p, next[p]})
			added = append(added, place{p, next[p]})
			kept := added[max(0, len(added)-n):]
			at := rapid.IntRange(0, len(kept)-1).Draw(t, "event")
			of := rapid.IntRange(0, 2).Draw(t, "of")
			want := uint64(0)
			for _, q := range kept[:at] {
				if q.partition == of {
					want = q.seq
				}
			}
			if got, ok := r.before(of, kept[at]); ok != (want > 0) || got != want {
				t.Fatalf("before %v in partition %d: %d, %v; want %d of %v", kept[at], of, got, ok, want, kept)
			}
			if old := len(added) - n - 1; old >= 0 {
				if _, ok := r.before(of, added[old]); ok {
					t.Fatalf("%v is still known after %d", added[old], n)
				}
			}
			if total := len(r.lanes[0]) + len(r.lanes[1]) + len(r.lanes[2]); total > n {
				t.Fatalf("%d remembered of %d", total, n)
			}
		}
	})
}

func TestRecentOfAnotherJournal(t *testing.T) {
	r := newRecent(4, 1)
	for _, seq := range []uint64{5, 6, 3, 4} {
		r.add(place{0, seq})
	}
	if _, known := r.before(0, place{0, 5}); known {
		t.Error("a number of the old journal is known")
	}
	if got, known := r.before(0, place{0, 4}); !known || got != 3 {
		t.Errorf("before 4: %d, %v", got, known)
	}
	for seq := range uint64(10) {
		r.add(place{0, 100 + seq})
	}
	if len(r.lanes[0]) != 4 {
		t.Errorf("%d remembered", len(r.lanes[0]))
	}
}
