package replay

import (
	"context"
	"sync"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

const (
	headsAge  = 500 * time.Millisecond // how old a position may be that a new client is given
	headsTime = time.Second            // for reading it
)

// heads knows about where the journal ends. It is read for all partitions at once, at most twice a
// second, however many clients connect. Safe for concurrent use.
type heads struct {
	journal Journal

	mu   sync.Mutex // held while it is read: the others want the same answer
	at   time.Time
	last []journal.Head
	err  error
}

func newHeads(j Journal) *heads { return &heads{journal: j} }

// position is where a client stands that has everything up to now, or up to a moment ago. Errors
// are those of journal.Heads; then it stands nowhere.
func (h *heads) position(ctx context.Context, own, all int) (Position, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > headsAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), headsTime)
		defer cancel()
		h.last, h.err = h.journal.Heads(ctx)
		h.at = time.Now()
	}
	switch {
	case h.err != nil:
		return Position{}, h.err
	case max(own, all) >= len(h.last):
		return Position{}, fault.Errorf("read heads", fault.Corrupt, "the journal has %d partitions", len(h.last))
	}
	u, a := h.last[own], h.last[all]
	return Position{User: u.Seq, All: a.Seq, Epoch: Epochs{u.Epoch, a.Epoch}}, nil
}

// Everybody is the number up to which nothing for everybody will be delivered any more, as it was
// stored before; 0 when that is not known. It is to be called before anything is delivered.
func (r *Replayer) Everybody(ctx context.Context) uint64 {
	p := event.Partition(event.Everybody, "", r.opt.Partitions)
	at, err := r.heads.position(ctx, p, p)
	if err != nil {
		return 0
	}
	return at.All
}
