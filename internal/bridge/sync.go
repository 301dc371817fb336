package bridge

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/quiet"
	"eventspine/internal/socketio"
)

const (
	syncBytes = 4 << 20         // of events in one answer, passed by at most one event
	slack     = 5 * time.Second // by which workers' clocks and the order of storing may differ
)

// replayer is what sync reads: journal.Journal.
type replayer interface {
	Replay(ctx context.Context, userID string, after uint64, limit int) (journal.Page, error)
	Lookup(ctx context.Context, p int, seqs []uint64) ([]journal.Stored, error)
}

// syncer answers the syncs of clients. Safe for concurrent use.
type syncer struct {
	journal    replayer
	recent     *recent // what this bridge delivered
	partitions int
	window     time.Duration
	limit      int // events of one set in one answer
	now        func() time.Time
	m          *metrics
	log        *quiet.Logger
}

// info is the second argument of the client's callback.
type info struct {
	Complete bool      `json:"complete"` // nothing between the client's position and now is missing, but what More announces
	More     bool      `json:"more"`     // there is more; sync(last) gives it
	Last     *position `json:"last,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// position has the form that sync takes.
type position struct {
	User  uint64        `json:"user"`
	All   uint64        `json:"all"`
	Epoch epochPosition `json:"epoch"`
}

type epochPosition struct {
	User uint64 `json:"user"`
	All  uint64 `json:"all"`
}

// sync gives the user's events and those for everybody since the client's position, in the
// order they were stored in as far as it can be known: each of the two sets by its numbers, one
// against the other by the time of processing. The connection gets live events already, so that
// what is stored while the journal is read comes live, and perhaps here too.
func (s *syncer) sync(ctx context.Context, user string, arg json.RawMessage) socketio.Synced {
	from, err := parseSince(arg)
	if err != nil {
		return s.answer("invalid", nil, info{Error: err.Error()})
	}
	own, all, err := s.read(ctx, user, from)
	if err != nil {
		s.log.Warn("a sync failed", "error", err)
		return s.answer("failed", nil, info{Error: "the events are out of reach for now, ask again later"})
	}
	events, cut := merge(&own, &all)
	in := info{
		Complete: own.complete && all.complete,
		More:     cut || own.more || all.more,
		Last:     &position{User: own.last, All: all.last, Epoch: epochPosition{User: own.epoch, All: all.epoch}},
	}
	outcome := "complete"
	if !in.Complete {
		outcome = "incomplete"
	}
	return s.answer(outcome, events, in)
}

func (s *syncer) answer(outcome string, events [][]byte, in info) socketio.Synced {
	s.m.syncs.WithLabelValues(outcome).Inc()
	s.m.replayed.Add(float64(len(events)))
	b, err := json.Marshal(in)
	if err != nil { // numbers and strings only
		b = []byte(`{"complete":false}`)
	}
	return socketio.Synced{Events: events, Info: b}
}

// set is one of the two sets an answer is made of.
type set struct {
	items          []item
	last, epoch    uint64
	complete, more bool
}

type item struct {
	raw []byte
	seq uint64
	at  int64 // when it was processed, milliseconds
}

func (s *syncer) read(ctx context.Context, user string, from since) (own, all set, err error) {
	pos, err := s.locate(ctx, user, from)
	if err != nil {
		return own, all, err
	}
	if own, err = s.readSet(ctx, user, pos.user); err != nil {
		return own, all, err
	}
	if all, err = s.readSet(ctx, event.Everybody, pos.all); err != nil {
		return own, all, err
	}
	own.complete = own.complete && (from.epoch.user == 0 || own.epoch == 0 || from.epoch.user == own.epoch)
	all.complete = all.complete && (from.epoch.all == 0 || all.epoch == 0 || from.epoch.all == all.epoch)
	return own, all, nil
}

// start says where in a set to begin: after a number, or at a time, or both unknown.
type start struct {
	after uint64
	from  int64 // when not 0: only what was processed at this time or later, milliseconds
	seen  place // with from: where this bridge knows it, what it did not deliver before that event
	lost  bool  // the position could not be found: everything, and not complete
}

// locate turns the client's position into one for each set. The two sets are numbered apart:
// a plain number says exactly where in its own set the client was, and for the other set the
// event itself is looked up, and its time taken, less some slack: a repeat is better than a hole.
// Where this bridge knows what it delivered before that event, that is left out, and what it did
// not deliver before is given whatever its time, as partitions wait for the journal each for
// itself. So there are repeats only where it does not know, after a restart or a long time.
func (s *syncer) locate(ctx context.Context, user string, from since) (pos struct{ user, all start }, err error) {
	pOwn, pAll := event.Partition(user, "", s.partitions), event.Partition(event.Everybody, "", s.partitions)
	switch {
	case !from.plain:
		pos.user.after, pos.all.after = from.user, from.all
		return pos, nil
	case from.seq == 0 || pOwn == pAll:
		pos.user.after, pos.all.after = from.seq, from.seq
		return pos, nil
	}
	own, err := s.find(ctx, pOwn, from.seq, user)
	if err != nil {
		return pos, err
	}
	all, err := s.find(ctx, pAll, from.seq, event.Everybody)
	if err != nil {
		return pos, err
	}
	switch {
	case own != nil && all == nil:
		pos.user.after, pos.all.from, pos.all.seen = from.seq, own.at-slack.Milliseconds(), place{pOwn, from.seq}
	case own == nil && all != nil:
		pos.user.from, pos.user.seen, pos.all.after = all.at-slack.Milliseconds(), place{pAll, from.seq}, from.seq
	case own != nil: // both have an event of this number
		at := min(own.at, all.at) - slack.Milliseconds()
		pos.user.from, pos.all.from = at, at
	default:
		pos.user.lost, pos.all.lost = true, true
	}
	return pos, nil
}

// find is the event of that number, when it was one for this user.
func (s *syncer) find(ctx context.Context, p int, seq uint64, user string) (*item, error) {
	got, err := s.journal.Lookup(ctx, p, []uint64{seq})
	if err != nil || len(got) != 1 || got[0].Raw == nil {
		return nil, err
	}
	if e, broken := event.ParseStored(got[0].Raw); broken == nil && e.UserID == user {
		it := stamp(got[0].Raw)
		return &it, nil
	}
	return nil, nil // not what the client saw
}

func (s *syncer) readSet(ctx context.Context, user string, at start) (set, error) {
	page, err := s.journal.Replay(ctx, user, at.after, s.limit)
	if err != nil {
		return set{}, err
	}
	out := set{last: page.Last, epoch: page.Epoch, complete: page.Complete && !at.lost, more: page.More, items: make([]item, 0, len(page.Events))}
	for _, raw := range page.Events {
		out.items = append(out.items, stamp(raw))
	}
	if at.from != 0 {
		delivered, known := s.recent.before(event.Partition(user, "", s.partitions), at.seen)
		if !known {
			delivered = math.MaxUint64
		}
		out.trim(at.from, delivered, s.now().Add(-s.window).UnixMilli(), s.limit)
		out.items = slices.DeleteFunc(out.items, func(it item) bool { return known && it.seq <= delivered })
	}
	return out, nil
}

// trim drops what was processed before from, but for what comes after delivered. The set is then
// complete when it reaches back that far: inside the window, and not cut by the bound on its size.
func (s *set) trim(from int64, delivered uint64, floor int64, limit int) {
	full := len(s.items) >= limit && s.items[0].at > from
	s.complete = s.complete && from >= floor && !full
	n := 0
	for n < len(s.items) && s.items[n].at < from && s.items[n].seq <= delivered {
		n++
	}
	s.items = s.items[n:]
}

// merge puts the two sets into one answer, each in its own order, and stops after syncBytes. Then
// more is true, and last of each set is how far the answer goes.
func merge(own, all *set) (events [][]byte, cut bool) {
	size, i, j := 0, 0, 0
	for i < len(own.items) || j < len(all.items) {
		if size >= syncBytes {
			own.cut(i)
			all.cut(j)
			return events, true
		}
		var next item
		if j == len(all.items) || i < len(own.items) && !before(all.items[j], own.items[i]) {
			next = own.items[i]
			i++
		} else {
			next = all.items[j]
			j++
		}
		events, size = append(events, next.raw), size+len(next.raw)
	}
	return events, false
}

// cut keeps the first n items: the next answer goes on with the one after them.
func (s *set) cut(n int) {
	if n < len(s.items) {
		s.last = s.items[n].seq - 1
	}
}

func before(x, y item) bool {
	if x.at != y.at {
		return x.at < y.at
	}
	return x.seq < y.seq
}

// stamp reads what an event is ordered by.
func stamp(raw []byte) item {
	it := item{raw: raw}
	var at, timestamp int64
	_ = event.Members(raw, func(name string, v jsontext.Value) { // what cannot be read sorts first
		switch name {
		case "seq":
			it.seq, _ = strconv.ParseUint(string(v), 10, 53)
		case "processedAt":
			at = millis(v)
		case "timestamp":
			timestamp = millis(v)
		}
	})
	if it.at = at; at == 0 {
		it.at = timestamp
	}
	return it
}

// millis reads a time: milliseconds since the epoch, or RFC 3339.
func millis(v jsontext.Value) int64 {
	if v.Kind() == '"' {
		text, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return 0
		}
		t, err := time.Parse(time.RFC3339Nano, string(text))
		if err != nil {
			return 0
		}
		return t.UnixMilli()
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		return 0
	}
	return int64(f)
}
