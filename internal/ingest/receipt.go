package ingest

import (
	"context"
	"sync"
	"sync/atomic"
)

// Receipt is the place the journal gave an event.
type Receipt struct {
	Partition int
	Seq       uint64 // 0: none, as a rule dropped the event
	Epoch     uint64 // 0: the event had been stored in an epoch before this one
}

// Waiting is for events to be stored. End it when nobody reads it any more. For one goroutine.
type Waiting struct {
	Stored []<-chan Receipt // by event; each gets one receipt, once
	own    *waiters
	keys   []place
}

// Receipts waits until all events are stored or ctx ends, and gives the receipt of each, in order:
// nil for one of which it is not known yet.
func (w *Waiting) Receipts(ctx context.Context) []*Receipt {
	all := make([]*Receipt, len(w.Stored))
	for i, c := range w.Stored {
		select {
		case r := <-c:
			all[i] = &r
			continue
		default:
		}
		select {
		case r := <-c:
			all[i] = &r
		case <-ctx.Done(): // the next ones may be there
		}
	}
	return all
}

// End forgets the wait.
func (w *Waiting) End() {
	if w.own != nil {
		w.own.remove(w.keys...)
	}
}

type place struct {
	partition int
	number    uint64
}

// waiters are those who wait for a receipt. Safe for concurrent use.
type waiters struct {
	count atomic.Int64
	mu    sync.Mutex
	at    map[place]chan Receipt
}

func (w *waiters) add(k place) chan Receipt {
	c := make(chan Receipt, 1) // the one that tells does not wait
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[place]chan Receipt{}
	}
	w.at[k] = c
	w.count.Store(int64(len(w.at)))
	return c
}

func (w *waiters) remove(keys ...place) {
	if w.count.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		delete(w.at, k)
	}
	w.count.Store(int64(len(w.at)))
}

// any reports whether somebody waits for an event of the partition.
func (w *waiters) any(k place) bool {
	if w.count.Load() == 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[k] != nil
}

// tell hands out the receipts that an answer holds.
func (w *waiters) tell(a *Ack) {
	if len(a.Seqs) == 0 || w.count.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, seq := range a.Seqs {
		k := place{a.Partition, a.First + uint64(i)}
		c := w.at[k]
		if c == nil {
			continue
		}
		r := Receipt{Partition: a.Partition, Seq: seq}
		if seq > a.Epoch {
			r.Epoch = a.Epoch
		}
		c <- r
		delete(w.at, k)
	}
	w.count.Store(int64(len(w.at)))
}
