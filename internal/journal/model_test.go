package journal_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/testkit"
)

// model is what the journal promises, without its windows: dedupe, contiguous numbers, replay
// in order, and sources that are applied without gaps.
type model struct {
	max   int // replay max
	parts map[int]*partition
}

type partition struct {
	epoch, seq, feed uint64
	first            map[string]uint64   // id → seq
	users            map[string][]uint64 // deliverable seqs
	id               map[uint64]string
	sources          map[string]uint64 // → last number applied
}

func newPartition(epoch uint64) *partition {
	return &partition{epoch: epoch, seq: epoch, first: map[string]uint64{}, users: map[string][]uint64{}, id: map[uint64]string{}, sources: map[string]uint64{}}
}

// copied is the partition as a snapshot has it.
func (p *partition) copied() *partition {
	c := *p
	c.first, c.id, c.sources, c.users = maps.Clone(p.first), maps.Clone(p.id), maps.Clone(p.sources), map[string][]uint64{}
	for user, seqs := range p.users {
		c.users[user] = slices.Clone(seqs)
	}
	return &c
}

// apply fills in what the journal should answer.
func (m *model) apply(b *journal.Batch) (want journal.Batch) {
	part := m.parts[b.Partition]
	last, known := part.sources[b.Source]
	want = journal.Batch{Done: true, Epoch: part.epoch, Upto: last}
	if b.Last < b.First {
		return want
	}
	if want.Gap = b.First > last+1 && !b.Start; want.Gap {
		return want
	}
	if known && b.First > last+1 {
		want.Lost = b.First - last - 1
	}
	for _, e := range b.Entries {
		if _, there := part.first[e.Event.ID]; e.Number <= last && !there {
			want.Stored = append(want.Stored, journal.Stored{Position: event.Position{Partition: b.Partition}, Duplicate: true})
			continue
		}
		want.Stored = append(want.Stored, m.append(b.Partition, e))
	}
	if b.Last > last {
		part.sources[b.Source], want.Upto = b.Last, b.Last
	}
	return want
}

func (m *model) append(p int, e journal.Entry) journal.Stored {
	part := m.parts[p]
	if seq, ok := part.first[e.Event.ID]; ok {
		s := journal.Stored{Position: event.Position{Partition: p, Seq: seq, Epoch: part.epoch}, Duplicate: true}
		if seq <= part.epoch {
			s.Epoch = 0 // given in an earlier one
		}
		return s
	}
	part.seq++
	user := part.users[e.Event.UserID]
	s := journal.Stored{Position: event.Position{Partition: p, Seq: part.seq, Epoch: part.epoch, Prev: event.Prev{Feed: part.feed}}}
	if len(user) > 0 {
		s.Prev.User = user[len(user)-1]
	}
	part.first[e.Event.ID], part.id[part.seq] = part.seq, e.Event.ID
	if e.Deliverable && e.Event.UserID != "" {
		part.feed, part.users[e.Event.UserID] = part.seq, append(user, part.seq)
	}
	return s
}

func (m *model) replay(p int, userID string, after uint64, limit int) (ids []string, more, complete bool) {
	part := m.parts[p]
	kept := part.users[userID]
	dropped := uint64(0)
	if over := len(kept) - m.max; over > 0 {
		dropped = kept[over-1]
		kept = kept[over:]
	}
	for _, seq := range kept {
		if seq <= after {
			continue
		}
		if len(ids) == limit {
			more = true
			break
		}
		ids = append(ids, part.id[seq])
	}
	return ids, more, after == 0 || (after >= part.epoch && after <= part.seq && after >= dropped)
}

func TestJournalKeepsToTheModel(t *testing.T) {
	onEach(t, func(o *journal.Options) { o.Partitions, o.ReplayMax = 2, 6 }, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		rapid.Check(t, func(rt *rapid.T) {
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				rt.Fatal(err)
			}
			m := &model{max: 6, parts: map[int]*partition{}}
			for p := range 2 {
				_, epoch, err := j.Head(t.Context(), p)
				if err != nil {
					rt.Fatal(err)
				}
				m.parts[p] = newPartition(epoch)
			}
			var kept *snapshot
			for range rapid.IntRange(1, 6).Draw(rt, "rounds") {
				compareAppend(rt, t, j, m)
				compareApply(rt, t, j, m)
				compareReplay(rt, t, j, m)
				compareReplay(rt, t, j, m)
				switch rapid.IntRange(0, 9).Draw(rt, "trouble") {
				case 0:
					wipe(rt, t, j, m, client)
				case 1, 2:
					kept = take(rt, t, m, client)
				case 3, 4:
					if kept != nil {
						kept.rollBack(rt, t, j, m, client)
					}
				}
			}
		})
	})
}

