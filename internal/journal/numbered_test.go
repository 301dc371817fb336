package journal_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/testkit"
)

// numbered makes the batch of a source for the partition of user ana: records first to last,
// each with an event whose id is the number.
func numbered(source string, first, last uint64) *journal.Batch {
	b := &journal.Batch{Partition: event.Partition("ana", "", 4), Source: source, First: first, Last: last}
	for n := first; n <= last; n++ {
		e := entry(fmt.Sprint(source, "-", n), "ana", true)
		e.Number = n
		b.Entries = append(b.Entries, e)
	}
	return b
}

func question(source string) *journal.Batch { return numbered(source, 1, 0) }

func from(start *journal.Batch) *journal.Batch { start.Start = true; return start }

// without drops the entries of some numbers, as rules do.
func without(b *journal.Batch, numbers ...uint64) *journal.Batch {
	b.Entries = slices.DeleteFunc(b.Entries, func(e journal.Entry) bool { return slices.Contains(numbers, e.Number) })
	return b
}

func TestSourcesAreApplied(t *testing.T) {
	const (
		isNew = 'n'
		old   = 'o'

		leftOut = 'x'
	)
	for name, c := range map[string]struct {
		before []*journal.Batch
		batch  *journal.Batch
		upto   uint64
		gap    bool
		lost   uint64
		stored string // of each entry: n new, o a repeat, x left out although it never was stored
	}{
		"the beginning":           {batch: numbered("a", 1, 3), upto: 3, stored: "nnn"},
		"goes on":                 {before: []*journal.Batch{numbered("a", 1, 2)}, batch: numbered("a", 3, 4), upto: 4, stored: "nn"},
		"a repeat":                {before: []*journal.Batch{numbered("a", 1, 4)}, batch: numbered("a", 2, 3), upto: 4, stored: "oo"},
		"partly a repeat":         {before: []*journal.Batch{numbered("a", 1, 3)}, batch: numbered("a", 2, 5), upto: 5, stored: "oonn"},
		"a gap":                   {before: []*journal.Batch{numbered("a", 1, 3)}, batch: numbered("a", 5, 6), upto: 3, gap: true},
		"unknown, not from 1":     {batch: numbered("a", 5, 6), upto: 0, gap: true},
		"unknown, kept from 5 on": {batch: from(numbered("a", 5, 6)), upto: 6, stored: "nn"},
		"trimmed before applied":  {before: []*journal.Batch{numbered("a", 1, 3)}, batch: from(numbered("a", 6, 7)), upto: 7, lost: 2, stored: "nn"},
		"trimmed after applied":   {before: []*journal.Batch{numbered("a", 1, 6)}, batch: from(numbered("a", 6, 7)), upto: 7, stored: "on"},
		"all dropped by rules":    {before: []*journal.Batch{without(numbered("a", 1, 3), 1, 2, 3)}, batch: numbered("a", 4, 4), upto: 4, stored: "n"},
		"some dropped by rules":   {before: []*journal.Batch{numbered("a", 1, 3)}, batch: without(numbered("a", 2, 6), 3, 5, 6), upto: 6, stored: "on"},
		"of another source":       {before: []*journal.Batch{numbered("b", 1, 9)}, batch: numbered("a", 1, 1), upto: 1, stored: "n"},
		"a question":              {before: []*journal.Batch{numbered("a", 1, 7)}, batch: question("a"), upto: 7},
		"a question of nobody":    {batch: question("a"), upto: 0},

		"numbers never used":                {before: []*journal.Batch{numbered("a", 1, 3)}, batch: skip(6, numbered("a", 10, 11)), upto: 11, stored: "nn"},
		"the same, and one more was stored": {before: []*journal.Batch{numbered("a", 1, 5)}, batch: skip(6, numbered("a", 10, 11)), upto: 11, stored: "nn"},
		"the same, and one is missing":      {before: []*journal.Batch{numbered("a", 1, 2)}, batch: skip(6, numbered("a", 10, 11)), upto: 2, gap: true},
		"the same, a repeat":                {before: []*journal.Batch{numbered("a", 1, 3), skip(6, numbered("a", 10, 11))}, batch: skip(6, numbered("a", 10, 12)), upto: 12, stored: "oon"},
		"the same, late":                    {before: []*journal.Batch{numbered("a", 1, 3), skip(6, numbered("a", 10, 11))}, batch: numbered("a", 4, 5), upto: 11, stored: "xx"},
		"never used, at the beginning":      {batch: skip(9, numbered("a", 10, 11)), upto: 11, stored: "nn"},
		"never used, trimmed":               {before: []*journal.Batch{numbered("a", 1, 2)}, batch: from(skip(6, numbered("a", 10, 11))), upto: 11, lost: 1, stored: "nn"},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
				for _, b := range append(slices.Clone(c.before), c.batch) {
					*b = journal.Batch{Partition: b.Partition, Source: b.Source, First: b.First, Last: b.Last, Start: b.Start, Skip: b.Skip, Entries: b.Entries}
				}
				for _, b := range c.before {
					apply(t, j, b)
				}
				b := c.batch
				apply(t, j, b)
				if b.Upto != c.upto || b.Gap != c.gap || b.Lost != c.lost || b.Epoch == 0 || len(b.Stored) != len(c.stored) {
					t.Fatalf("applied up to %d, gap %v, lost %d, %d stored, epoch %d", b.Upto, b.Gap, b.Lost, len(b.Stored), b.Epoch)
				}
				for i, s := range b.Stored {
					if c.stored[i] == leftOut && s.Duplicate && s.Seq == 0 {
						continue
					}
					if want := map[bool]byte{true: old, false: isNew}[s.Duplicate]; c.stored[i] != want || s.Seq <= b.Epoch || s.Duplicate == (s.Raw != nil) {
						t.Errorf("entry %d is stored as %+v, want %c", i, s, c.stored[i])
					}
				}
			})
		})
	}
}

