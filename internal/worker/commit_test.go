package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/quiet"
	"eventspine/internal/retry"
)

// outcome is what a call to the ledger does.
type outcome int

const (
	works     outcome = iota
	refuses           // nothing is stored, nothing is known
	loses             // everything is stored, nothing is known
	half              // even partitions are stored and known; odd ones neither
	halfLoses         // even partitions are stored and known; odd ones stored, and not known
)

// ledger is a journal in memory whose answers can be lost.
type ledger struct {
	plan     []outcome // of the coming Appends; works after that
	lookups  []error   // of the coming Lookups
	trimmed  bool      // Lookup finds nothing
	ids      map[identity]uint64
	sources  map[string]uint64 // stream → last number
	events   [partitions][]journal.Stored
	appended int
}

var errAway = fault.Errorf("redis", fault.Unavailable, "away")

func (l *ledger) Append(_ context.Context, batch []journal.Entry) ([]journal.Stored, error) {
	l.appended++
	do := works
	if len(l.plan) > 0 {
		do, l.plan = l.plan[0], l.plan[1:]
	}
	if do == refuses {
		return nil, errAway
	}
	out := make([]journal.Stored, len(batch))
	for i := range batch {
		e := &batch[i].Event
		p := event.Partition(e.UserID, e.ID, partitions)
		odd := p%2 == 1
		if do == half && odd {
			continue
		}
		s := l.one(p, e)
		if do == works || do == half || do == halfLoses && !odd {
			out[i] = s
		}
	}
	switch do {
	case works:
		return out, nil
	case loses:
		return nil, errAway
	}
	return out, errAway
}

// Apply stores numbered batches as Append stores plain ones.
func (l *ledger) Apply(_ context.Context, batches []*journal.Batch) error {
	l.appended++
	do := works
	if len(l.plan) > 0 {
		do, l.plan = l.plan[0], l.plan[1:]
	}
	if do == refuses {
		return errAway
	}
	for _, b := range batches {
		odd := b.Partition%2 == 1
		if do == half && odd {
			continue
		}
		got := l.apply(b)
		if do == works || do == half || do == halfLoses && !odd {
			got.Partition, got.Source, got.First, got.Last, got.Start, got.Entries = b.Partition, b.Source, b.First, b.Last, b.Start, b.Entries
			*b = got
		}
	}
	if do == works {
		return nil
	}
	return errAway
}

func (l *ledger) apply(b *journal.Batch) journal.Batch {
	if l.sources == nil {
		l.sources = map[string]uint64{}
	}
	stream := fmt.Sprint(b.Partition, b.Source)
	last := l.sources[stream]
	got := journal.Batch{Done: true, Epoch: 1, Upto: last, Gap: b.Last >= b.First && b.First > last+1 && !b.Start}
	if got.Gap || b.Last < b.First {
		return got
	}
	if last > 0 && b.First > last+1 {
		got.Lost = b.First - last - 1
	}
	for i := range b.Entries {
		e := &b.Entries[i]
		s := journal.Stored{Position: event.Position{Partition: b.Partition, Seq: l.ids[identity{b.Partition, e.Event.ID}]}, Duplicate: true}
		if e.Number > last {
			s = l.one(b.Partition, &e.Event)
		}
		got.Stored = append(got.Stored, s)
	}
	got.Upto = max(last, b.Last)
	l.sources[stream] = got.Upto
	return got
}

func (l *ledger) one(p int, e *event.Event) journal.Stored {
	id := identity{p, e.ID}
	if seq := l.ids[id]; seq > 0 {
		return journal.Stored{Position: event.Position{Partition: p, Seq: seq}, Duplicate: true}
	}
	if l.ids == nil {
		l.ids = map[identity]uint64{}
	}
	s := journal.Stored{Position: event.Position{Partition: p, Seq: 100 + uint64(len(l.events[p])), Epoch: 1}, Raw: e.Raw}
	l.ids[id] = s.Seq
	l.events[p] = append(l.events[p], s)
	return s
}

func (l *ledger) Lookup(_ context.Context, p int, seqs []uint64) ([]journal.Stored, error) {
	if len(l.lookups) > 0 {
		err := l.lookups[0]
		l.lookups = l.lookups[1:]
		if err != nil {
			return nil, err
		}
	}
	out := make([]journal.Stored, len(seqs))
	for i, seq := range seqs {
		out[i] = journal.Stored{Position: event.Position{Partition: p, Seq: seq}}
		if !l.trimmed {
			out[i] = l.events[p][seq-100]
		}
	}
	return out, nil
}