// newEpochs looks at the heads after trouble: each partition is in a new epoch, above all that
// was ever there.
func (m *model) newEpochs(rt *rapid.T, t *testing.T, j *journal.Journal, before map[int]*partition) {
	heads, err := j.Heads(t.Context())
	if err != nil {
		rt.Fatal(err)
	}
	for p, h := range heads {
		if h.Seq != h.Epoch || h.Epoch <= before[p].seq {
			rt.Fatalf("partition %d stands at %+v after trouble, and stood at %d", p, h, before[p].seq)
		}
		m.parts[p].epoch, m.parts[p].seq = h.Epoch, h.Epoch
	}
}

func wipe(rt *rapid.T, t *testing.T, j *journal.Journal, m *model, client redis.UniversalClient) {
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		rt.Fatal(err)
	}
	before := m.parts
	m.parts = map[int]*partition{0: newPartition(0), 1: newPartition(0)}
	m.newEpochs(rt, t, j, before)
}

// snapshot is a backup of the server and of the model.
type snapshot struct {
	keys  map[string]string
	parts map[int]*partition
}

// take makes a snapshot; nil where the server cannot.
func take(rt *rapid.T, t *testing.T, m *model, client redis.UniversalClient) *snapshot {
	s := &snapshot{map[string]string{}, map[int]*partition{}}
	keys, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		rt.Fatal(err)
	}
	for _, key := range keys {
		if s.keys[key], err = client.Dump(t.Context(), key).Result(); err != nil {
			return nil // the stand-in has no DUMP of such keys
		}
	}
	for p, part := range m.parts {
		s.parts[p] = part.copied()
	}
	return s
}

// rollBack puts the server into the state of the snapshot, as another run of it.
func (s *snapshot) rollBack(rt *rapid.T, t *testing.T, j *journal.Journal, m *model, client redis.UniversalClient) {
	err := client.FlushAll(t.Context()).Err()
	for key, dump := range s.keys {
		err = errors.Join(err, client.Restore(t.Context(), key, 0, dump).Err())
	}
	before := m.parts
	m.parts = map[int]*partition{}
	for p, part := range s.parts {
		m.parts[p] = part.copied()
		err = errors.Join(err, client.HSet(t.Context(), fmt.Sprintf("spine:{p%02d}:head", p), "run", "0123").Err())
	}
	if err != nil {
		rt.Fatal(err)
	}
	m.newEpochs(rt, t, j, before)
}

// compareApply gives the journal batches of two sources, of which some go on where their source
// stands, some repeat, and some leave a gap.
func compareApply(rt *rapid.T, t *testing.T, j *journal.Journal, m *model) {
	var batches []*journal.Batch
	next := map[string]uint64{}
	for range rapid.IntRange(0, 4).Draw(rt, "batches") {
		user := rapid.SampledFrom([]string{"ana", "bob"}).Draw(rt, "user")
		b := &journal.Batch{Partition: event.Partition(user, "", 2), Source: rapid.SampledFrom([]string{"x/1", "y/2"}).Draw(rt, "source")}
		stream := fmt.Sprint(b.Partition, b.Source)
		begin := max(next[stream], m.parts[b.Partition].sources[b.Source]+1)
		b.First = uint64(max(1, int64(begin)+int64(rapid.SampledFrom([]int{0, 0, 0, 0, -1, -3, 1, 2}).Draw(rt, "off"))))
		b.Last = b.First + uint64(rapid.IntRange(0, 5).Draw(rt, "records")) - 1
		b.Start = rapid.IntRange(0, 4).Draw(rt, "start") == 0
		next[stream] = max(next[stream], b.Last+1)
		for n := b.First; n <= b.Last; n++ {
			for range rapid.SampledFrom([]int{1, 1, 1, 0, 2}).Draw(rt, "entries") {
				e := entry(fmt.Sprint(user, rapid.IntRange(0, 40).Draw(rt, "id")), user, rapid.Bool().Draw(rt, "deliverable"))
				e.Number = n
				b.Entries = append(b.Entries, e)
			}
		}
		batches = append(batches, b)
	}
	if err := j.Apply(t.Context(), batches); err != nil {
		rt.Fatal(err)
	}
	for _, i := range asCalled(batches) {
		got, want := batches[i], m.apply(batches[i])
		if got.Done != want.Done || got.Epoch != want.Epoch || got.Upto != want.Upto || got.Gap != want.Gap || got.Lost != want.Lost || len(got.Stored) != len(want.Stored) {
			rt.Fatalf("batch %d is applied as %+v, want %+v", i, got, want)
		}
		for k := range want.Stored {
			if g, w := got.Stored[k], want.Stored[k]; g.Position != w.Position || g.Duplicate != w.Duplicate {
				rt.Fatalf("entry %d of batch %d is stored as %+v %v, want %+v %v", k, i, g.Position, g.Duplicate, w.Position, w.Duplicate)
			}
		}
	}
}