func skip(n uint64, b *journal.Batch) *journal.Batch {
	b.Skip = n
	return b
}

func apply(t testing.TB, j *journal.Journal, batches ...*journal.Batch) {
	t.Helper()
	if err := j.Apply(t.Context(), batches); err != nil {
		t.Fatal(err)
	}
	for i, b := range batches {
		if !b.Done {
			t.Fatalf("batch %d was not applied", i)
		}
	}
}

// One call takes batches of several sources and partitions, and several of one source, in order.
func TestBatchesOfOneSourceKeepTheirOrder(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		a, gap, b, again, ask := numbered("a", 1, 2), numbered("a", 4, 5), numbered("b", 1, 3), numbered("a", 3, 5), question("a")
		apply(t, j, a, gap, b, again, ask)
		if a.Upto != 2 || !gap.Gap || gap.Upto != 2 || gap.Stored != nil || b.Upto != 3 || again.Upto != 5 || ask.Upto != 5 {
			t.Errorf("applied up to %d %d %d %d, the answer is %d", a.Upto, gap.Upto, b.Upto, again.Upto, ask.Upto)
		}
		events, err := j.Read(t.Context(), a.Partition, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := ids(t, events)
		if want := []string{"a-1", "a-2", "a-3", "a-4", "a-5"}; !slices.Equal(slices.DeleteFunc(got, func(id string) bool { return id[0] == 'b' }), want) {
			t.Errorf("source a is stored as %v", got)
		}
	})
}

// A repeat whose id the dedupe window no longer holds is a repeat all the same.
func TestNumbersOutliveTheDedupeWindow(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		apply(t, j, numbered("a", 1, 3))
		for _, key := range client.Keys(t.Context(), "spine:*:ids:*").Val() {
			if err := client.Del(t.Context(), key).Err(); err != nil {
				t.Fatal(err)
			}
		}
		b := numbered("a", 2, 4)
		apply(t, j, b)
		if b.Stored[0].Seq != 0 || !b.Stored[0].Duplicate || b.Stored[2].Seq == 0 || b.Stored[2].Duplicate {
			t.Errorf("stored %+v", b.Stored)
		}
		if events, err := j.Read(t.Context(), b.Partition, 0, 0); err != nil || len(events) != 4 {
			t.Errorf("%d events, %v", len(events), err)
		}
	})
}

