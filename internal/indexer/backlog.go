package indexer

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/checkpoint"
	"eventspine/internal/fault"
	"eventspine/internal/wal"
)

// The most one batch holds, however far behind the indexer is.
const (
	maxBatchEvents = 2000
	maxBatchBytes  = 5 << 20
)

const (
	spoolEvery = time.Second // between tries to write to a spool that is full
	patience   = time.Second // for a record that has to be there
	chunkBytes = 4 << 20     // of one write to the spool
)

// batch is events that go to Elasticsearch together.
type batch struct {
	items   []item           // not accounted for yet
	letters []archive.Letter // refused, and not buried yet
	oldest  time.Time        // arrival of the first

	ctx    context.Context // ends when the batch was moved to the spool: somebody else sends it
	cancel context.CancelFunc
	spans  spans
	n      int    // events taken from memory; 0: it came from the spool
	end    uint64 // index after its records in the spool; 0: it came from memory
	done   bool
}

// backlog is all that was taken from the follower and that Elasticsearch has not confirmed. What is
// young waits in memory; what is older than `after`, or too much, is moved to the spool, and from
// then on everything goes through the spool until that is empty.
//
// One goroutine takes (next), one moves (spool); put is safe for concurrent use.
type backlog struct {
	maxBytes int
	after    time.Duration
	spool    *wal.Log
	reader   *wal.Reader
	m        *metrics
	log      *slog.Logger

	mu      sync.Mutex
	items   []item // oldest first; the first taken of them are in batches
	taken   int
	bytes   int
	dropped uint64   // items that left memory, ever
	ledger  []*batch // taken and not confirmed, oldest first
	read    uint64   // the next record that goes into a batch
	end     uint64   // index after the last record that may
	done    uint64   // index before which every record is confirmed
	safe    checkpoint.Set
	last    checkpoint.Set // put last, in this life
	old     uint64         // index after the records that were in the spool at the start
	torn    map[int]bool   // partitions whose checkpoint stands before a gap
	full    bool           // the spool takes nothing
	held    bool           // put has waited for room since waited was asked
	waits   bool           // put waits for room
	closed  bool

	work, room, due chan struct{} // each holds one signal: for next, for put, for the mover
}

// newBacklog goes on with what the spool holds from index done. The spans are those of its records.
func newBacklog(spool *wal.Log, done uint64, maxBytes int, after time.Duration, m *metrics, log *slog.Logger) (*backlog, spans, error) {
	done = max(done, spool.First())
	b := &backlog{maxBytes: maxBytes, after: after, spool: spool, read: done, done: done, end: spool.End(), m: m, log: log, safe: checkpoint.Set{},
		last: checkpoint.Set{}, old: spool.End(), torn: map[int]bool{},
		work: make(chan struct{}, 1), room: make(chan struct{}, 1), due: make(chan struct{}, 1)}
	held, err := scan(spool, done)
	b.reader = spool.Reader(done)
	return b, held, err
}