// asCalled is the order in which Apply makes its calls: the first batch of each source and
// partition, then the second of each, and so on.
func asCalled(batches []*journal.Batch) (order []int) {
	streams := map[string][]int{}
	var names []string
	for i, b := range batches {
		stream := fmt.Sprint(b.Partition, b.Source)
		if streams[stream] == nil {
			names = append(names, stream)
		}
		streams[stream] = append(streams[stream], i)
	}
	for round := 0; len(order) < len(batches); round++ {
		for _, name := range names {
			if s := streams[name]; round < len(s) {
				order = append(order, s[round])
			}
		}
	}
	return order
}

func compareAppend(rt *rapid.T, t *testing.T, j *journal.Journal, m *model) {
	batch := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) journal.Entry {
		user := rapid.SampledFrom([]string{"ana", "bob", "eve", event.Everybody, ""}).Draw(rt, "user")
		return entry(fmt.Sprint(user, rapid.IntRange(0, 40).Draw(rt, "id")), user, rapid.Bool().Draw(rt, "deliverable"))
	}), 1, 12).Draw(rt, "batch")
	out, err := j.Append(t.Context(), batch)
	if err != nil {
		rt.Fatal(err)
	}
	for i, e := range batch {
		want := m.append(event.Partition(e.Event.UserID, e.Event.ID, 2), e)
		if got := out[i]; got.Position != want.Position || got.Duplicate != want.Duplicate {
			rt.Fatalf("event %d is stored as %+v %v, want %+v %v", i, got.Position, got.Duplicate, want.Position, want.Duplicate)
		}
	}
}

func compareReplay(rt *rapid.T, t *testing.T, j *journal.Journal, m *model) {
	user := rapid.SampledFrom([]string{"ana", "bob", "eve", event.Everybody, "nobody"}).Draw(rt, "user")
	p := event.Partition(user, "", 2)
	after := uint64(0)
	if back := rapid.IntRange(-3, 60).Draw(rt, "back"); back < 50 {
		after = uint64(int64(m.parts[p].seq) - int64(back))
	}
	limit := rapid.IntRange(1, 8).Draw(rt, "limit")
	page, err := j.Replay(t.Context(), user, after, limit)
	if err != nil {
		rt.Fatal(err)
	}
	want, more, complete := m.replay(p, user, after, limit)
	if got := ids(t, page.Events); fmt.Sprint(got) != fmt.Sprint(want) || page.More != more || page.Complete != complete {
		rt.Fatalf("replay after %d, limit %d gives %v, more %v, complete %v; want %v, %v, %v", after, limit, got, page.More, page.Complete, want, more, complete)
	}
}

// Two workers at one partition, each sending the same ids, number every id once and leave no
// number out.
func TestTwoJournalsShareAPartition(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		const batches, size = 40, 10
		one := func(o *journal.Options) { o.Partitions = 1 }
		var all sync.WaitGroup
		results := make([][]journal.Stored, 4)
		for w := range results {
			j := start(t, open(t, url), one)
			all.Go(func() {
				for b := range batches {
					var batch []journal.Entry
					for i := range size {
						batch = append(batch, entry(fmt.Sprintf("w%d-%d", w/2, b*size+i), "ana", true))
					}
					out, err := j.Append(t.Context(), batch)
					if err != nil {
						t.Error(err)
						return
					}
					results[w] = append(results[w], out...)
				}
			})
		}
		all.Wait()
		seen, highest, lowest := map[uint64]int{}, uint64(0), ^uint64(0)
		for w, out := range results {
			for i, s := range out {
				if twin := results[w^1][i]; twin.Seq != s.Seq || twin.Duplicate == s.Duplicate {
					t.Fatalf("one id is stored as %+v and %+v", s.Position, twin.Position)
				}
				if !s.Duplicate {
					seen[s.Seq]++
					highest, lowest = max(highest, s.Seq), min(lowest, s.Seq)
				}
			}
		}
		if want := 2 * batches * size; len(seen) != want || highest-lowest != uint64(want)-1 {
			t.Errorf("%d numbers from %d to %d, want %d without a gap", len(seen), lowest, highest, want)
		}
	})
}