func TestRepeatsWithinABatchHaveTheFirstNumber(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		b := numbered("a", 1, 3)
		b.Entries[2].Event = b.Entries[0].Event
		apply(t, j, b)
		if !b.Stored[2].Duplicate || b.Stored[2].Seq != b.Stored[0].Seq || b.Upto != 3 {
			t.Errorf("stored %+v", b.Stored)
		}
	})
}

func TestBatchesThatMakeNoSenseAreRefused(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		wrongNumber, descending, noID, elsewhere := numbered("a", 1, 2), numbered("a", 1, 2), numbered("a", 1, 2), numbered("a", 1, 2)
		wrongNumber.Entries[1].Number = 3
		slices.Reverse(descending.Entries)
		noID.Entries[0].Event.ID = ""
		elsewhere.Partition = 4
		for name, b := range map[string]*journal.Batch{
			"number": wrongNumber, "order": descending, "id": noID, "partition": elsewhere, "source": numbered("", 1, 2),
			"zero": {Source: "a", First: 0, Last: 3}, "backwards": {Source: "a", First: 5, Last: 3}, "huge": {Source: "a", First: 5, Last: 1 << 53},
		} {
			good := numbered("good", 1, 1)
			if err := j.Apply(t.Context(), []*journal.Batch{good, b}); fault.KindOf(err) != fault.Invalid || good.Done || b.Done {
				t.Errorf("%s: %v, done %v %v", name, err, good.Done, b.Done)
			}
		}
	})
}

// Sources that were silent for long are forgotten when a new one comes: after a week those that
// began a new log.
func TestSilentSourcesAreForgotten(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		const day = 24 * 3600
		now := time.Now().Unix()
		ages := map[string]int64{"a/1": 8, "a/2": 6, "b/1": 89, "b/1/20": 8, "c/1": 91}
		for source := range ages {
			apply(t, j, numbered(source, 1, 2))
		}
		for source, age := range ages {
			if err := client.HSet(t.Context(), keyOf("ana", "source"), source, fmt.Sprint("2,", now-age*day)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		apply(t, j, numbered("a/2", 3, 3))
		if left := client.HLen(t.Context(), keyOf("ana", "source")).Val(); left != 5 {
			t.Errorf("%d sources before a new one came", left)
		}
		apply(t, j, numbered("a/3", 1, 1))
		left := client.HKeys(t.Context(), keyOf("ana", "source")).Val()
		slices.Sort(left)
		if want := []string{"a/2", "a/3", "b/1", "b/1/20"}; !slices.Equal(left, want) {
			t.Errorf("the sources are %v, want %v", left, want)
		}
	})
}

// What was prepared in one epoch is not stored in another.
func TestBatchesOfAnotherEpochAreRefused(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		ask := question("a")
		apply(t, j, ask)
		first := numbered("a", 1, 2)
		first.Within = ask.Epoch
		apply(t, j, first)
		if first.Gap || first.Upto != 2 {
			t.Errorf("in its epoch: %+v", first)
		}
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		late := numbered("a", 1, 2)
		late.Within = ask.Epoch
		apply(t, j, late)
		if !late.Gap || late.Upto != 0 || late.Epoch <= ask.Epoch || late.Stored != nil {
			t.Errorf("in another epoch: %+v", late)
		}
	})
}

// A wiped server knows no source, so that whoever kept the events sends them again.
func TestWipedServerForgetsSources(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		a := numbered("a", 1, 3)
		apply(t, j, a)
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		ask, more := question("a"), numbered("a", 4, 5)
		apply(t, j, ask, more)
		if ask.Upto != 0 || ask.Epoch <= a.Epoch || !more.Gap {
			t.Errorf("after the wipe %d of epoch %d, gap %v", ask.Upto, ask.Epoch, more.Gap)
		}
		again := from(numbered("a", 2, 5))
		apply(t, j, again)
		if again.Upto != 5 || again.Lost != 0 || again.Stored[0].Duplicate {
			t.Errorf("sent again: up to %d, lost %d, %+v", again.Upto, again.Lost, again.Stored)
		}
	})
}

