package journal

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// Limits of one script call. A larger batch of one partition is stored in several calls, one
// after the other.
const (
	maxCallEvents = 512
	maxCallBytes  = 4 << 20
)

// maxTries bounds how often a call that Redis refused without doing anything is made.
const maxTries = 4

// call is the share of a batch that goes to one partition in one script call.
type call struct {
	partition int
	batch     []Entry
	events    []int // indexes into the batch, in its order
	out       []Stored
	numbered  *Batch // nil: of no source
	node      redis.Cmdable
	answer    *redis.Cmd
	err       error
}

// Append stores the batch, each event once, and numbers it in the order of the batch. Result
// i belongs to batch[i]. An event whose id was seen within the dedupe window, or earlier in
// the batch, comes back as Duplicate with the Seq it got the first time; its Prev is zero, and
// so is its Epoch when it was given in an earlier one.
//
// On error some partitions may be stored and others not. What is known to be stored is in the
// result all the same; the rest has Seq 0. The call may be repeated with the whole batch:
// then what was stored comes back as Duplicate, and Lookup gives its bytes. Invalid: an entry
// has no id or no JSON object, and nothing was stored. Overloaded: Redis is out of memory;
// what it no longer owes was freed for the next try. Unavailable: Redis is away.
func (j *Journal) Append(ctx context.Context, batch []Entry) ([]Stored, error) {
	if err := check(batch); err != nil {
		return nil, err
	}
	if err := j.ensureReady(ctx); err != nil {
		return nil, err
	}
	out := make([]Stored, len(batch))
	waiting := j.group(batch)
	var failed error
	for len(waiting) > 0 {
		calls := make([]*call, 0, len(waiting))
		for p, events := range waiting {
			n := firstCall(batch, events)
			calls = append(calls, &call{partition: p, batch: batch, events: events[:n], out: out})
			if waiting[p] = events[n:]; n == len(events) {
				delete(waiting, p)
			}
		}
		j.store(ctx, calls)
		for _, c := range calls {
			if c.err != nil {
				failed = worse(failed, c.err)
				delete(waiting, c.partition) // its later events may not overtake
			}
		}
	}
	j.count(out)
	return out, failed
}

func check(batch []Entry) error {
	for i := range batch {
		if !storable(&batch[i].Event) {
			return fault.Errorf("append", fault.Invalid, "entry %d has no id or no JSON object", i)
		}
	}
	return nil
}

func storable(e *event.Event) bool {
	return e.ID != "" && len(e.Raw) >= len(`{"":0}`) && e.Raw[0] == '{' && e.Raw[len(e.Raw)-1] == '}'
}

// worse picks the error to report: one that a retry does not help, if there is any.
func worse(a, b error) error {
	if a == nil || (fault.Retryable(a) && !fault.Retryable(b)) {
		return b
	}
	return a
}

func (j *Journal) group(batch []Entry) map[int][]int {
	groups := make(map[int][]int)
	for i := range batch {
		e := &batch[i].Event
		p := event.Partition(e.UserID, e.ID, j.opts.Partitions)
		groups[p] = append(groups[p], i)
	}
	return groups
}

// firstCall is how many of the events fit into one script call; at least one.
func firstCall(batch []Entry, events []int) int {
	bytes := 0
	for n, i := range events {
		bytes += len(batch[i].Event.Raw)
		if n == maxCallEvents || (n > 0 && bytes > maxCallBytes) {
			return n
		}
	}
	return len(events)
}

// store makes the calls, all in one pipeline a server, and writes what was stored to their
// results. Calls that Redis refused because something has to happen first are made again after
// that.
func (j *Journal) store(ctx context.Context, calls []*call) {
	for try := 1; len(calls) > 0; try++ {
		j.send(ctx, calls)
		var again []*call
		var boot []int
		moved := false
		for _, c := range calls {
			if c.err == nil {
				c.err = j.read(c)
			}
			switch {
			case c.err == nil || try == maxTries:
			case wantsBoot(c.err):
				again, boot = append(again, c), append(boot, c.partition)
			case j.redirected(c.err):
				again, moved = append(again, c), true
			}
		}
		if moved {
			j.client.(*redis.ClusterClient).ReloadState(ctx)
		}
		if len(boot) > 0 {
			if err := j.prepare(ctx, boot); err != nil {
				for _, c := range again {
					c.err = err
				}
				again = nil
			}
		}
		j.settle(ctx, calls, again)
		calls = again
	}
}

// settle classifies the errors of the calls that will not be made again.
func (j *Journal) settle(ctx context.Context, calls, again []*call) {
	outOfMemory := false
	for _, c := range again {
		c.err = nil
	}
	for _, c := range calls {
		if c.err == nil {
			continue
		}
		outOfMemory = outOfMemory || redis.IsOOMError(c.err)
		if wantsBoot(c.err) { // the partition is on its way to another server
			c.err = fault.E("append", fault.Unavailable, c.err)
		}
		c.err = rdb.Classify("append", c.err)
	}
	if outOfMemory {
		j.metrics.full.Inc()
		j.free(ctx)
	}
}

