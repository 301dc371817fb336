package journal_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/journal"
)

// TestExtentTellsEpochsAndTrimsApart: what the journal holds, over two epochs, by age, and after
// its old end was trimmed.
func TestExtentTellsEpochsAndTrimsApart(t *testing.T) {
	onEach(t, func(o *journal.Options) { o.Partitions = 1 }, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		ctx := t.Context()
		extent := func(since, lag time.Duration) journal.Extent {
			t.Helper()
			x, err := j.Extent(ctx, 0, since, lag)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		want := func(what string, got journal.Extent, trimmed bool, newer uint64, spans ...journal.Span) {
			t.Helper()
			if got.Trimmed != trimmed || got.Newer != newer || fmt.Sprint(got.Spans) != fmt.Sprint(spans) {
				t.Errorf("%s: %+v, want %v, trimmed %v, newer %d", what, got, spans, trimmed, newer)
			}
		}
		want("nothing", extent(0, 0), false, 0)
		fill := func(name string, n int) journal.Span {
			var batch []journal.Entry
			for i := range n {
				batch = append(batch, entry(name+strconv.Itoa(i), "ana", true))
			}
			out := add(t, j, batch...)
			return journal.Span{Epoch: out[0].Epoch, First: out[0].Seq, Last: out[n-1].Seq}
		}
		old := fill("a", 300)
		want("one epoch", extent(0, 0), false, 0, old)
		want("all of it is young", extent(0, time.Hour), false, 300)
		want("since an hour", extent(time.Hour, 0), false, 0, old)
		if err := client.HSet(ctx, "spine:{p00}:head", "run", "another").Err(); err != nil { // as after a restart
			t.Fatal(err)
		}
		young := fill("b", 20)
		if young.Epoch == old.Epoch {
			t.Fatal("no new epoch began")
		}
		want("two epochs", extent(0, 0), false, 0, old, young)
		if err := client.XTrimMinID(ctx, "spine:{p00}:journal", strconv.FormatUint(old.First+7, 10)).Err(); err != nil {
			t.Fatal(err)
		}
		old.First += 7
		want("trimmed", extent(0, 0), true, 0, old, young)
		want("trimmed, since an hour", extent(time.Hour, 0), true, 0, old, young)
		if err := client.XTrimMinID(ctx, "spine:{p00}:journal", strconv.FormatUint(young.First+1, 10)).Err(); err != nil {
			t.Fatal(err)
		}
		young.First++
		want("trimmed beyond the epoch", extent(0, 0), true, 0, young)
		if err := client.Del(ctx, "spine:{p00}:journal").Err(); err != nil {
			t.Fatal(err)
		}
		want("gone", extent(0, 0), true, 0)
		if n, err := journal.Partitions(ctx, client); n != 1 || err != nil {
			t.Errorf("%d partitions, %v", n, err)
		}
		if _, err := j.Extent(ctx, 1, 0, 0); err == nil {
			t.Error("a partition that is not there has an extent")
		}
	})
}

// TestExtentByAge: of events stored at different times, those between two ages.
func TestExtentByAge(t *testing.T) {
	onEach(t, func(o *journal.Options) { o.Partitions, o.ReplayWindow = 1, 1280*time.Millisecond }, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		type mark struct {
			seq uint64
			at  time.Time
		}
		var marks []mark
		tick := time.NewTicker(30 * time.Millisecond) // the journal notes times every 5 ms
		defer tick.Stop()
		for n := range 40 {
			out := add(t, j, journal.Entry{Event: event.Event{ID: strconv.Itoa(n), Raw: []byte(`{"n":1}`)}})
			marks = append(marks, mark{out[0].Seq, time.Now()})
			<-tick.C
		}
		x, err := j.Extent(t.Context(), 0, time.Since(marks[10].at), time.Since(marks[30].at))
		if err != nil || len(x.Spans) != 1 {
			t.Fatalf("%+v, %v", x, err)
		}
		s := x.Spans[0]
		if s.First > marks[10].seq+2 || s.First+2 < marks[10].seq || s.Last > marks[30].seq+1 || s.Last+3 < marks[30].seq || x.Newer != marks[39].seq-s.Last || x.Trimmed {
			t.Errorf("between the ages of %d and %d: %+v", marks[10].seq, marks[30].seq, x)
		}
	})
}
