package fanout

import (
	"context"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fanout/track"
	"eventspine/internal/fault"
	"eventspine/internal/retry"
)

const (
	settleWire = 5 * time.Millisecond   // in which another proxy or worker may close a hole
	settleMark = 250 * time.Millisecond // in which what a mark speaks of may come
	minPauseAt = 20 * time.Millisecond  // before the journal is read again, when it did not hold what is missing
	maxPauseAt = time.Second
	headTime   = time.Second // for the first try to learn where the journal ends

	firstPage, minPage, maxPage = 256, 16, 512 // events of a page
	pageBytes                   = 1 << 20      // after a page of more the next one is for fewer events

	olderEpochs = 10 // looks at the journal before one of an older epoch is believed
)

var refillRetry = retry.Policy{Min: 20 * time.Millisecond, Max: time.Second}

// result is what a reader found.
type result struct {
	partition int
	kind      found
	seq       uint64 // heads
	page      track.Page
	bytes     int
	more      bool // there is more behind the page
	gap       bool // a gap was seen, which the page belongs to
}

type found int

const (
	nothing found = iota // the hole was closed before it was looked at
	head
	noHead // for now
	page
)

// begin places the partitions.
func (f *Follower) begin() {
	f.begun = true
	for p := range f.lanes {
		if f.start != nil {
			if seq, epoch, ok := f.start(p); ok {
				f.lanes[p].Place(seq, epoch)
				f.lanes[p].Doubt()
				f.lanes[p].behind = true
				f.place()
				f.look(p)
				continue
			}
		}
		f.wg.Go(func() { f.readHead(p) })
	}
}

// look does what a partition needs after something changed: its items are handed out, and the
// journal is read, one page at a time, when nothing waits to be handed out.
func (f *Follower) look(p int) {
	l := &f.lanes[p]
	if l.Held() > 0 && !l.queued {
		l.queued = true
		f.held = append(f.held, p)
	}
	needed := l.Gap() || l.Doubtful()
	switch {
	case l.reading && !needed && l.calm != nil:
		close(l.calm)
		l.calm = nil
	case !l.reading && needed && l.Held() == 0:
		l.reading, l.calm = true, make(chan struct{})
		after, _ := l.At()
		limit := l.limit
		if n := l.Missing(); n > 0 && n < uint64(limit) {
			limit = int(n)
		}
		wait, gap, calm := l.settle(), l.Gap() && !l.behind, l.calm
		f.wg.Go(func() { f.readPage(p, after, limit, wait, gap, calm) })
	case !l.reading && !needed:
		l.pause, l.full, l.counted = 0, false, false
	}
}

// settle is how long to wait before the journal is read.
func (l *lane) settle() time.Duration {
	events, _ := l.Waiting()
	switch {
	case l.full || !l.Gap() && l.older == 0:
		return 0
	case l.pause > 0:
		return l.pause
	case events == 0:
		return settleMark
	}
	return settleWire
}

// post leaves a result for Recv.
func (f *Follower) post(r result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.results = append(f.results, r)
	f.news.Store(true)
	if f.wake != nil {
		f.wake()
	}
}

func (f *Follower) takeResults() {
	f.mu.Lock()
	results := f.results
	f.results = nil
	f.news.Store(false)
	f.mu.Unlock()
	for i := range results {
		f.result(&results[i])
	}
}

func (f *Follower) result(r *result) {
	l := &f.lanes[r.partition]
	placed := l.Placed()
	switch r.kind {
	case nothing:
		l.reading = false
	case head:
		l.PlaceAtHead(r.seq, r.page.Epoch)
	case noHead:
		l.PlaceByWire()
	case page:
		l.reading, l.calm = false, nil
		f.page(l, r)
	}
	if !placed && l.Placed() {
		f.place()
	}
	f.look(r.partition)
}

// page fills a hole.
func (f *Follower) page(l *lane, r *result) {
	before, epoch := l.At()
	filled := l.Page(r.page)
	if r.gap && !l.counted && (filled.Refilled > 0 || filled.Lost+filled.Unfinished > 0) {
		l.counted = true
		f.m.gaps.Inc()
	}
	f.m.refilled.Add(float64(filled.Refilled))
	if filled.Lost > 0 {
		f.m.lost.Add(float64(filled.Lost))
		f.log.Error("events are lost for this follower: the journal does not hold them any more",
			"partition", r.partition, "after", filled.After, "events", filled.Lost, "fix", "a longer JOURNAL_AGE or JOURNAL_MAX, or a follower that is away for less")
	}
	if filled.Unfinished > 0 {
		f.m.unfinished.Add(float64(filled.Unfinished))
		f.log.Warn("an epoch of the journal ended before all of it was read; the apis send again what they keep",
			"partition", r.partition, "after", filled.After, "events", filled.Unfinished)
	}
	switch {
	case r.bytes > pageBytes:
		l.limit = max(l.limit/2, minPage)
	case l.limit < maxPage:
		l.limit *= 2
	}
	if l.full, l.behind = r.more, l.behind && r.more; l.behind {
		l.Doubt()
	}
	after, _ := l.At()
	if after > before || !l.Gap() {
		l.pause = 0
	} else {
		l.pause = min(max(2*l.pause, minPauseAt), maxPauseAt)
	}
	if r.page.Epoch >= epoch {
		l.older = 0
		return
	}
	l.pause = maxPauseAt // a server that came back with old data will begin a new epoch
	if l.older++; l.older >= olderEpochs {
		f.replaced(l, r)
	}
}

