package journal_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/testkit"
)

// model is what the journal promises, without its windows: dedupe, contiguous numbers and
// replay in order.
type model struct {
	max   int // replay max
	parts map[int]*partition
}

type partition struct {
	epoch, seq, feed uint64
	first            map[string]uint64   // id → seq
	users            map[string][]uint64 // deliverable seqs
	id               map[uint64]string
}

func (m *model) append(p int, e journal.Entry) journal.Stored {
	part := m.parts[p]
	if seq, ok := part.first[e.Event.ID]; ok {
		return journal.Stored{Position: event.Position{Partition: p, Seq: seq, Epoch: part.epoch}, Duplicate: true}
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
				m.parts[p] = &partition{epoch: epoch, seq: epoch, first: map[string]uint64{}, users: map[string][]uint64{}, id: map[uint64]string{}}
			}
			for range rapid.IntRange(1, 5).Draw(rt, "rounds") {
				compareAppend(rt, t, j, m)
				compareReplay(rt, t, j, m)
				compareReplay(rt, t, j, m)
			}
		})
	})
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
