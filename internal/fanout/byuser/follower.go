package byuser

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/quiet"
)

// Feed is where messages come from: fanout.Subscriber, which subscribes to event.TopicMark.
type Feed interface {
	Recv(ctx context.Context) (fanout.Message, error)
	Subscribe(topic string) error
	Unsubscribe(topic string) error
	Confirm(ctx context.Context) error
	Changes() uint64
	Ready() error
	Close(ctx context.Context) error
}

// Journal is what is read: journal.Journal.
type Journal interface {
	Heads(ctx context.Context) ([]journal.Head, error)
	Newest(ctx context.Context, users []string) ([]uint64, error)
	Replay(ctx context.Context, userID string, after uint64, limit int) (journal.Page, error)
}

// Options are the settings of a Follower. Feed, Journal, Partitions and Window are needed.
type Options struct {
	Feed       Feed // the follower's from now on
	Journal    Journal
	Partitions int
	Window     time.Duration         // of the replay sets
	Log        *slog.Logger          // nil: none
	Metrics    prometheus.Registerer // nil: none
}

// Follower hands out the events of the users that Watch names, and those for everybody. Recv is for
// one goroutine at a time; the rest is safe for concurrent use.
type Follower struct {
	opt Options
	log *quiet.Logger
	m   *metrics

	mu      sync.Mutex
	lanes   []map[string]*lane // by partition and user
	count   int
	changes []change      // of who is watched, in order
	out     []fanout.Item // to be handed out
	heads   []head        // by partition
	seen    uint64        // Feed.Changes at the last look at everybody
	wake    context.CancelFunc
	begun   []*lane       // that are to be placed
	joins   chan struct{} // there are changes; holds one
	settles chan struct{} // there are lanes in begun; holds one
	looks   chan struct{} // there are partitions to be looked at; holds one

	awake context.Context // Recv's: ends when there is something in out
	done  <-chan struct{} // of the context that awake was made from

	reads chan struct{} // one for each reading of a page under way
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

type change struct {
	user   string
	online bool
}

// head is what marks say of a partition.
type head struct {
	epoch     uint64
	seq, feed uint64 // the newest number, and the newest of a deliverable event
	older     int    // marks of an older epoch, in a row

	due, looking bool
	done         uint64    // feed at the last look at the users
	looked       time.Time // when that look began
	clear        uint64    // up to this number nothing deliverable was stored since the last look
	clearAt      time.Time // when that was said
}

// refresh moves a lane that was whole at the last look on to where nothing new was stored.
func (h *head) refresh(l *lane) {
	if l.placed && !l.gap() && !l.sure.Before(h.looked) && h.clearAt.After(l.sure) {
		l.last, l.sure = max(l.last, h.clear), h.clearAt
	}
}

const (
	concurrent  = 8   // readings of pages at a time
	pageEvents  = 250 // of one reading
	olderEpochs = 10  // marks of an older epoch before it is believed
)

// New begins to follow what is for everybody. Errors are of kind Invalid: a setting is missing.
func New(o Options) (*Follower, error) {
	if o.Feed == nil || o.Journal == nil || o.Partitions < 1 || o.Window <= 0 {
		return nil, fault.Errorf("open follower", fault.Invalid, "feed, journal, partitions and window are needed")
	}
	f := &Follower{opt: o, log: quiet.New(o.Log, time.Second), heads: make([]head, o.Partitions),
		joins: make(chan struct{}, 1), settles: make(chan struct{}, 1), looks: make(chan struct{}, 1), reads: make(chan struct{}, concurrent)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	for range o.Partitions {
		f.lanes = append(f.lanes, map[string]*lane{})
	}
	f.m = newMetrics(o.Metrics, func() float64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		return float64(f.count)
	})
	f.Watch(event.Everybody, true)
	f.wg.Go(f.join)
	f.wg.Go(f.settle)
	f.wg.Go(f.lookAll)
	return f, nil
}

// Watch says that a user's events are wanted from now on, or not any more. It does not wait. For one
// user it is called in order.
func (f *Follower) Watch(user string, online bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := event.Partition(user, "", f.opt.Partitions)
	if l := f.lanes[p][user]; l != nil {
		delete(f.lanes[p], user)
		f.count--
	}
	if online {
		f.lanes[p][user] = &lane{user: user, partition: p, ready: make(chan struct{})}
		f.count++
	}
	f.changes = append(f.changes, change{user, online})
	poke(f.joins)
}

// Await waits until the user's events come from the proxies, or until ctx ends, and reports whether
// nothing is missed that is stored from now on. That is so as soon as it is known where the journal ends,
// though it may come late without the proxies. A user that is not watched is not waited for.
func (f *Follower) Await(ctx context.Context, user string) bool {
	p := event.Partition(user, "", f.opt.Partitions)
	f.mu.Lock()
	l := f.lanes[p][user]
	f.mu.Unlock()
	if l == nil {
		return false
	}
	select {
	case <-l.ready:
		return true
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.begins
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was not looked at since the last time
	}
}

// Recv waits for the next event until ctx ends. Only while it is called anything is followed.
func (f *Follower) Recv(ctx context.Context) (fanout.Item, error) {
	for {
		if it, ok := f.pop(ctx); ok {
			return it, nil
		}
		m, err := f.opt.Feed.Recv(f.awake)
		switch {
		case err == nil:
			f.take(m)
		case ctx.Err() != nil || f.awake.Err() == nil:
			return fanout.Item{}, err
		}
	}
}

// pop gives the next item, or makes ready to be woken when there is one.
func (f *Follower) pop(ctx context.Context) (fanout.Item, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.out) > 0 {
		it := f.out[0]
		f.out[0] = fanout.Item{}
		if f.out = f.out[1:]; len(f.out) == 0 {
			f.out = nil
		}
		return it, true
	}
	if f.awake == nil || f.done != ctx.Done() || f.awake.Err() != nil {
		if f.wake != nil {
			f.wake()
		}
		f.awake, f.wake = context.WithCancel(ctx)
		f.done = ctx.Done()
	}
	return fanout.Item{}, false
}

