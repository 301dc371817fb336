package replay

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/socketio"
)

const (
	pageEvents = 250             // of one call to Redis, which has others to serve
	syncBytes  = 4 << 20         // of events in one answer, passed by at most one event
	slack      = 5 * time.Second // by which workers' clocks and the order of storing may differ
)

const (
	outOfReach = "the events are out of reach for now, ask again later"
	tooEarly   = "this bridge does not know yet where the journal ends, ask again after retryAfter milliseconds"
	tooMany    = "too many ask at the same time, ask again after retryAfter milliseconds"
)

// Sync gives the user's events and those for everybody since the client's position, in the
// order they were stored in as far as it can be known: each of the two sets by its numbers, one
// against the other by the time of processing. The connection gets live events already, so that
// what is stored while the journal is read comes live, and perhaps here too.
func (r *Replayer) Sync(ctx context.Context, user string, arg json.RawMessage) socketio.Synced {
	from, err := parseSince(arg)
	if err != nil {
		return r.answered("invalid", nil, &Info{Error: err.Error()})
	}
	if !r.opt.Followed(ctx, user) {
		a, outcome := r.early()
		return r.answered(outcome, nil, &a.Info)
	}
	got, outcome := r.read(ctx, user, from, false)
	return r.answered(outcome, got.items, &got.Info)
}

func (r *Replayer) answered(outcome string, items []item, in *Info) socketio.Synced {
	r.m.syncs.WithLabelValues(outcome).Inc()
	r.m.replayed.Add(float64(len(items)))
	events := make([][]byte, len(items))
	for i := range items {
		events[i] = items[i].raw
	}
	return socketio.Synced{Events: events, Info: in.encode()}
}

// answer is what a client gets.
type answer struct {
	Info
	items   []item
	start   Position // before the first of them
	unknown bool     // the position is nobody's
}

// early is the answer to who asks before the user's events are followed.
func (r *Replayer) early() (answer, string) {
	return answer{Info: Info{Error: tooEarly, RetryAfter: r.budget.soon().Milliseconds()}}, "early"
}

// read waits for its turn and reads both sets. The outcome is complete, incomplete, busy or failed.
// strict says to give nothing to a client whose position nobody knows.
func (r *Replayer) read(ctx context.Context, user string, from since, strict bool) (answer, string) {
	began := time.Now()
	leave, retry, ok := r.budget.enter(ctx)
	r.m.waited.Observe(time.Since(began).Seconds())
	if !ok {
		return answer{Info: Info{Error: tooMany, RetryAfter: retry.Milliseconds()}}, "busy"
	}
	defer leave()
	a, err := r.both(ctx, user, from, strict)
	if err != nil {
		r.log.Warn("a replay failed", "error", err)
		return answer{Info: Info{Error: outOfReach}}, "failed"
	}
	if a.Complete {
		return a, "complete"
	}
	return a, "incomplete"
}

func (r *Replayer) both(ctx context.Context, user string, from since, strict bool) (a answer, err error) {
	pOwn, pAll := r.partitions(user)
	if from.kind == latest {
		at, err := r.heads.position(ctx, pOwn, pAll)
		return answer{Info: Info{Complete: true, Last: &at}, start: at}, err
	}
	pos, err := r.locate(ctx, user, from)
	if err != nil {
		return a, err
	}
	pos.user.strict, pos.all.strict = strict, strict
	pos.user.epoch, pos.all.epoch = from.epoch.User, from.epoch.All
	own, err := r.readSet(ctx, user, pos.user)
	if err != nil {
		return a, err
	}
	all, err := r.readSet(ctx, event.Everybody, pos.all)
	if err != nil {
		return a, err
	}
	a.start, a.unknown = Position{User: own.from, All: all.from}, own.unknown || all.unknown
	cut := false
	a.items, cut = merge(&own, &all)
	a.Complete = own.complete && all.complete
	a.More = cut || own.more || all.more
	a.Last = &Position{User: own.last, All: all.last, Epoch: Epochs{own.epoch, all.epoch}}
	return a, nil
}

func (r *Replayer) partitions(user string) (own, all int) {
	return event.Partition(user, "", r.opt.Partitions), event.Partition(event.Everybody, "", r.opt.Partitions)
}

// start says where in a set to begin.
type start struct {
	after  uint64 // with from: what came up to here was seen in any case
	from   int64  // when not 0: only what was processed at this time or later, milliseconds
	seen   place  // with from: where this bridge knows it, what it did not deliver before that event
	epoch  uint64 // that after is of; 0: not told
	lost   bool   // the position could not be found: everything, and not complete
	strict bool   // nothing, when the number is none of this journal's
}