func wantsBoot(err error) bool {
	return redis.HasErrorPrefix(err, "NOSCRIPT") || redis.HasErrorPrefix(err, "NOEPOCH") || redis.HasErrorPrefix(err, "NEWRUN")
}

// redirected reports whether the cluster moved the partition to another server.
func (j *Journal) redirected(err error) bool {
	_, cluster := j.client.(*redis.ClusterClient)
	_, moved := redis.IsMovedError(err)
	return cluster && moved
}

// send makes the calls and waits for their answers.
func (j *Journal) send(ctx context.Context, calls []*call) {
	pipes := map[redis.Cmdable]redis.Pipeliner{}
	for _, c := range calls {
		if c.node, c.err = j.node(ctx, c.partition); c.err != nil {
			continue
		}
		if pipes[c.node] == nil {
			pipes[c.node] = c.node.Pipeline()
		}
		keys, args := j.arguments(c)
		c.answer = pipes[c.node].EvalSha(ctx, j.commit.Hash(), keys, args...)
	}
	var all sync.WaitGroup
	for _, pipe := range pipes {
		all.Go(func() { _, _ = pipe.Exec(ctx) }) // each command has its own error
	}
	all.Wait()
	for _, c := range calls {
		if c.err == nil {
			c.err = c.answer.Err()
		}
	}
}

// arguments writes a call's KEYS and ARGV, as commit.lua describes them.
func (j *Journal) arguments(c *call) (keys []string, args []any) {
	p, width := c.partition, ms(j.opts.DedupeWindow)
	now := j.opts.Now().UnixMilli() / width
	keys = append(make([]string, 0, 9+len(c.events)), key(p, "head"), key(p, "journal"), key(p, "times"),
		bucketKey(p, now-1), bucketKey(p, now), bucketKey(p, now+1), bucketKey(p, now-2), key(p, "source"))
	args = append(make([]any, 0, 15+6*len(c.events)), len(c.events), width, ms(j.opts.ReplayWindow), j.opts.ReplayMax,
		j.most(c), ms(j.opts.JournalAge), ms(j.tick()))
	args = c.numbered.arguments(args)
	users, buckets := map[string]int{}, map[int64]int{}
	for _, i := range c.events {
		e := &c.batch[i].Event
		bucket, user, deliver := 0, 0, 0
		if at, ok := idTime(e.ID); ok {
			if bucket = buckets[at/width]; bucket == 0 {
				keys = append(keys, bucketKey(p, at/width))
				bucket = len(keys)
				buckets[at/width] = bucket
			}
		}
		if e.UserID != "" {
			if user = users[e.UserID]; user == 0 {
				keys = append(keys, replayKey(p, e.UserID))
				user = len(keys)
				users[e.UserID] = user
			}
			if c.batch[i].Deliverable {
				deliver = 1
			}
		}
		args = append(args, e.ID, bucket, user, deliver, e.Raw)
	}
	if c.numbered != nil {
		for _, i := range c.events {
			args = append(args, c.batch[i].Number)
		}
	}
	return keys, args
}

// answerHead is the number of values before those of the events in the script's answer.
const answerHead = 4

// read takes the answer of a call apart.
func (j *Journal) read(c *call) error {
	got, err := c.answer.Int64Slice()
	gap := err == nil && len(got) == answerHead && got[2] == 1 && c.numbered != nil
	if err == nil && !gap && len(got) != answerHead+3*len(c.events) {
		err = errors.New("the answer has the wrong length")
	}
	if err != nil {
		return fault.E("append", fault.Corrupt, err)
	}
	epoch := uint64(got[0])
	if b := c.numbered; b != nil {
		b.Epoch, b.Upto, b.Gap, b.Lost = epoch, uint64(got[1]), gap, uint64(got[3])
	}
	if gap {
		return nil
	}
	for n, i := range c.events {
		seq, user, feed := got[answerHead+3*n], got[answerHead+1+3*n], got[answerHead+2+3*n]
		s := Stored{Position: event.Position{Partition: c.partition, Epoch: epoch}}
		if seq > 0 {
			s.Seq, s.Prev = uint64(seq), event.Prev{User: uint64(user), Feed: uint64(feed)}
			s.Raw = event.Splice(c.batch[i].Event.Raw, event.AppendPosition(nil, s.Position))
		} else {
			s.Duplicate, s.Seq = true, uint64(-seq)
			if s.Seq <= epoch {
				s.Epoch = 0
			}
		}
		j.saw(c.partition, s.Seq)
		c.out[i] = s
	}
	return nil
}

func (j *Journal) count(out []Stored) {
	stored, repeats := 0, 0
	for i := range out {
		switch {
		case out[i].Duplicate:
			repeats++
		case out[i].Seq > 0:
			stored++
		}
	}
	j.metrics.stored.Add(float64(stored))
	j.metrics.repeats.Add(float64(repeats))
}