// scan finds what the spool holds from index on.
func scan(spool *wal.Log, index uint64) (spans, error) {
	r := spool.Reader(index)
	defer func() { _ = r.Close() }() // it was only read
	held := spans{}
	for end := spool.End(); index < end; {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		i, record, err := r.Next(ctx)
		cancel()
		if err != nil { // nothing whole is left
			return held, nil
		}
		at, _, err := parsePlace(record)
		if fault.KindOf(err) == fault.Invalid {
			return nil, err
		}
		if err == nil {
			held.add(at)
		}
		index = i + 1
	}
	return held, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// put adds an item, and waits while there is no room, until ctx ends. Empty memory has room for
// any item.
func (b *backlog) put(ctx context.Context, it item) error {
	for {
		b.mu.Lock()
		if len(b.items) == 0 || b.bytes+it.size() <= b.maxBytes {
			b.items = append(b.items, it)
			b.bytes += it.size()
			if e := &it.event; e.Seq > b.last[e.Partition].Seq {
				b.last[e.Partition] = checkpoint.Position{Seq: e.Seq, Epoch: e.Epoch}
			}
			move := len(b.items) == 1 || b.bytes > b.maxBytes/2
			b.mu.Unlock()
			signal(b.work)
			if move {
				signal(b.due)
			}
			return nil
		}
		b.held, b.waits = true, true
		b.mu.Unlock()
		var err error
		select {
		case <-b.room:
		case <-ctx.Done():
			err = ctx.Err()
		}
		b.mu.Lock()
		b.waits = false
		b.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// waited reports whether put has had to wait for room since it was asked last, or does now: then
// it is Elasticsearch or the disk that is slow, and not this process.
func (b *backlog) waited() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held
	b.held = false
	return held || b.waits
}

// close says that nothing more will be put: what is in memory goes off at once, what is in the
// spool stays there.
func (b *backlog) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	signal(b.work)
}

func (b *backlog) closing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// figures are for metrics: what waits in memory and in the spool, and how old the oldest is.
func (b *backlog) figures() (events, bytes int, spooled uint64, full bool, age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.ledger) > 0:
		age = time.Since(b.ledger[0].oldest)
	case len(b.items) > 0:
		age = time.Since(b.items[0].at)
	}
	return len(b.items), b.bytes, b.end - b.done, b.full, age
}

