package journal

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// Limits of what one call reads.
const (
	maxPageEvents = 10_000
	maxPageBytes  = 8 << 20 // passed by at most one event
	readChunk     = 256     // events a round trip
)

// Page is a part of a user's replay.
type Page struct {
	Events   [][]byte // whole events with their positions, oldest first
	Last     uint64   // the `after` with which the next call goes on
	More     bool     // a limit was reached; there are further events after Last
	Complete bool     // no event after `after` is missing, counting those that More announces
	Epoch    uint64   // the epoch of the user's partition now; 0 when it never had one
	Head     uint64   // the newest number of that partition, of whatever event, when the page was read
}

// Replay gives the deliverable events of a user (event.Everybody: the broadcasts) with a seq
// greater than after, from those in the replay window, oldest first and at most limit of them
// (0: ReplayMax). after 0 means all that the window holds, which is always Complete. Complete
// is false when an event after `after` left the window or cannot be ruled out to have, and
// when `after` is of another epoch or lies beyond the newest number; what is left comes all
// the same. Errors are those of rdb.Classify, and Corrupt.
func (j *Journal) Replay(ctx context.Context, userID string, after uint64, limit int) (Page, error) {
	const op = "replay"
	if userID == "" || len(userID) > event.MaxUserID {
		return Page{}, fault.Errorf(op, fault.Invalid, "the user id must have 1 to %d bytes", event.MaxUserID)
	}
	if limit <= 0 {
		limit = j.opts.ReplayMax
	}
	after = min(after, 1<<53)
	p := event.Partition(userID, "", j.opts.Partitions)
	node, err := j.node(ctx, p)
	if err != nil {
		return Page{}, rdb.Classify(op, err)
	}
	keys := []string{key(p, "head"), key(p, "journal"), key(p, "times"), replayKey(p, userID)}
	got, err := j.replay.Run(ctx, node, keys, after, min(limit, maxPageEvents), ms(j.opts.ReplayWindow), j.opts.ReplayMax, maxPageBytes).Slice()
	if err != nil {
		return Page{}, rdb.Classify(op, err)
	}
	return readPage(p, after, got)
}

func readPage(p int, after uint64, got []any) (Page, error) {
	const op = "replay"
	const fixed = 4 // values before those of the events
	if len(got) < fixed || (len(got)-fixed)%3 != 0 {
		return Page{}, fault.Errorf(op, fault.Corrupt, "the script answered %d values", len(got))
	}
	epoch, _ := got[0].(int64)
	complete, _ := got[1].(int64)
	more, _ := got[2].(int64)
	head, _ := got[3].(int64)
	page := Page{Last: after, More: more == 1, Complete: complete == 1, Epoch: uint64(epoch), Head: uint64(head)}
	for i := fixed; i < len(got); i += 3 {
		seq, _ := got[i].(string)
		numbers, _ := got[i+1].(string)
		body, _ := got[i+2].(string)
		s, err := decode(p, seq, numbers, body)
		if err != nil {
			return Page{}, fault.E(op, fault.Corrupt, err)
		}
		page.Events = append(page.Events, s.Raw)
		page.Last = s.Seq
	}
	return page, nil
}

// Lookup reads events back by number, to publish them again after an Append whose answer was
// lost. Result i belongs to seqs[i]; its Raw is nil, and its Epoch and Prev are zero, when
// the journal does not hold that event any more. Invalid: there is no such partition.
func (j *Journal) Lookup(ctx context.Context, p int, seqs []uint64) ([]Stored, error) {
	const op = "look up events"
	if err := j.checkPartition(op, p); err != nil {
		return nil, err
	}
	out := make([]Stored, len(seqs))
	for from := 0; from < len(seqs); from += readChunk {
		chunk := seqs[from:min(from+readChunk, len(seqs))]
		answers := make([]*redis.XMessageSliceCmd, len(chunk))
		_, err := j.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i, seq := range chunk {
				id := strconv.FormatUint(seq, 10)
				answers[i] = pipe.XRange(ctx, key(p, "journal"), id, id)
			}
			return nil
		})
		if err != nil {
			return nil, rdb.Classify(op, err)
		}
		for i, seq := range chunk {
			s := Stored{Position: event.Position{Partition: p, Seq: seq}}
			if found := answers[i].Val(); len(found) == 1 {
				if s, err = entry(p, found[0]); err != nil {
					return nil, fault.E(op, fault.Corrupt, err)
				}
			}
			out[from+i] = s
		}
	}
	return out, nil
}