// replaced goes over to a journal whose epoch is older than what was followed: it is another
// journal, or the clock of its server was set back. What is live goes on at its end, the others
// take all that it holds.
func (f *Follower) replaced(l *lane, r *result) {
	f.log.Error("the journal is of an older epoch than what was followed until now; it is followed from here on",
		"partition", r.partition, "epoch", r.page.Epoch, "fix", "if Redis was put back to an old state this is expected, otherwise check its clock")
	l.older, l.behind = 0, true
	if l.Reset(); f.feed {
		l.Place(r.seq, r.page.Epoch)
	} else {
		l.Place(r.page.Epoch, r.page.Epoch)
	}
	l.Doubt()
}

// readHead learns where the journal ends. When that fails at first it says so, that events need
// not wait for it, and goes on trying.
func (f *Follower) readHead(p int) {
	first := true
	_ = refillRetry.Forever(f.ctx, func(ctx context.Context) error {
		if first {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, headTime)
			defer cancel()
		}
		seq, epoch, err := f.journal.Head(ctx, p)
		if err != nil {
			return again(err)
		}
		f.post(result{partition: p, kind: head, seq: seq, page: track.Page{Epoch: epoch}})
		return nil
	}, func(err error, _ time.Duration) {
		f.log.Warn("where the journal ends cannot be read", "error", err.Error())
		if first {
			f.post(result{partition: p, kind: noHead})
		}
		first = false
	}) // the only error left is that the follower is closed
}

// readPage reads what is missing after a number, unless it comes by itself before the wait is
// over. It tries until it succeeds or the follower is closed.
func (f *Follower) readPage(p int, after uint64, limit int, wait time.Duration, gap bool, calm <-chan struct{}) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-calm:
		f.post(result{partition: p})
		return
	case <-f.ctx.Done():
		return
	}
	_ = refillRetry.Forever(f.ctx, func(ctx context.Context) error {
		r, err := f.read(ctx, p, after, limit)
		if err != nil {
			return again(err)
		}
		r.gap = gap
		f.post(r)
		return nil
	}, func(err error, _ time.Duration) {
		f.m.failures.Inc()
		f.log.Warn("missing events cannot be read from the journal; they are waited for", "error", err.Error())
	}) // the only error left is that the follower is closed
}

// again makes an error one that is tried again: what is missing is waited for, whatever it takes.
func again(err error) error {
	if fault.Retryable(err) {
		return err
	}
	return fault.E("not expected to pass by itself", fault.Unavailable, err)
}

// read reads one page. Where the journal ends is read first, so that all up to there is in it, or
// was trimmed.
func (f *Follower) read(ctx context.Context, p int, after uint64, limit int) (result, error) {
	seq, epoch, err := f.journal.Head(ctx, p)
	if err != nil {
		return result{}, err
	}
	raws, err := f.journal.Read(ctx, p, after, limit)
	if err != nil {
		return result{}, err
	}
	r := result{partition: p, kind: page, seq: seq, page: track.Page{Upto: seq, Epoch: epoch}}
	if len(raws) == 0 && seq > after {
		if _, now, err := f.journal.Head(ctx, p); err != nil || now != epoch {
			return r, fault.Errorf("read journal", fault.Unavailable, "its epoch changed meanwhile: %w", err)
		}
	}
	for _, raw := range raws {
		e, err := f.entry(p, raw)
		if err != nil {
			return r, err
		}
		r.page.Entries = append(r.page.Entries, e)
		r.page.Upto, r.bytes = e.Seq, r.bytes+len(raw)
	}
	f.vet(r.page.Entries)
	r.more = len(raws) > 0 && r.page.Upto < seq
	return r, nil
}

// vet warns of deliverable events that the subscriber does not want: each of them looks like a
// gap, and costs a read.
func (f *Follower) vet(entries []track.Entry) {
	skipped := map[uint64]bool{}
	for i := range entries {
		e := &entries[i]
		if skipped[e.Prev.Feed] {
			f.log.Warn("workers deliver events that this follower does not subscribe to, so that the journal is read often",
				"fix", "make BRIDGE_CATEGORIES the same as WORKER_DELIVERABLE")
			return
		}
		if e.Skip {
			skipped[e.Seq] = true
		}
	}
}

// entry reads an event of the journal.
func (f *Follower) entry(p int, raw []byte) (track.Entry, error) {
	at, ok := position(raw)
	if !ok || at.Partition != p {
		return track.Entry{}, fault.Errorf("read journal", fault.Corrupt, "an event of partition %d has no place in it", p)
	}
	out := track.Entry{Item: track.Item{Position: at, Body: raw}}
	e, err := event.ParseStored(raw)
	if err == nil {
		out.Topic = event.Topic(e.Type, e.UserID)
	}
	out.Skip = f.feed && !subscribed(f.sub.topics, out.Topic)
	return out, nil
}