// next waits for a batch: from the spool while there is something in it, else from memory when
// there are n events, the first has waited for flush, or the backlog is closed. It returns nil
// when the backlog is closed and memory empty. Batches end with ctx.
func (b *backlog) next(ctx context.Context, n int, flush time.Duration) *batch {
	for {
		b.mu.Lock()
		spooled, untaken := b.read < b.end && !b.closed, len(b.items)-b.taken
		left := flush
		if untaken > 0 {
			left -= time.Since(b.items[b.taken].at)
		}
		switch {
		case spooled:
			b.mu.Unlock()
			if x := b.fromSpool(ctx); x != nil {
				return x
			}
			continue
		case untaken > 0 && (untaken >= n || left <= 0 || b.closed):
			defer b.mu.Unlock()
			return b.fromMemory(ctx)
		case b.closed:
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		if untaken == 0 {
			<-b.work
			continue
		}
		timer := time.NewTimer(left)
		select {
		case <-b.work:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// fromMemory takes the oldest events, as many as one batch may hold. It runs under the lock.
func (b *backlog) fromMemory(ctx context.Context) *batch {
	x := &batch{spans: spans{}, oldest: b.items[b.taken].at}
	x.ctx, x.cancel = context.WithCancel(ctx)
	bytes := 0
	for b.taken < len(b.items) && x.n < maxBatchEvents {
		it := b.items[b.taken]
		if bytes += len(it.event.Raw); x.n > 0 && bytes > maxBatchBytes {
			break
		}
		x.take(it)
		x.n++
		b.taken++
	}
	b.ledger = append(b.ledger, x)
	return x
}

func (x *batch) take(it item) {
	x.items = append(x.items, it)
	x.spans.add(place{partition: it.event.Partition, prev: it.prev, seq: it.event.Seq, epoch: it.event.Epoch})
}

// fromSpool takes the next records. It returns nil when none of them was whole.
func (b *backlog) fromSpool(ctx context.Context) *batch {
	b.mu.Lock()
	read, end := b.read, b.end
	b.mu.Unlock()
	now := time.Now()
	x := &batch{spans: spans{}, oldest: now}
	for bytes := 0; read < end && len(x.items) < maxBatchEvents && bytes < maxBatchBytes; {
		short, cancel := context.WithTimeout(ctx, patience)
		i, record, err := b.reader.Next(short)
		cancel()
		if err != nil || i >= end { // nothing whole is left before end; the log has said so
			read = end
			b.reader.Seek(end)
			break
		}
		read = i + 1
		bytes += len(record)
		it, err := parseRecord(record, now)
		if err != nil {
			b.m.malformed.Inc()
			b.log.Warn("malformed record in the spool", "reason", err.Error(), "index", i)
			continue
		}
		x.take(it)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read, x.end, x.done = read, read, len(x.items) == 0
	x.ctx, x.cancel = context.WithCancel(ctx)
	b.ledger = append(b.ledger, x)
	if x.done {
		b.settle()
		return nil
	}
	return x
}

// confirm says that every event of x is indexed or buried.
func (b *backlog) confirm(x *batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x.done = true
	b.settle()
}

// settle moves the checkpoint over the oldest batches that are done.
func (b *backlog) settle() {
	for len(b.ledger) > 0 && b.ledger[0].done {
		x := b.ledger[0]
		b.ledger = b.ledger[1:]
		x.cancel()
		behind := x.spans.onto(b.safe)
		if x.n > 0 || x.end > b.old { // the follower began before the gaps that the spool had at the start
			for _, p := range behind {
				b.torn[p] = true
			}
		}
		b.done = max(b.done, x.end)
		b.drop(x.n)
	}
	b.seekTorn()
}

// drop forgets the first n items.
func (b *backlog) drop(n int) {
	if n == 0 {
		return
	}
	for i := range n {
		b.bytes -= b.items[i].size()
	}
	rest := copy(b.items, b.items[n:])
	clear(b.items[rest:]) // let go of the events
	b.items = b.items[:rest]
	b.taken = max(b.taken-n, 0)
	b.dropped += uint64(n)
	signal(b.room)
}

// state is what is safe: confirmed by Elasticsearch.
func (b *backlog) state() checkpoint.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return checkpoint.State{Spool: b.spool.Generation(), Done: b.done, Positions: maps.Clone(b.safe)}
}

// known takes over positions that were confirmed before.
func (b *backlog) known(set checkpoint.Set) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.safe.Forward(set)
}

// move moves what has waited too long to the spool, until ctx ends.
func (b *backlog) move(ctx context.Context) {
	for {
		wait := b.untilDue()
		timer := time.NewTimer(wait)
		select {
		case <-b.due:
			timer.Stop()
			if b.untilDue() > 0 {
				continue
			}
		case <-timer.C:
			if wait == never {
				continue
			}
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if b.toSpool(ctx) != nil {
			pause(ctx, spoolEvery)
		}
	}
}

const never = time.Hour

// untilDue is how long until something has to be moved.
func (b *backlog) untilDue() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.items) == 0:
		return never
	case b.bytes > b.maxBytes/2:
		return 0
	}
	return max(b.after-time.Since(b.items[0].at), 0)
}

// toSpool moves all that is in memory to the spool, also what is in batches: these are given up,
// and the events come again from the spool. On an error the rest stays in memory.
func (b *backlog) toSpool(ctx context.Context) error {
	b.mu.Lock()
	items, dropped := append([]item(nil), b.items...), b.dropped
	b.mu.Unlock()
	n, err := 0, error(nil)
	for n < len(items) && err == nil {
		var records [][]byte
		for bytes := 0; n+len(records) < len(items) && bytes < chunkBytes; {
			records = append(records, items[n+len(records)].record())
			bytes += len(records[len(records)-1])
		}
		if _, err = b.spool.Append(ctx, records, nil); err == nil {
			n += len(records)
		}
	}
	b.m.spooled.Add(float64(n))
	b.mu.Lock()
	if n > 0 {
		b.moved(n - min(n, int(b.dropped-dropped)))
	}
	was := b.full
	b.full = err != nil
	b.mu.Unlock()
	signal(b.work)
	switch {
	case err == nil && was:
		b.log.Info("the spool takes events again")
	case err != nil && !was && ctx.Err() == nil:
		b.log.Error("the spool takes no more; events wait in the journal until there is room", "error", err.Error())
	}
	return err
}

// moved forgets the first n items, which are in the spool now, and the batches that hold them. It
// runs under the lock.
func (b *backlog) moved(n int) {
	rest := b.ledger[:0]
	for _, x := range b.ledger {
		if x.n > 0 {
			x.cancel()
			continue
		}
		rest = append(rest, x)
	}
	clear(b.ledger[len(rest):])
	b.ledger = rest
	b.taken = 0
	b.drop(n)
	b.end = b.spool.End()
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