// give adds to what is handed out. The lock is held.
func (f *Follower) give(items []fanout.Item, wake bool) {
	if len(items) == 0 {
		return
	}
	f.out = append(f.out, items...)
	if wake && f.wake != nil {
		f.wake()
	}
}

// take takes a message from the wire.
func (f *Follower) take(m fanout.Message) {
	if strings.HasPrefix(m.Topic, event.TopicMark) {
		f.mark(m)
		return
	}
	name, ours := strings.CutPrefix(m.Topic, event.TopicTo)
	if !ours {
		return // another reserved topic
	}
	user, err := event.DecodeUserID(name)
	at, ok := position(m.Body)
	if err != nil || !ok || at.Partition != event.Partition(user, "", f.opt.Partitions) {
		f.m.bad.Inc()
		f.log.Warn("a message that is no stored event of its user", "bytes", len(m.Body))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[at.Partition][user]
	if l == nil {
		f.m.strangers.Inc()
		return
	}
	f.heads[at.Partition].refresh(l)
	items, repeat := l.wire(fanout.Item{Position: at, Topic: m.Topic, Body: m.Body}, f.whole())
	if repeat {
		f.m.repeats.Inc()
	}
	f.give(items, false)
	f.fill(l, settleWire)
}

// whole is since when a lane must have been known to be whole, when an event names none before it.
func (f *Follower) whole() time.Time { return time.Now().Add(-f.opt.Window / 2) }

func position(body []byte) (event.Position, bool) {
	if at, ok := event.TailPosition(body); ok {
		return at, true
	}
	e, err := event.ParseStored(body)
	return e.Position, err == nil
}

// mark takes what a worker says about a partition's end.
func (f *Follower) mark(m fanout.Message) {
	p, err := strconv.Atoi(strings.TrimPrefix(m.Topic, event.TopicMark))
	var seq, epoch, feed uint64
	if err == nil {
		err = event.Members(m.Body, func(name string, v jsontext.Value) {
			n, wrong := strconv.ParseUint(string(v), 10, 53)
			switch {
			case wrong != nil:
			case name == "seq":
				seq = n
			case name == "epoch":
				epoch = n
			case name == "feed":
				feed = n
			}
		})
	}
	if err != nil || p < 0 || p >= len(f.heads) || epoch == 0 {
		f.m.bad.Inc()
		f.log.Warn("a mark that cannot be read", "bytes", len(m.Body))
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &f.heads[p]
	switch {
	case epoch < h.epoch:
		if h.older++; h.older < olderEpochs {
			return
		}
		f.replaced(p, epoch)
	case epoch > h.epoch:
		h.epoch = epoch
	}
	h.older, h.seq, h.feed = 0, seq, feed
	if changes := f.opt.Feed.Changes(); changes != f.seen { // something may be lost, whoever it was for
		f.seen = changes
		for p := range f.heads {
			f.heads[p].due = true
		}
	}
	switch h.due = h.due || h.feed != h.done || h.looked.IsZero(); {
	case h.due:
		poke(f.looks)
	case !h.looking:
		h.clear, h.clearAt = seq, time.Now()
	}
}

// replaced begins a partition anew, whose journal was put back to an older state.
func (f *Follower) replaced(p int, epoch uint64) {
	f.log.Error("the journal is of an older epoch than what was followed until now; it is followed from here on",
		"partition", p, "epoch", epoch, "fix", "if Redis was put back to an old state this is expected, otherwise check its clock")
	f.heads[p] = head{epoch: epoch, due: true}
	for user, old := range f.lanes[p] {
		if old.placed {
			f.lanes[p][user] = &lane{user: user, partition: p, begins: true, ready: old.ready, anew: true}
		}
	}
}

// Ready is nil when the feed is ready and it is known where to begin for everybody.
func (f *Follower) Ready() error {
	if err := f.opt.Feed.Ready(); err != nil {
		return err
	}
	if !f.placed(event.Everybody) {
		return fault.Errorf("", fault.Unavailable, "where the journal ends is not known yet")
	}
	return nil
}

func (f *Follower) placed(user string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[event.Partition(user, "", f.opt.Partitions)][user]
	return l != nil && l.placed
}

// Close ends what is under way and closes the feed. Recv is not to be called meanwhile.
func (f *Follower) Close(ctx context.Context) error {
	f.stop()
	f.wg.Wait()
	f.mu.Lock()
	if f.wake != nil {
		f.wake()
	}
	f.mu.Unlock()
	return f.opt.Feed.Close(ctx)
}
