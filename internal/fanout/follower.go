package fanout

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fanout/track"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
)

// Bounds of what waits while holes are filled, over all partitions, and at least for each.
const (
	waitEvents, minWaitEvents = 65_536, 256
	waitBytes, minWaitBytes   = 64 << 20, 1 << 20
)

// refillShare: of so many items, one at least is of those that were not in order, when there are
// such, however many come in order from the wire.
const refillShare = 4

// Reader reads the journal: journal.Journal.
type Reader interface {
	Head(ctx context.Context, p int) (seq, epoch uint64, err error)
	Read(ctx context.Context, p int, after uint64, limit int) ([][]byte, error)
}

// FollowerOptions are the settings of a Follower. Subscriber, Journal and Partitions are needed.
type FollowerOptions struct {
	Subscriber *Subscriber // the follower's from now on; it is to subscribe to event.TopicMark
	Journal    Reader
	Partitions int
	// Start says after which position to go on in a partition. Epoch 0 is the oldest event that
	// the journal holds; not ok is where the journal ends now. nil: there, in every partition.
	Start func(partition int) (seq, epoch uint64, ok bool)
	// Feed says that Subscriber gets the deliverable events only: a hole shows by prev.feed, and
	// what is read from the journal is picked by the subscriber's topics. Otherwise it gets
	// everything, and a hole shows by seq.
	Feed    bool
	Log     *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
}

// Item is an event at its place, or, with Seq 0, what a reserved topic carried. Body is JSON
// that nobody has checked.
type Item = track.Item

// Follower hands out the events of every partition in order, without gaps and without repeats:
// what the wire lost is read from the journal, as long as the journal holds it. What it does not
// hold any more is counted and logged as an error. Recv is for one goroutine at a time, the rest
// is safe for concurrent use.
//
// A partition that waits for the journal does not hold up the others. What waits meanwhile is
// bounded; what comes beyond that is let go, and read from the journal too.
type Follower struct {
	sub     *Subscriber
	journal Reader
	start   func(int) (uint64, uint64, bool)
	feed    bool
	log     *quiet.Logger
	m       *followerMetrics

	// Recv's own
	begun bool
	lanes []lane
	held  []int // partitions with items that are to be handed out, in turn
	turn  int
	done  <-chan struct{}    // of the context that awake was made from
	awake context.Context    // ends when there are results
	sleep context.CancelFunc // of awake

	unplaced atomic.Int64  // partitions
	placed   chan struct{} // closed when there are none
	news     atomic.Bool   // there are results
	mu       sync.Mutex
	results  []result
	wake     context.CancelFunc // ends the wait of Recv

	ctx  context.Context // of the readers
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// lane is a partition with what is under way for it.
type lane struct {
	*track.Partition
	reading bool
	calm    chan struct{} // closed when there is nothing to be read any more; nil: it was, or nothing is under way
	queued  bool          // it is in held
	behind  bool          // since the beginning
	full    bool          // the last page was not all
	counted bool          // the gap that is being filled is counted
	pause   time.Duration // before the next page, as the last one brought nothing
	limit   int           // events of a page
	older   int           // times that the journal was of an older epoch than ours
}

// NewFollower begins with the first Recv. Errors are of kind Invalid: a setting is missing.
func NewFollower(o FollowerOptions) (*Follower, error) {
	const op = "open follower"
	switch {
	case o.Subscriber == nil || o.Journal == nil || o.Partitions < 1:
		return nil, fault.Errorf(op, fault.Invalid, "subscriber, journal and partitions are needed")
	case !subscribed(o.Subscriber.topics, event.TopicMark):
		return nil, fault.Errorf(op, fault.Invalid, "the subscriber does not get %s, by which a lost tail shows", event.TopicMark)
	}
	f := &Follower{sub: o.Subscriber, journal: o.Journal, start: o.Start, feed: o.Feed, log: quiet.New(o.Log, time.Second)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	limits := track.Limits{Events: max(waitEvents/o.Partitions, minWaitEvents), Bytes: max(waitBytes/o.Partitions, minWaitBytes)}
	for range o.Partitions {
		f.lanes = append(f.lanes, lane{Partition: track.New(o.Feed, limits), limit: firstPage})
	}
	f.unplaced.Store(int64(o.Partitions))
	f.placed = make(chan struct{})
	f.m = newFollowerMetrics(o.Metrics, f)
	return f, nil
}

// subscribed reports whether one of the prefixes covers the topic.
func subscribed(prefixes []string, topic string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(topic, prefix) })
}

// Recv waits for the next item until ctx ends. Only while it is called anything is followed.
func (f *Follower) Recv(ctx context.Context) (Item, error) {
	if !f.begun {
		f.begin()
	}
	for {
		if f.news.Load() {
			f.takeResults()
		}
		if len(f.held) > 0 && f.turn >= refillShare-1 {
			return f.pop(), nil
		}
		m, ok, err := f.next(ctx)
		switch {
		case err != nil:
			return Item{}, err
		case ok:
			if it, ok := f.take(m); ok {
				f.turn++
				return it, nil
			}
		case len(f.held) > 0:
			return f.pop(), nil
		}
	}
}

