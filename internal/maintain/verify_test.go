package maintain_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/checkpoint"
	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/maintain"
)

var today = time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)

func some(prefix string, n int) []journal.Entry {
	out := make([]journal.Entry, n)
	for i := range out {
		out[i] = posted(prefix+strconv.Itoa(i), today.AddDate(0, 0, -i%2))
	}
	return out
}

func missingIDs(r *maintain.Report) []string {
	ids := []string{}
	for _, m := range r.Missing {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return ids
}

// TestWhatIsMissingIsFoundAndRepaired: documents that were deleted behind our back, and only
// those, are listed, and are back after the repair.
func TestWhatIsMissingIsFoundAndRepaired(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		all := maintain.Request{Limit: 100}
		if r := f.verify(all); !r.Agrees() || len(r.Rows) != 0 {
			t.Errorf("nothing is there: %+v", r)
		}
		events := f.store(some("e", 1500)...)
		f.index(events...)
		if r := f.verify(all); !r.Agrees() || r.Sum() != (maintain.Row{Journal: 1500, Index: 1500}) || len(r.Rows) != partitions {
			t.Fatalf("all is there: %+v", r)
		}
		want := []string{}
		for _, i := range []int{0, 7, 800, 801, 802, 1499} {
			f.remove(events[i])
			want = append(want, events[i].ID)
		}
		slices.Sort(want)
		r := f.verify(all)
		if ids := missingIDs(r); !slices.Equal(ids, want) || r.Agrees() || r.Sum() != (maintain.Row{Journal: 1500, Index: 1494, Missing: 6}) {
			t.Errorf("missing %v, want %v: %+v", ids, want, r.Sum())
		}
		for _, m := range r.Missing {
			if i := slices.IndexFunc(events, func(e event.Event) bool { return e.ID == m.ID }); events[i].Seq != m.Seq || events[i].Partition != m.Partition || events[i].Epoch != m.Epoch || m.Repaired {
				t.Errorf("%+v is not where %+v was", m, events[i].Position)
			}
		}
		if r := f.verify(maintain.Request{Limit: 2}); len(r.Missing) != 2 || r.Sum().Missing != 6 {
			t.Errorf("with a limit of 2: %d listed of %d", len(r.Missing), r.Sum().Missing)
		}
		if r := f.verify(maintain.Request{Limit: 100, Repair: true}); !r.Agrees() || r.Sum() != (maintain.Row{Journal: 1500, Index: 1494, Missing: 6, Repaired: 6}) {
			t.Errorf("the repair: %+v", r.Sum())
		}
		if r := f.verify(all); !r.Agrees() || r.Sum() != (maintain.Row{Journal: 1500, Index: 1500}) {
			t.Errorf("after the repair: %+v", r.Sum())
		}
		page, err := f.archive.Search(t.Context(), archive.Query{AnyUser: true, UserID: events[7].UserID})
		if err != nil || page.Total != 1 || string(page.Events[0]) != string(events[7].Raw) {
			t.Errorf("a repaired document is %s, %v, not %s", page.Events, err, events[7].Raw)
		}
	})
}

// TestAWholeIndexIsRepaired: nothing is left of a day.
func TestAWholeIndexIsRepaired(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		events := f.store(some("e", 2400)...)
		f.index(events...)
		must(t, f.archive.DeleteIndex(t.Context(), f.archive.IndexOf(today)))
		if r := f.verify(maintain.Request{Limit: 10, Repair: true}); r.Sum() != (maintain.Row{Journal: 2400, Index: 1200, Missing: 1200, Repaired: 1200}) || len(r.Missing) != 10 {
			t.Errorf("the repair: %+v", r.Sum())
		}
		if r := f.verify(maintain.Request{}); !r.Agrees() || r.Sum().Index != 2400 {
			t.Errorf("after it: %+v", r.Sum())
		}
	})
}