// bench is a committer over a ledger, and what it published: id and number.
type bench struct {
	*committer
	published []string
	byPart    [partitions][]uint64
}

func newBench(l store) *bench {
	b := &bench{}
	b.committer = newCommitter(l, partitions, func(all []fresh) {
		for _, f := range all {
			b.published = append(b.published, f.entry.Event.ID)
			b.byPart[f.stored.Partition] = append(b.byPart[f.stored.Partition], f.stored.Seq)
		}
	}, quiet.NewDependency("redis", slog.New(slog.DiscardHandler)), newMetrics(nil))
	b.policy = retry.Policy{Min: time.Microsecond, Max: 10 * time.Microsecond}
	return b
}

// entriesOf makes entries from words id or id@user.
func entriesOf(words ...string) []journal.Entry {
	var out []journal.Entry
	for _, w := range words {
		id, user, _ := strings.Cut(w, "@")
		out = append(out, journal.Entry{Event: event.Event{ID: id, Type: "a.b", UserID: user, Raw: fmt.Appendf(nil, `{"id":%q}`, id)}})
	}
	return out
}

func TestCommit(t *testing.T) {
	// u1 and u2 live in an even and in an odd partition.
	u1, u2 := userIn(t, 0), userIn(t, 1)
	for name, c := range map[string]struct {
		ledger      ledger
		before      []string // committed without trouble first
		batch       []string
		published   []string // of the batch
		repeats     float64  // found by the journal
		republished float64
		unpublished float64
	}{
		"new events":        {batch: []string{"a", "b"}, published: []string{"a", "b"}},
		"nothing":           {},
		"a true repeat":     {before: []string{"a"}, batch: []string{"a", "b"}, published: []string{"b"}, repeats: 1},
		"away before it":    {ledger: ledger{plan: []outcome{refuses, refuses}}, batch: []string{"a", "b"}, published: []string{"a", "b"}},
		"the answer lost":   {ledger: ledger{plan: []outcome{loses}}, batch: []string{"a", "b"}, published: []string{"a", "b"}, republished: 2},
		"lost several":      {ledger: ledger{plan: []outcome{loses, loses, refuses}}, batch: []string{"a"}, published: []string{"a"}, republished: 1},
		"half of it stored": {ledger: ledger{plan: []outcome{half}}, batch: []string{"a@" + u1, "b@" + u2, "c@" + u1}, published: []string{"a", "c", "b"}},
		"half of it known": {ledger: ledger{plan: []outcome{halfLoses}}, batch: []string{"a@" + u1, "b@" + u2, "c@" + u1},
			published: []string{"a", "c", "b"}, republished: 1},
		"a true repeat in a lost answer": {ledger: ledger{plan: []outcome{works, loses}}, before: []string{"a@u"}, batch: []string{"b@u", "a@u", "c@u"},
			published: []string{"b", "c"}, repeats: 1, republished: 2},
		"reading back fails once": {ledger: ledger{plan: []outcome{loses}, lookups: []error{errAway}}, batch: []string{"a"}, published: []string{"a"}, republished: 1},
		"trimmed meanwhile":       {ledger: ledger{plan: []outcome{loses}, trimmed: true}, batch: []string{"a"}, unpublished: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(&c.ledger)
			if err := b.Commit(within(t), entriesOf(c.before...)); err != nil {
				t.Fatal(err)
			}
			b.published = nil
			if err := b.Commit(within(t), entriesOf(c.batch...)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(b.published, c.published) {
				t.Errorf("published %v, want %v", b.published, c.published)
			}
			for what, n := range map[string][2]float64{
				"repeats":     {testutil.ToFloat64(b.m.repeats.WithLabelValues("journal")), c.repeats},
				"republished": {testutil.ToFloat64(b.m.republished), c.republished},
				"unpublished": {testutil.ToFloat64(b.m.unpublished), c.unpublished},
				"abandoned":   {testutil.ToFloat64(b.m.abandoned), 0},
				"stored":      {testutil.ToFloat64(b.m.stored), float64(len(c.before) + len(c.published))},
			} {
				if n[0] != n[1] {
					t.Errorf("%s is %v, want %v", what, n[0], n[1])
				}
			}
			if len(c.batch) > 0 && b.redis.State() != nil {
				t.Errorf("redis counts as away: %v", b.redis.State())
			}
		})
	}
}

