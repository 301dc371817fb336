package replay

import (
	"cmp"
	"slices"
	"sync"
)

// place is an event's number: no two events ever have the same.
type place struct {
	partition int
	seq       uint64
}

// recent remembers the last places and the order they came in. Those of one partition come in
// the order of their numbers, as the follower hands them out. Safe for concurrent use.
type recent struct {
	mu    sync.Mutex
	lanes [][]visit // by partition
	ring  []int     // partitions, of the last events
	count uint64
}

// visit is an event, and the how-manieth it was.
type visit struct{ seq, count uint64 }

func newRecent(n, partitions int) *recent {
	return &recent{lanes: make([][]visit, partitions), ring: make([]int, n)}
}

// add remembers p.
func (r *recent) add(p place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := r.count % uint64(len(r.ring))
	if r.count >= uint64(len(r.ring)) {
		r.forget(r.ring[slot], r.count-uint64(len(r.ring)))
	}
	lane := r.lanes[p.partition]
	if n := len(lane); n > 0 && lane[n-1].seq >= p.seq {
		lane = nil // another journal
	}
	r.lanes[p.partition], r.ring[slot] = append(lane, visit{p.seq, r.count}), p.partition
	r.count++
}

// forget drops the oldest event.
func (r *recent) forget(partition int, count uint64) {
	lane := r.lanes[partition]
	if len(lane) > 0 && lane[0].count == count {
		r.lanes[partition] = lane[1:]
	}
}

// before is the newest number of the partition that was delivered before q; false when q or
// that one is not remembered.
func (r *recent) before(partition int, q place) (seq uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lane := r.lanes[q.partition]
	at, ok := slices.BinarySearchFunc(lane, q.seq, func(v visit, seq uint64) int { return cmp.Compare(v.seq, seq) })
	if !ok {
		return 0, false
	}
	count := lane[at].count
	lane = r.lanes[partition]
	n, _ := slices.BinarySearchFunc(lane, count, func(v visit, count uint64) int { return cmp.Compare(v.count, count) })
	if n == 0 {
		return 0, false
	}
	return lane[n-1].seq, true
}