// TestWhatIsNotMissing: events that were refused, that have the number of an earlier epoch, whose
// index was too old, that are young, or on their way.
func TestWhatIsNotMissing(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		ctx := t.Context()
		first := f.store(some("e", 400)...)
		f.index(first...)
		for p := range partitions { // a Redis that was rolled back: a new epoch that remembers no id
			must(t, f.redis.HSet(ctx, fmt.Sprintf("spine:{p%02d}:head", p), "run", "another").Err())
			buckets, err := f.redis.Keys(ctx, fmt.Sprintf("spine:{p%02d}:ids:*", p)).Result()
			must(t, err)
			must(t, f.redis.Del(ctx, buckets...).Err())
		}
		second := f.store(append(some("e", 300), some("new", 50)...)...)
		if second[0].Epoch == first[0].Epoch || second[0].ID != first[0].ID {
			t.Fatalf("the events were not stored again: %+v", second[0].Position)
		}
		f.index(second...)
		dead := f.store(posted("dead", today))
		_, err := f.archive.Bury(ctx, []archive.Letter{archive.LetterOf(&dead[0], archive.Refusal{Reason: "so it is", Status: 400}, time.Now())})
		must(t, err)
		f.store(posted("ancient", today.AddDate(-1, 0, 0)))
		v := f.verifier()
		must(t, f.redis.Set(ctx, "spine:deleted-day:"+f.archive.IndexOf(today.AddDate(-1, 0, 0)), 1, time.Minute).Err()) // as a Keeper notes it
		refresh := func() {                                                                                              // the dead letters' index has an interval of a second, as all have
			f.plain(ctx, "POST", "/"+f.name+"-dead/_refresh", "")
		}
		refresh()
		r := f.verifyWith(v, maintain.Request{Limit: 10})
		want := maintain.Row{Journal: 752, Index: 450, Moved: 300, Dead: 1, Expired: 1}
		if r.Sum() != want || !r.Agrees() || len(r.Rows) != 2*partitions {
			t.Errorf("%d rows: %+v, want %+v; missing %v", len(r.Rows), r.Sum(), want, r.Missing)
		}
		late := f.store(posted("late", today))[0]
		if r := f.verifyWith(v, maintain.Request{Limit: 10, Lag: time.Hour}); !r.Agrees() || len(r.Rows) != 0 || r.Partitions[late.Partition].Young == 0 {
			t.Errorf("with an hour's lag: %+v", r)
		}
		if r := f.verifyWith(v, maintain.Request{Limit: 10}); r.Sum().Missing != 1 || r.Missing[0].ID != "late" {
			t.Errorf("without: %+v", r.Missing)
		}
		v.Checkpoint = f.checkpoint()
		must(t, v.Checkpoint.Save(ctx, checkpoint.Set{late.Partition: {Seq: late.Seq - 1, Epoch: late.Epoch}}))
		if r := f.verifyWith(v, maintain.Request{Limit: 10}); !r.Agrees() || r.Partitions[late.Partition].Waiting != 1 {
			t.Errorf("before the checkpoint is there: %+v", r.Partitions)
		}
		must(t, v.Checkpoint.Save(ctx, checkpoint.Set{late.Partition: {Seq: late.Seq, Epoch: late.Epoch}}))
		if r := f.verifyWith(v, maintain.Request{Limit: 10}); r.Agrees() || r.Sum().Missing != 1 {
			t.Errorf("when it is there: %+v", r.Sum())
		}
	})
}

// TestRepeatsAreSeen, also where as many documents are missing as there are too many.
func TestRepeatsAreSeen(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		events := f.store(some("e", 1000)...)
		f.index(events...)
		again := events[10]
		again.ID, again.Raw = "again", []byte(strings.Replace(string(events[10].Raw), `"e10"`, `"again"`, 1))
		f.index(again)
		at := slices.IndexFunc(events[11:], func(e event.Event) bool { return e.Partition == again.Partition }) + 11
		f.remove(events[at])
		r := f.verify(maintain.Request{Limit: 10})
		if r.Agrees() || r.Sum() != (maintain.Row{Journal: 1000, Index: 1000, Missing: 1, Repeated: 1}) {
			t.Errorf("%+v", r.Sum())
		}
		if len(r.Repeated) != 1 || r.Repeated[0] != (maintain.Repeated{Partition: again.Partition, Seq: again.Seq, Documents: 2}) || r.Missing[0].ID != events[at].ID {
			t.Errorf("repeated %+v, missing %+v", r.Repeated, r.Missing)
		}
		if r := f.verify(maintain.Request{Repair: true}); r.Agrees() || r.Sum().Repaired != 1 {
			t.Errorf("a repair does not remove what is there twice: %+v", r.Sum())
		}
	})
}

// TestATrimmedJournalIsSaidSo: what it no longer holds is not compared, and not passed over.
func TestATrimmedJournalIsSaidSo(t *testing.T) {
	eachIndex(t, func(f *fixture) {
		events := f.store(some("e", 400)...)
		f.index(events...)
		e := events[200]
		must(t, f.redis.XTrimMinID(t.Context(), fmt.Sprintf("spine:{p%02d}:journal", e.Partition), strconv.FormatUint(e.Seq, 10)).Err())
		r := f.verify(maintain.Request{})
		for _, p := range r.Partitions {
			if p.Trimmed != (p.Partition == e.Partition) {
				t.Errorf("%+v", p)
			}
		}
		if !r.Agrees() || r.Sum().Journal >= 400 || r.Sum().Journal < 200 {
			t.Errorf("%+v", r.Sum())
		}
	})
}

// TestManyEventsInFewRequests: the journal is compared by counts, and only what differs is read.
func TestManyEventsInFewRequests(t *testing.T) {
	f := newFixture(t, genuine(t))
	const n = 200_000
	events := f.store(some("e", n)...)
	for part := range slices.Chunk(events, 20_000) { // documents of the least that is looked at: this is not about indexing
		var body strings.Builder
		for i := range part {
			e := &part[i]
			fmt.Fprintf(&body, "{\"create\":{\"_index\":%q,\"_id\":%q}}\n{\"id\":%[2]q,\"partition\":%d,\"seq\":%d}\n", f.archive.IndexOf(e.Time()), e.ID, e.Partition, e.Seq)
		}
		f.plain(t.Context(), "POST", "/_bulk", body.String())
	}
	requests := func(r maintain.Request) (*maintain.Report, int64, time.Duration) {
		before, began := f.requests.Load(), time.Now()
		report := f.verify(r)
		return report, f.requests.Load() - before, time.Since(began)
	}
	r, used, took := requests(maintain.Request{})
	if !r.Agrees() || r.Sum().Index != n || used > 8 {
		t.Errorf("%+v in %d requests", r.Sum(), used)
	}
	t.Logf("%d events that agree: %d requests, %v", n, used, took)
	for i := range 10 {
		f.remove(events[i*19_999])
	}
	r, used, took = requests(maintain.Request{Limit: 100, Repair: true})
	if r.Sum().Missing != 10 || !r.Agrees() || used > 30 {
		t.Errorf("%+v in %d requests", r.Sum(), used)
	}
	t.Logf("10 missing and repaired: %d requests, %v", used, took)
}
