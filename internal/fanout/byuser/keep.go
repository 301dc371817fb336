package byuser

import (
	"context"
	"slices"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/retry"
)

const (
	settleWire = 5 * time.Millisecond   // in which another proxy or worker may close a hole
	settleLook = 250 * time.Millisecond // in which what was seen in the journal may come
	minPause   = 20 * time.Millisecond  // before the journal is read again, when it did not hold what is missing
	maxPause   = time.Second
)

var patience = retry.Policy{Min: 20 * time.Millisecond, Max: time.Second}

// join subscribes to who is watched from now on, and finds out where to begin, for all who came
// meanwhile at once.
func (f *Follower) join() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.joins:
		}
		if fresh := f.subscribe(); len(fresh) > 0 {
			f.begin(fresh)
		}
	}
}

// subscribe carries out the changes and gives the lanes that are new.
func (f *Follower) subscribe() (fresh []*lane) {
	f.mu.Lock()
	changes := f.changes
	f.changes = nil
	last := make(map[string]bool, len(changes))
	for _, c := range changes {
		last[c.user] = c.online
	}
	for user, online := range last {
		if l := f.lanes[event.Partition(user, "", f.opt.Partitions)][user]; online && l != nil {
			fresh = append(fresh, l)
		}
	}
	f.mu.Unlock()
	for _, c := range changes { // subscriptions are counted
		if c.online {
			_ = f.opt.Feed.Subscribe(event.To(c.user)) // an error: the feed is closed
		} else {
			_ = f.opt.Feed.Unsubscribe(event.To(c.user))
		}
	}
	return fresh
}

// begin learns where the journal ends, which is where the lanes begin. What comes from the wire
// meanwhile waits in the lanes. The rest is left to settle: who comes while the proxies are away
// need not wait for those who came before.
func (f *Follower) begin(fresh []*lane) {
	var heads []journal.Head
	if f.try("where the journal ends cannot be read", func(ctx context.Context) (err error) {
		heads, err = f.opt.Journal.Heads(ctx)
		if err == nil && len(heads) != f.opt.Partitions {
			err = fault.Errorf("read heads", fault.Unavailable, "the journal has %d partitions, not %d", len(heads), f.opt.Partitions)
		}
		return err
	}) != nil {
		return // closed
	}
	f.mu.Lock()
	for _, l := range fresh {
		l.begins, l.from = true, heads[l.partition].Seq
	}
	if f.begun = append(f.begun, fresh...); len(f.begun) > 2*f.count {
		f.begun = slices.DeleteFunc(f.begun, func(l *lane) bool { return f.lanes[l.partition][l.user] != l })
	}
	f.mu.Unlock()
	poke(f.settles)
}

// settle places the lanes that have begun, once their subscriptions are in effect.
func (f *Follower) settle() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.settles:
		}
		f.mu.Lock()
		begun := f.begun
		f.begun = nil
		f.mu.Unlock()
		if f.opt.Feed.Confirm(f.ctx) != nil {
			return // closed
		}
		f.place(begun)
	}
}

// place places lanes, and looks what was stored since they began.
func (f *Follower) place(lanes []*lane) {
	began := time.Now()
	newest, err := f.newest(lanes)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, l := range lanes {
		if f.lanes[l.partition][l.user] != l {
			continue // gone again
		}
		f.give(l.place(l.from), true)
		l.newest(newest[i], began)
		close(l.ready)
		f.fill(l, settleWire)
	}
}

// newest reads the newest numbers of the lanes' users.
func (f *Follower) newest(lanes []*lane) (newest []uint64, err error) {
	users := make([]string, len(lanes))
	for i, l := range lanes {
		users[i] = l.user
	}
	err = f.try("what is newest cannot be read from the journal", func(ctx context.Context) (err error) {
		newest, err = f.opt.Journal.Newest(ctx, users)
		return err
	})
	return newest, err
}