// Read gives the events of a partition with a seq greater than after, oldest first: at most
// limit of them (0: 10,000), fewer when they are large. A first seq other than after+1 within
// the epoch means that the journal no longer reaches back that far. Invalid: there is no such
// partition.
func (j *Journal) Read(ctx context.Context, p int, after uint64, limit int) ([][]byte, error) {
	const op = "read journal"
	if err := j.checkPartition(op, p); err != nil {
		return nil, err
	}
	if limit <= 0 || limit > maxPageEvents {
		limit = maxPageEvents
	}
	var out [][]byte
	bytes := 0
	for len(out) < limit && bytes < maxPageBytes {
		n := min(limit-len(out), readChunk)
		found, err := j.client.XRangeN(ctx, key(p, "journal"), strconv.FormatUint(after+1, 10), "+", int64(n)).Result()
		if err != nil {
			return nil, rdb.Classify(op, err)
		}
		for _, m := range found {
			s, err := entry(p, m)
			if err != nil {
				return nil, fault.E(op, fault.Corrupt, err)
			}
			out, bytes, after = append(out, s.Raw), bytes+len(s.Raw), s.Seq
		}
		if len(found) < n {
			break
		}
	}
	return out, nil
}

// Head is the newest number of a partition and its epoch. A partition without events has its
// epoch for seq. A wiped partition is given its new epoch first. Invalid: there is no such
// partition.
func (j *Journal) Head(ctx context.Context, p int) (seq, epoch uint64, err error) {
	const op = "read head"
	if err := j.checkPartition(op, p); err != nil {
		return 0, 0, err
	}
	for range 2 {
		got, err := j.client.HMGet(ctx, key(p, "head"), "seq", "epoch").Result()
		if err != nil {
			return 0, 0, rdb.Classify(op, err)
		}
		if got[0] != nil && got[1] != nil {
			seq, epoch, err = numbers(op, got[0], got[1])
			j.saw(p, seq)
			return seq, epoch, err
		}
		if err := j.prepare(ctx, []int{p}); err != nil {
			return 0, 0, err
		}
	}
	return 0, 0, fault.Errorf(op, fault.Unavailable, "the partition was wiped again")
}

func numbers(op string, a, b any) (x, y uint64, err error) {
	text, _ := a.(string)
	if x, err = strconv.ParseUint(text, 10, 53); err != nil {
		return 0, 0, fault.E(op, fault.Corrupt, err)
	}
	text, _ = b.(string)
	if y, err = strconv.ParseUint(text, 10, 53); err != nil {
		return 0, 0, fault.E(op, fault.Corrupt, err)
	}
	return x, y, nil
}

func entry(p int, m redis.XMessage) (Stored, error) {
	seq, _, _ := strings.Cut(m.ID, "-")
	offsets, _ := m.Values["m"].(string)
	body, _ := m.Values["e"].(string)
	return decode(p, seq, offsets, body)
}

// decode rebuilds a stored event: the same bytes that Append returned.
func decode(p int, seq, offsets, body string) (Stored, error) {
	position, err := parsePosition(p, seq, offsets)
	if err != nil {
		return Stored{}, err
	}
	if len(body) < len(`{"":0}`) || body[0] != '{' || body[len(body)-1] != '}' {
		return Stored{}, fault.Errorf("", fault.Corrupt, "the journal's entry %s holds no event", seq)
	}
	return Stored{Position: position, Raw: event.Splice([]byte(body), event.AppendPosition(nil, position))}, nil
}

// parsePosition reads an entry's numbers. They are kept as distances back from its seq, to
// the user's previous event, the feed's, and the epoch, 0 for none: a third of the bytes.
func parsePosition(p int, seq, offsets string) (event.Position, error) {
	n, err := strconv.ParseUint(seq, 10, 53)
	if err != nil {
		return event.Position{}, fault.Errorf("", fault.Corrupt, "the journal has an entry %q", seq)
	}
	user, rest, _ := strings.Cut(offsets, ",")
	feed, epoch, _ := strings.Cut(rest, ",")
	out := event.Position{Partition: p, Seq: n}
	for _, f := range []struct {
		text string
		to   *uint64
	}{{user, &out.Prev.User}, {feed, &out.Prev.Feed}, {epoch, &out.Epoch}} {
		back, err := strconv.ParseUint(f.text, 10, 53)
		if err != nil || back > n {
			return event.Position{}, fault.Errorf("", fault.Corrupt, "the journal's entry %d has the numbers %q", n, offsets)
		}
		if back > 0 {
			*f.to = n - back
		}
	}
	return out, nil
}
