package journal

import (
	"context"
	"errors"
	"slices"
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
	script    *script
	answer    any // what the script says of it
	err       error
}

// script is one call of commit.lua for one batch or several, on one server.
type script struct {
	calls  []*call
	events int
	cmd    *redis.Cmd
}

// sharedEvents is how many events the batches of a script that they share may have in all. With more,
// what a script costs whatever it does hardly counts, and the server does nothing else meanwhile.
const sharedEvents = 64

// refusal is what a script says of a batch that it did not store: a Redis error.
type refusal string

func (r refusal) Error() string { return string(r) }

// RedisError makes it a redis.Error.
func (refusal) RedisError() {}

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
		outOfMemory = outOfMemory || redis.HasErrorPrefix(c.err, "OOM")
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
	for node, scripts := range j.scripts(ctx, calls) {
		pipes[node] = node.Pipeline()
		for _, s := range scripts {
			keys, args := j.arguments(s.calls)
			s.cmd = pipes[node].EvalSha(ctx, j.commit.Hash(), keys, args...)
		}
	}
	var all sync.WaitGroup
	for _, pipe := range pipes {
		all.Go(func() { _, _ = pipe.Exec(ctx) }) // each command has its own error
	}
	all.Wait()
	for _, c := range calls {
		if c.err == nil {
			c.hear()
		}
	}
}

// scripts shares the calls out: on a server by itself small ones go into a script together; in a
// cluster the partitions are of different slots, and each has its own.
func (j *Journal) scripts(ctx context.Context, calls []*call) map[redis.Cmdable][]*script {
	_, cluster := j.client.(*redis.ClusterClient)
	out := map[redis.Cmdable][]*script{}
	for _, c := range calls {
		var node redis.Cmdable
		if node, c.err = j.node(ctx, c.partition); c.err != nil {
			continue
		}
		n := len(out[node])
		if cluster || n == 0 || out[node][n-1].events+len(c.events) > sharedEvents {
			out[node] = append(out[node], &script{})
			n++
		}
		c.script = out[node][n-1]
		c.script.calls, c.script.events = append(c.script.calls, c), c.script.events+len(c.events)
	}
	return out
}

// hear takes the call's own out of its script's answer.
func (c *call) hear() {
	all, err := c.script.cmd.Slice()
	if err != nil {
		c.err = err
		return
	}
	at := slices.Index(c.script.calls, c)
	if at >= len(all) {
		c.err = fault.Errorf("append", fault.Corrupt, "the answer has the wrong length")
		return
	}
	if text, ok := all[at].(string); ok {
		c.err = refusal(text)
		return
	}
	c.answer = all[at]
}

// arguments writes a script's KEYS and ARGV, as commit.lua describes them.
func (j *Journal) arguments(calls []*call) (keys []string, args []any) {
	args = append(make([]any, 0, 64), len(calls))
	for range calls {
		args = append(args, 0, 0)
	}
	for i, c := range calls {
		nkeys, nargs := len(keys), len(args)
		keys, args = j.argumentsOf(c, keys, args)
		args[1+2*i], args[2+2*i] = len(keys)-nkeys, len(args)-nargs
	}
	return keys, args
}

// argumentsOf appends those of one batch.
func (j *Journal) argumentsOf(c *call, keys []string, args []any) ([]string, []any) {
	p, width := c.partition, ms(j.opts.DedupeWindow)
	now, before := j.opts.Now().UnixMilli()/width, len(keys)
	keys = append(slices.Grow(keys, 9+len(c.events)), key(p, "head"), key(p, "journal"), key(p, "times"),
		bucketKey(p, now-1), bucketKey(p, now), bucketKey(p, now+1), bucketKey(p, now-2), key(p, "source"))
	args = append(slices.Grow(args, 15+6*len(c.events)), len(c.events), width, ms(j.opts.ReplayWindow), j.opts.ReplayMax,
		j.most(c), ms(j.opts.JournalAge), ms(j.tick()))
	args = c.numbered.arguments(args)
	users, buckets := map[string]int{}, map[int64]int{}
	for _, i := range c.events {
		e := &c.batch[i].Event
		bucket, user, deliver := 0, 0, 0
		if at, ok := idTime(e.ID); ok {
			if bucket = buckets[at/width]; bucket == 0 {
				keys = append(keys, bucketKey(p, at/width))
				bucket = len(keys) - before
				buckets[at/width] = bucket
			}
		}
		if e.UserID != "" {
			if user = users[e.UserID]; user == 0 {
				keys = append(keys, replayKey(p, e.UserID))
				user = len(keys) - before
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
	got, err := integers(c.answer)
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

func integers(answer any) ([]int64, error) {
	list, ok := answer.([]any)
	out := make([]int64, len(list))
	for i := range list {
		n, isNumber := list[i].(int64)
		out[i], ok = n, ok && isNumber
	}
	if !ok {
		return nil, errors.New("the answer is not a list of numbers")
	}
	return out, nil
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