// try calls the journal until it succeeds. The only error left is that the follower is closed.
func (f *Follower) try(what string, call func(context.Context) error) error {
	return patience.Forever(f.ctx, func(ctx context.Context) error {
		err := call(ctx)
		if err != nil && !fault.Retryable(err) {
			err = fault.E("not expected to pass by itself", fault.Unavailable, err)
		}
		return err
	}, func(err error, _ time.Duration) {
		f.m.failures.Inc()
		f.log.Warn(what, "error", err.Error())
	})
}

// lookAll looks at the partitions in which something was stored.
func (f *Follower) lookAll() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.looks:
		}
		for p := range f.heads {
			f.look(p)
		}
	}
}

// look compares what the partition's users got with what the journal has for them.
func (f *Follower) look(p int) {
	f.mu.Lock()
	h := &f.heads[p]
	if !h.due {
		f.mu.Unlock()
		return
	}
	var lanes []*lane
	for _, l := range f.lanes[p] {
		if l.placed || l.anew {
			lanes = append(lanes, l)
		}
	}
	upto, began := h.seq, time.Now()
	h.due, h.looking, h.done = false, true, h.feed
	f.mu.Unlock()
	var newest []uint64
	if len(lanes) > 0 {
		f.m.looks.Inc()
		var err error
		if newest, err = f.newest(lanes); err != nil {
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h.looking, h.looked = false, began
	for i, l := range lanes {
		if f.lanes[p][l.user] != l {
			continue
		}
		if l.anew {
			l.anew = false
			f.give(l.place(newest[i]), true)
		}
		if l.newest(newest[i], began); !l.gap() {
			l.last = max(l.last, upto)
		}
		f.fill(l, settleLook)
	}
}

// fill has the lane's gap read, when there is one, and nobody reads it yet. The lock is held.
func (f *Follower) fill(l *lane, settle time.Duration) {
	if l.reading || !l.gap() || f.ctx.Err() != nil {
		return
	}
	l.reading = true
	f.wg.Go(func() { f.read(l, settle) })
}

// read waits whether the gap closes by itself, and reads what is missing otherwise.
func (f *Follower) read(l *lane, settle time.Duration) {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.ctx.Done():
		return
	}
	f.mu.Lock()
	after, needed := l.last, l.gap() && f.lanes[l.partition][l.user] == l
	l.reading = needed
	f.mu.Unlock()
	if !needed {
		return
	}
	select {
	case f.reads <- struct{}{}:
		defer func() { <-f.reads }()
	case <-f.ctx.Done():
		return
	}
	began := time.Now()
	var page journal.Page
	err := f.try("missing events cannot be read from the journal; they are waited for", func(ctx context.Context) (err error) {
		page, err = f.opt.Journal.Replay(ctx, l.user, after, pageEvents)
		return err
	})
	if err == nil {
		f.page(l, after, &page, began)
	}
}

// page takes what was read.
func (f *Follower) page(l *lane, after uint64, page *journal.Page, began time.Time) {
	upto := page.Head
	if page.More {
		upto = page.Last
	}
	items := make([]fanout.Item, 0, len(page.Events))
	for _, raw := range page.Events {
		at, ok := position(raw)
		if !ok {
			f.m.bad.Inc()
			continue
		}
		items = append(items, fanout.Item{Position: at, Topic: event.TopicTo, Body: raw, Refilled: true})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l.reading = false
	if f.lanes[l.partition][l.user] != l {
		return
	}
	if !page.Complete {
		f.m.lost.Inc()
		f.log.Error("events of a user are lost for this follower: the replay window does not hold them any more",
			"partition", l.partition, "after", after, "fix", "a longer REPLAY_WINDOW, or a higher REPLAY_MAX")
	}
	before := l.last
	out, refilled := l.page(items, upto, f.whole())
	if refilled > 0 {
		f.m.gaps.Inc()
		f.m.refilled.Add(float64(refilled))
	}
	f.give(out, true)
	if !page.More {
		l.newest(min(l.known, l.last), began)
	}
	if l.pause = min(max(2*l.pause, minPause), maxPause); l.last > before || !l.gap() {
		l.pause = 0
	}
	f.fill(l, l.pause)
}