// A full server neither stores nor moves on.
func TestFullServerKeepsTheNumber(t *testing.T) {
	server := testkit.StartRedis(t, "--maxmemory-policy", "noeviction")
	client := open(t, server.URL())
	j := start(t, client, nil)
	apply(t, j, numbered("a", 1, 3))
	if err := client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*journal.Batch{numbered("a", 4, 5), without(numbered("a", 4, 5), 4, 5)} {
		wantKind(t, j.Apply(t.Context(), []*journal.Batch{b}), fault.Overloaded)
		if b.Done {
			t.Error("it says that it is done")
		}
	}
	ask := question("a")
	apply(t, j, ask) // reading works
	if err := client.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	b := numbered("a", 4, 5)
	apply(t, j, b)
	if ask.Upto != 3 || b.Upto != 5 || b.Stored[0].Duplicate {
		t.Errorf("it was at %d, then at %d: %+v", ask.Upto, b.Upto, b.Stored)
	}
}

func TestHeads(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		s := add(t, j, entry("a1", "ana", true), entry("a2", "ana", false))[1]
		before := heads(t, j)
		for p, h := range before {
			seq, epoch, err := j.Head(t.Context(), p)
			want := journal.Head{Seq: seq, Epoch: epoch}
			if p == s.Partition {
				want.Feed = s.Seq - 1
			}
			if err != nil || h != want {
				t.Errorf("partition %d: %+v, want %+v, %v", p, h, want, err)
			}
		}
		if before[s.Partition].Seq != s.Seq {
			t.Errorf("%+v, want %d", before[s.Partition], s.Seq)
		}
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		for p, h := range heads(t, j) {
			if h.Epoch <= before[p].Seq || h.Seq != h.Epoch {
				t.Errorf("partition %d after the wipe: %+v, before it %+v", p, h, before[p])
			}
		}
	})
}

func heads(t *testing.T, j *journal.Journal) []journal.Head {
	t.Helper()
	out, err := j.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A server that came back with older data is found out though nobody stores anything.
func TestHeadsSeeARestart(t *testing.T) {
	server := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	j := start(t, open(t, server.URL()), nil)
	add(t, j, entry("a1", "ana", true))
	before := heads(t, j)
	server.Kill()
	_, err := j.Heads(t.Context())
	wantKind(t, err, fault.Unavailable)
	server.Restart()
	var after []journal.Head
	testkit.Eventually(t, 5*time.Second, func() bool {
		var err error
		after, err = j.Heads(context.Background())
		return err == nil
	}, "the server is there again")
	for p := range after {
		if after[p].Epoch <= before[p].Seq {
			t.Errorf("partition %d: %+v after %+v", p, after[p], before[p])
		}
	}
}

// TestABrokenPartitionFailsAlone: batches that share a call with it are stored.
func TestABrokenPartitionFailsAlone(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		const broken = 2
		if err := client.Set(t.Context(), fmt.Sprintf("spine:{p%02d}:journal", broken), "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		var batches []*journal.Batch
		for p := range 4 {
			b := numbered("a", 1, 2)
			b.Partition = p
			batches = append(batches, b)
		}
		if err := j.Apply(t.Context(), batches); err == nil {
			t.Error("no error although one partition has a journal of a foreign type")
		}
		for p, b := range batches {
			if b.Done == (p == broken) || b.Done && b.Upto != 2 {
				t.Errorf("partition %d: done %v, up to %d", p, b.Done, b.Upto)
			}
		}
	})
}

// TestManyBatchesOfManySizes go into calls of their own or together, and each has its own answer.
func TestManyBatchesOfManySizes(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		var batches []*journal.Batch
		for i := range 40 {
			b := numbered(fmt.Sprint("source-", i), 1, uint64(1+i*i%97))
			b.Partition = i % 4
			batches = append(batches, b)
		}
		if err := j.Apply(t.Context(), batches); err != nil {
			t.Fatal(err)
		}
		seen := map[uint64]bool{}
		for _, b := range batches {
			if !b.Done || b.Upto != b.Last || len(b.Stored) != len(b.Entries) {
				t.Fatalf("%s: done %v, up to %d of %d, %d stored", b.Source, b.Done, b.Upto, b.Last, len(b.Stored))
			}
			for i, s := range b.Stored {
				if s.Duplicate || s.Partition != b.Partition || i > 0 && s.Seq != b.Stored[i-1].Seq+1 || seen[s.Seq] {
					t.Fatalf("%s: event %d is stored as %+v", b.Source, i, s)
				}
				seen[s.Seq] = true
			}
		}
	})
}