// next is the next message from the wire; false when there is something else to do first.
func (f *Follower) next(ctx context.Context) (Message, bool, error) {
	if len(f.held) > 0 {
		if err := ctx.Err(); err != nil {
			return Message{}, false, err
		}
		return f.sub.tryRecv()
	}
	if f.awake == nil || f.done != ctx.Done() || f.awake.Err() != nil {
		f.watch(ctx)
	}
	if f.news.Load() {
		return Message{}, false, nil
	}
	m, err := f.sub.Recv(f.awake)
	if err == nil || ctx.Err() != nil || f.awake.Err() == nil {
		return m, err == nil, err
	}
	return Message{}, false, nil // there are results
}

// watch makes the context of Recv's wait, which ends with ctx, or when there are results.
func (f *Follower) watch(ctx context.Context) {
	if f.sleep != nil {
		f.sleep()
	}
	f.awake, f.sleep = context.WithCancel(ctx)
	f.done = ctx.Done()
	f.mu.Lock()
	f.wake = f.sleep
	f.mu.Unlock()
}

// pop hands out an item that was not in order, of each partition in turn.
func (f *Follower) pop() Item {
	f.turn = 0
	p := f.held[0]
	f.held = f.held[1:]
	l := &f.lanes[p]
	it := l.Pop()
	if l.queued = l.Held() > 0; l.queued {
		f.held = append(f.held, p)
	} else {
		f.look(p)
	}
	return it
}

// take takes a message from the wire, and reports whether the item is to be handed out now.
func (f *Follower) take(m Message) (Item, bool) {
	if m.Topic[0] == '_' {
		if strings.HasPrefix(m.Topic, event.TopicMark) {
			f.mark(m)
			return Item{}, false
		}
		return Item{Topic: m.Topic, Body: m.Body}, true
	}
	at, ok := position(m.Body)
	if !ok || at.Partition < 0 || at.Partition >= len(f.lanes) {
		f.sub.refuse(errNoPlace, "bytes", len(m.Body))
		return Item{}, false
	}
	l := &f.lanes[at.Partition]
	it := Item{Position: at, Topic: m.Topic, Body: m.Body}
	placed := l.Placed()
	heard := l.Wire(it)
	switch heard {
	case track.Repeat:
		f.m.repeats.Inc()
	case track.NoRoom:
		f.m.postponed.Inc()
	}
	if !placed && l.Placed() {
		f.place()
	}
	if l.reading || heard != track.Next || !l.Quiet() {
		f.look(at.Partition)
	}
	return it, heard == track.Next
}

// place notes that a partition has its place.
func (f *Follower) place() {
	if f.unplaced.Add(-1) == 0 {
		close(f.placed)
	}
}

// Placed is closed when it is known where every partition begins: what is stored from then on is
// handed out, whatever the wire does. What a client reads from the journal before that may end
// before it.
func (f *Follower) Placed() <-chan struct{} { return f.placed }

func position(body []byte) (event.Position, bool) {
	if at, ok := event.TailPosition(body); ok {
		return at, true
	}
	e, err := event.ParseStored(body)
	return e.Position, err == nil
}

// mark takes the newest number of a partition.
func (f *Follower) mark(m Message) {
	p, err := strconv.Atoi(strings.TrimPrefix(m.Topic, event.TopicMark))
	var seq, epoch, feed uint64
	told := false
	if err == nil {
		err = event.Members(m.Body, func(name string, v jsontext.Value) {
			n, wrong := strconv.ParseUint(string(v), 10, 53)
			switch name {
			case "seq":
				seq = n // 0 is refused
			case "epoch":
				epoch = n
			case "feed":
				feed, told = n, wrong == nil
			}
		})
	}
	if err != nil || p < 0 || p >= len(f.lanes) || seq == 0 || epoch == 0 {
		f.sub.refuse(errMark, "bytes", len(m.Body))
		return
	}
	f.lanes[p].Mark(seq, epoch, feed, told)
	f.look(p)
}

// Ready is nil when the subscriber is ready (Subscriber.Ready) and it is known where every
// partition begins. Otherwise the error, of kind Unavailable, says what is missing.
func (f *Follower) Ready() error {
	if err := f.sub.Ready(); err != nil {
		return err
	}
	if n := f.unplaced.Load(); n > 0 {
		return fault.Errorf("", fault.Unavailable, "where %d partitions of the journal end is not known yet", n)
	}
	return nil
}

// Close ends what is under way and closes the subscriber. Recv is not to be called meanwhile.
func (f *Follower) Close(ctx context.Context) error {
	f.stop()
	f.wg.Wait()
	if f.sleep != nil {
		f.sleep()
	}
	return f.sub.Close(ctx)
}