// locate turns the client's position into one for each set. The two sets are numbered apart:
// a plain number says exactly where in its own set the client was, and for the other set the
// event itself is looked up, and its time taken, less some slack: a repeat is better than a hole.
// Where this bridge knows what it delivered before that event, that is left out, and what it did
// not deliver before is given whatever its time, as partitions wait for the journal each for
// itself. So there are repeats only where it does not know, after a restart or a long time.
func (r *Replayer) locate(ctx context.Context, user string, from since) (pos struct{ user, all start }, err error) {
	pos.user.after, pos.all.after = from.user, from.all
	pOwn, pAll := r.partitions(user)
	switch {
	case from.kind == exact:
		return pos, nil
	case from.kind == loose:
		all, err := r.find(ctx, pAll, from.all, event.Everybody)
		if all != nil {
			pos.user.from, pos.user.seen = all.at-slack.Milliseconds(), place{pAll, from.all}
		}
		return pos, err
	case from.seq == 0 || pOwn == pAll:
		pos.user.after, pos.all.after = max(from.user, from.seq), max(from.all, from.seq)
		return pos, nil
	}
	own, err := r.find(ctx, pOwn, from.seq, user)
	if err != nil {
		return pos, err
	}
	all, err := r.find(ctx, pAll, from.seq, event.Everybody)
	if err != nil {
		return pos, err
	}
	switch {
	case own != nil && all == nil:
		pos.user.after, pos.all.from, pos.all.seen = max(from.user, from.seq), own.at-slack.Milliseconds(), place{pOwn, from.seq}
	case own == nil && all != nil:
		pos.user.from, pos.user.seen, pos.all.after = all.at-slack.Milliseconds(), place{pAll, from.seq}, max(from.all, from.seq)
	case own != nil: // both have an event of this number
		at := min(own.at, all.at) - slack.Milliseconds()
		pos.user.from, pos.all.from = at, at
	default:
		pos.user.lost, pos.all.lost = true, true
	}
	return pos, nil
}

// find is the event of that number, when it was one for this user.
func (r *Replayer) find(ctx context.Context, p int, seq uint64, user string) (*item, error) {
	got, err := r.opt.Journal.Lookup(ctx, p, []uint64{seq})
	if err != nil || len(got) != 1 || got[0].Raw == nil {
		return nil, err
	}
	if e, broken := event.ParseStored(got[0].Raw); broken == nil && e.UserID == user {
		it := stamp(got[0].Raw)
		return &it, nil
	}
	return nil, nil // not what the client saw
}

// readSet reads one set, page by page.
func (r *Replayer) readSet(ctx context.Context, user string, at start) (set, error) {
	out := set{last: at.after, complete: !at.lost, more: true}
	bytes := 0
	for first := true; out.more && len(out.items) < r.opt.Limit && bytes < syncBytes; first = false {
		page, err := r.opt.Journal.Replay(ctx, user, out.last, min(pageEvents, r.opt.Limit-len(out.items)))
		if err != nil {
			return set{}, err
		}
		if first && at.from != 0 && at.after > 0 && !page.Complete { // too long ago to say anything
			at.after = 0
			return r.readSet(ctx, user, at)
		}
		size := 0
		for _, raw := range page.Events {
			out.items = append(out.items, stamp(raw))
			size += len(raw)
		}
		bytes += size
		if first {
			out.epoch = page.Epoch
			foreign := at.epoch != 0 && page.Epoch != 0 && at.epoch != page.Epoch
			out.unknown = at.after != 0 && (foreign || at.after < page.Epoch || at.after > page.Head)
			out.complete = out.complete && !foreign
		}
		out.complete, out.more, out.last = out.complete && page.Complete, page.More, page.Last
		if !out.more {
			out.last = page.Head // all up to there is here, or is nothing for this user
		}
		if at.strict && (out.unknown || at.lost) {
			out.items, out.more, out.last = nil, false, page.Head
		}
		r.budget.pay(ctx, len(page.Events), size)
	}
	out.from = at.after
	if at.from != 0 {
		r.since(&out, user, at)
	}
	return out, nil
}

// since leaves out what is older than the client's position, as far as only its time is known.
func (r *Replayer) since(out *set, user string, at start) {
	delivered, known := r.recent.before(event.Partition(user, "", r.opt.Partitions), at.seen)
	if !known {
		delivered = math.MaxUint64
	}
	whole := at.after > 0 && out.complete // nothing is missing, whatever the time says
	out.trim(at.from, delivered, r.now().Add(-r.opt.Window).UnixMilli(), r.opt.Limit, whole)
	if known {
		out.items = slices.DeleteFunc(out.items, func(it item) bool { return it.seq <= delivered })
	}
	if out.from = out.last; len(out.items) > 0 {
		out.from = out.items[0].seq - 1
	}
}
