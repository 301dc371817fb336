package journal

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// Span is the numbers First to Last of one epoch, both included: each is an event.
type Span struct {
	Epoch, First, Last uint64
}

// Extent is what the journal of a partition holds.
type Extent struct {
	Spans   []Span // oldest first, one an epoch
	Trimmed bool   // events that were asked for are no longer held
	Newer   uint64 // events that were stored after those in Spans
}

// maxEpochs bounds how many epochs of one partition are told apart: each is a restart of Redis
// within the age of the journal.
const maxEpochs = 100

// Partitions is the partition count that Redis was set up with; 0 when it holds no events yet.
// Errors are those of rdb.Classify.
func Partitions(ctx context.Context, client rdb.Client) (int, error) {
	n, err := client.Get(ctx, partitionsKey).Int()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	return n, rdb.Classify("read partition count", err)
}

// Extent says which numbers of a partition the journal holds, of the events that were stored at
// most since ago (0: all) and at least lag ago. It never counts a younger event, and counts those
// at the other end that are up to two seconds older. Invalid: there is no such partition. Other
// errors are those of rdb.Classify.
func (j *Journal) Extent(ctx context.Context, p int, since, lag time.Duration) (Extent, error) {
	const op = "measure journal"
	if err := j.checkPartition(op, p); err != nil {
		return Extent{}, err
	}
	at, err := j.standing(ctx, p)
	if err != nil {
		return Extent{}, err
	}
	upto, err := j.storedBy(ctx, p, at, lag)
	if err != nil {
		return Extent{}, err
	}
	from := uint64(0)
	if since > 0 && at.last > 0 {
		if from, err = j.storedBy(ctx, p, at, since); err != nil {
			return Extent{}, err
		}
	}
	all, err := j.spans(ctx, p)
	if err != nil {
		return Extent{}, err
	}
	x := clip(all, from, upto)
	x.Trimmed = x.Trimmed || len(all) == 0 && at.seq > max(at.epoch, from)
	for _, s := range all {
		if s.Last > upto {
			x.Newer += s.Last - max(s.First-1, upto)
		}
	}
	return x, nil
}

// clip is the numbers above from and up to upto.
func clip(all []Span, from, upto uint64) Extent {
	var x Extent
	if len(all) > 0 {
		oldest := all[0]
		// The first event of an epoch has the number after the epoch's own; with a later one the
		// journal was trimmed, and it matters when not even `from` is known to be older.
		x.Trimmed = oldest.First > max(oldest.Epoch, from)+1
	}
	for _, s := range all {
		s.First, s.Last = max(s.First, from+1), min(s.Last, upto)
		if s.First <= s.Last {
			x.Spans = append(x.Spans, s)
		}
	}
	return x
}

// standing is the newest number of a partition and its epoch, when it was stored and what time it
// is now, in milliseconds by the server's clock; last 0: nothing was stored since a wipe.
type standing struct{ epoch, seq, last, now uint64 }

func (j *Journal) standing(ctx context.Context, p int) (at standing, err error) {
	const op = "measure journal"
	node, err := j.node(ctx, p)
	if err != nil {
		return at, rdb.Classify(op, err)
	}
	now, err := node.Time(ctx).Result()
	if err != nil {
		return at, rdb.Classify(op, err)
	}
	at.now = uint64(now.UnixMilli())
	state, err := j.client.HMGet(ctx, key(p, "head"), "epoch", "seq", "last").Result()
	if err != nil || state[0] == nil || state[1] == nil {
		return at, rdb.Classify(op, err)
	}
	if at.epoch, at.seq, err = numbers(op, state[0], state[1]); err == nil && state[2] != nil {
		at.last, _, err = numbers(op, state[2], state[1])
	}
	return at, err
}

// storedBy is the newest number that is known to have been stored ago or longer; 0: none is.
func (j *Journal) storedBy(ctx context.Context, p int, at standing, ago time.Duration) (uint64, error) {
	const op = "measure journal"
	t := max(int64(at.now)-ago.Milliseconds(), 0)
	if at.last <= uint64(t) {
		return at.seq, nil
	}
	found, err := j.client.ZRevRangeByScore(ctx, key(p, "times"), &redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(t, 10), Count: 1}).Result()
	if err != nil || len(found) == 0 {
		return 0, rdb.Classify(op, err)
	}
	seq, err := strconv.ParseUint(found[0], 10, 53)
	return seq, fault.E(op, fault.Corrupt, err)
}

// spans is all that the journal holds: it looks at the last entry, from whose numbers its epoch
// is known, then at the last one before that epoch, and so on.
func (j *Journal) spans(ctx context.Context, p int) ([]Span, error) {
	const op = "measure journal"
	first, err := j.client.XRangeN(ctx, key(p, "journal"), "-", "+", 1).Result()
	if err != nil || len(first) == 0 {
		return nil, rdb.Classify(op, err)
	}
	oldest, err := place(p, first[0])
	if err != nil {
		return nil, err
	}
	var out []Span
	for upto := "+"; len(out) < maxEpochs; {
		found, err := j.client.XRevRangeN(ctx, key(p, "journal"), upto, "-", 1).Result()
		if err != nil {
			return nil, rdb.Classify(op, err)
		}
		if len(found) == 0 {
			break
		}
		last, err := place(p, found[0])
		if err != nil {
			return nil, err
		}
		s := Span{Epoch: last.Epoch, First: max(last.Epoch+1, oldest.Seq), Last: last.Seq}
		if s.First > s.Last { // trimmed in between
			break
		}
		out = append([]Span{s}, out...)
		if last.Epoch < oldest.Seq {
			break
		}
		upto = strconv.FormatUint(last.Epoch, 10)
	}
	return out, nil
}

// place is where an entry stands.
func place(p int, m redis.XMessage) (event.Position, error) {
	seq, _, _ := strings.Cut(m.ID, "-")
	offsets, _ := m.Values["m"].(string)
	at, err := parsePosition(p, seq, offsets)
	return at, fault.E("measure journal", fault.Corrupt, err)
}