func userIn(t *testing.T, parity int) string {
	t.Helper()
	for i := range 100 {
		if u := fmt.Sprint("u", i); event.Partition(u, "", partitions)%2 == parity {
			return u
		}
	}
	t.Fatal("no such user")
	return ""
}

// Any error is waited out; only the end of the context ends a commit, and then it is counted.
func TestCommitGivesUpOnlyAtTheEnd(t *testing.T) {
	for name, err := range map[string]error{"away": errAway, "unknown": errors.New("surprise"), "invalid": fault.Errorf("x", fault.Invalid, "wrong partition count")} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			ctx, cancel := context.WithCancel(t.Context())
			b := newBench(storeFunc(func() error {
				if tries++; tries == 20 {
					cancel()
				}
				return err
			}))
			if err := b.Commit(ctx, entriesOf("a", "b")); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if n := testutil.ToFloat64(b.m.abandoned); n != 2 || b.redis.State() == nil {
				t.Errorf("%v abandoned, redis is %v", n, b.redis.State())
			}
		})
	}
	t.Run("no answer at all", func(t *testing.T) {
		tries := 0
		b := newBench(storeFunc(func() error { tries++; return nil }))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := b.Commit(ctx, entriesOf("a")); err == nil || tries < 2 || len(b.published) > 0 {
			t.Errorf("%v after %d tries", err, tries)
		}
	})
}

type storeFunc func() error

func (f storeFunc) Append(context.Context, []journal.Entry) ([]journal.Stored, error) {
	return nil, f()
}
func (f storeFunc) Apply(context.Context, []*journal.Batch) error                   { return f() }
func (f storeFunc) Lookup(context.Context, int, []uint64) ([]journal.Stored, error) { return nil, nil }

// Whatever answers are lost, every event is published once, and each partition's numbers are
// published without gaps and in order.
func TestCommitProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{}
		b := newBench(l)
		ids := map[identity]bool{}
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			l.plan = nil
			for _, o := range rapid.SliceOfN(rapid.IntRange(int(works), int(halfLoses)), 0, 5).Draw(t, "plan") {
				l.plan = append(l.plan, outcome(o))
			}
			var words []string
			inBatch := map[identity]bool{} // the processor leaves repeats within a batch out
			for range rapid.IntRange(0, 20).Draw(t, "events") {
				id, user := rapid.StringMatching(`[a-h][0-9]`).Draw(t, "id"), rapid.StringMatching(`[u-z]?`).Draw(t, "user")
				key := identity{event.Partition(user, id, partitions), id}
				if !inBatch[key] {
					words = append(words, id+"@"+user)
				}
				ids[key], inBatch[key] = true, true
			}
			if err := b.Commit(context.Background(), entriesOf(words...)); err != nil {
				t.Fatal(err)
			}
		}
		total := 0
		for p, seqs := range b.byPart {
			total += len(seqs)
			for i, seq := range seqs {
				if seq != 100+uint64(i) {
					t.Fatalf("partition %d published %v", p, seqs)
				}
			}
		}
		if total != len(ids) {
			t.Fatalf("%d published, %d different events came in", total, len(ids))
		}
	})
}

func TestPublishedHeads(t *testing.T) {
	b := newBench(&ledger{})
	begin := time.Now()
	p := event.Partition("u", "", partitions)
	if got := b.ownHeads(begin)[p]; got != (journal.Head{}) {
		t.Errorf("before anything was stored: %v", got)
	}
	batch := entriesOf("a@u", "b@u", "c@u")
	batch[1].Deliverable = true
	if err := b.Commit(within(t), batch); err != nil {
		t.Fatal(err)
	}
	if got := b.ownHeads(begin); len(got) != partitions || got[p] != (journal.Head{Seq: 102, Epoch: 1, Feed: 101}) {
		t.Errorf("heads %+v", got)
	}
	if got := b.ownHeads(time.Now().Add(time.Minute))[p]; got != (journal.Head{}) {
		t.Errorf("of a quiet partition: %v", got)
	}
}
