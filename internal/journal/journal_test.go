package journal_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func open(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// onEach runs fn with a ready journal on each kind of server. change, when not nil, adjusts
// the options.
func onEach(t *testing.T, change func(*journal.Options), fn func(t *testing.T, j *journal.Journal, client redis.UniversalClient)) {
	t.Helper()
	testkit.EachRedis(t, func(t *testing.T, url string) {
		client := open(t, url)
		fn(t, start(t, client, change), client)
	})
}

func start(t testing.TB, client redis.UniversalClient, change func(*journal.Options)) *journal.Journal {
	t.Helper()
	o := journal.DefaultOptions()
	o.Partitions = 4
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if change != nil {
		change(&o)
	}
	j := journal.New(client, o)
	if err := j.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return j
}

func entry(id, userID string, deliverable bool) journal.Entry {
	raw := fmt.Appendf(nil, `{"id":%q,"type":"notification.test","userId":%q}`, id, userID)
	return journal.Entry{Event: event.Event{ID: id, Type: "notification.test", UserID: userID, Raw: raw}, Deliverable: deliverable}
}

func add(t testing.TB, j *journal.Journal, batch ...journal.Entry) []journal.Stored {
	t.Helper()
	out, err := j.Append(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ids(t testing.TB, events [][]byte) []string {
	t.Helper()
	out := []string{}
	for _, raw := range events {
		e, err := event.ParseStored(raw)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.ID)
	}
	return out
}

func wantIDs(t testing.TB, events [][]byte, want ...string) {
	t.Helper()
	if got := ids(t, events); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got events %v, want %v", got, want)
	}
}

func wantKind(t testing.TB, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Fatalf("got error %v of kind %v, want kind %v", err, fault.KindOf(err), want)
	}
}

func TestAppendNumbersInBatchOrder(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		before, epoch, err := j.Head(t.Context(), event.Partition("ana", "", 4))
		if err != nil || before != epoch || epoch == 0 || epoch >= 1<<53 {
			t.Fatalf("an empty partition has head %d, epoch %d, error %v", before, epoch, err)
		}
		out := add(t, j, entry("a1", "ana", true), entry("a2", "ana", false), entry("a3", "ana", true))
		for i, s := range out {
			if s.Seq != epoch+1+uint64(i) || s.Epoch != epoch || s.Duplicate {
				t.Errorf("event %d is stored as %+v in epoch %d", i, s.Position, epoch)
			}
		}
		want := []event.Prev{{}, {User: out[0].Seq, Feed: out[0].Seq}, {User: out[0].Seq, Feed: out[0].Seq}}
		for i, s := range out {
			if s.Prev != want[i] {
				t.Errorf("event %d has prev %+v, want %+v", i, s.Prev, want[i])
			}
		}
		e, err := event.ParseStored(out[2].Raw)
		if err != nil || e.Position != out[2].Position || e.ID != "a3" {
			t.Errorf("the stored bytes %s read as %+v, error %v", out[2].Raw, e, err)
		}
		if seq, _, err := j.Head(t.Context(), out[0].Partition); err != nil || seq != out[2].Seq {
			t.Errorf("the head is %d, want %d; error %v", seq, out[2].Seq, err)
		}
	})
}

func TestAppendDropsRepeats(t *testing.T) {
	cases := map[string]string{
		"any id":    "order-77",
		"UUIDv7":    "01932c07-209b-7be8-a8fd-1f5c3e2a4b6d",
		"old ULID":  "01ARZ3NDEKTSV4RRFFQ69G5FAV",
		"odd bytes": "ü {p01} \\ \"",
	}
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		for name, id := range cases {
			out := add(t, j, entry(id, "ana", true), entry(id+"x", "ana", true), entry(id, "ana", true))
			again := add(t, j, entry(id, "ana", true))[0]
			if out[0].Duplicate || out[1].Duplicate {
				t.Errorf("%s: new events are called repeats: %+v", name, out)
			}
			for _, s := range []journal.Stored{out[2], again} {
				if !s.Duplicate || s.Seq != out[0].Seq || s.Epoch != out[0].Epoch || s.Raw != nil {
					t.Errorf("%s: the repeat is %+v, want a duplicate of %d", name, s, out[0].Seq)
				}
			}
		}
	})
}

func TestRepeatIsFoundByAWorkerWhoseClockIsWrong(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		for _, skew := range []time.Duration{-9 * time.Minute, 9 * time.Minute} {
			other := start(t, client, func(o *journal.Options) { o.Now = func() time.Time { return time.Now().Add(skew) } })
			for _, id := range []string{fmt.Sprint("plain", skew), "01932c07-209b-7be8-a8fd-" + fmt.Sprintf("%012d", skew/time.Minute+20)} {
				add(t, j, entry(id, "ana", true))
				if s := add(t, other, entry(id, "ana", true))[0]; !s.Duplicate {
					t.Errorf("the repeat of %s got through at a clock %v off", id, skew)
				}
			}
		}
	})
}

func TestRepeatIsFoundThroughoutTheWindow(t *testing.T) {
	onEach(t, nil, func(t *testing.T, _ *journal.Journal, client redis.UniversalClient) {
		now := time.Now()
		j := start(t, client, func(o *journal.Options) { o.Now = func() time.Time { return now } })
		add(t, j, entry("plain", "ana", true))
		now = now.Add(10*time.Minute - time.Millisecond)
		if !add(t, j, entry("plain", "ana", true))[0].Duplicate {
			t.Error("a repeat within the dedupe window got through")
		}
		now = now.Add(20 * time.Minute)
		if add(t, j, entry("plain", "ana", true))[0].Duplicate {
			t.Error("an id is remembered for more than three windows")
		}
	})
}

func TestAppendRefusesWhatItCannotStore(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		bad := []journal.Entry{
			{Event: event.Event{UserID: "ana", Raw: []byte(`{"a":1}`)}},
			{Event: event.Event{ID: "x", UserID: "ana"}},
			{Event: event.Event{ID: "x", UserID: "ana", Raw: []byte(`[1,2,3]`)}},
			{Event: event.Event{ID: "x", UserID: "ana", Raw: []byte(`{}`)}},
		}
		for _, b := range bad {
			_, err := j.Append(t.Context(), []journal.Entry{entry("ok", "ana", true), b})
			wantKind(t, err, fault.Invalid)
		}
		if add(t, j, entry("ok", "ana", true))[0].Duplicate {
			t.Error("a refused batch was stored in part")
		}
		if out, err := j.Append(t.Context(), nil); len(out) != 0 || err != nil {
			t.Errorf("an empty batch gives %v, %v", out, err)
		}
	})
}

func TestLargeBatchKeepsOrder(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		var batch []journal.Entry
		for i := range 3000 {
			batch = append(batch, entry(fmt.Sprint("e", i), fmt.Sprint("u", i%7), true))
		}
		batch = append(batch, batch[5], batch[2999])
		out := add(t, j, batch...)
		last := map[int]uint64{}
		for i, s := range out[:3000] {
			if before := last[s.Partition]; s.Seq != before+1 && before != 0 {
				t.Fatalf("event %d got seq %d after %d in partition %d", i, s.Seq, before, s.Partition)
			}
			last[s.Partition] = s.Seq
		}
		if !out[3000].Duplicate || out[3000].Seq != out[5].Seq || !out[3001].Duplicate {
			t.Errorf("repeats in a large batch are %+v", out[3000:])
		}
	})
}

func TestHugeEventsAreStoredInSeveralCalls(t *testing.T) {
	// On a real server only: the stand-in copies the whole stream for every event it reads.
	j := start(t, open(t, testkit.Redis(t)), nil)
	var batch []journal.Entry
	for i := range 40 {
		e := entry(fmt.Sprint("big", i), "ana", true)
		e.Event.Raw = event.Splice(e.Event.Raw, fmt.Appendf(nil, `,"data":%q`, bytes.Repeat([]byte("x"), 256<<10)))
		batch = append(batch, e)
	}
	out := add(t, j, batch...)
	page, err := j.Replay(t.Context(), "ana", 0, 0)
	if err != nil || !page.More || !page.Complete || len(page.Events) < 30 || len(page.Events) > 33 {
		t.Fatalf("a page holds %d events of 256 KiB, more %v, complete %v, error %v", len(page.Events), page.More, page.Complete, err)
	}
	rest, err := j.Replay(t.Context(), "ana", page.Last, 0)
	if err != nil || rest.More || !rest.Complete || len(rest.Events)+len(page.Events) != 40 {
		t.Fatalf("the second page holds %d events, more %v, complete %v, error %v", len(rest.Events), rest.More, rest.Complete, err)
	}
	read, err := j.Read(t.Context(), out[0].Partition, out[0].Seq-1, 0)
	if err != nil || len(read) < 30 || !bytes.Equal(read[0], out[0].Raw) {
		t.Fatalf("the journal gives %d events, error %v", len(read), err)
	}
}

func TestLookupAndReadGiveTheSameBytesAsAppend(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		var out []journal.Stored
		for b := range 20 {
			var batch []journal.Entry
			for i := 15 * b; i < 15*b+15; i++ {
				batch = append(batch, entry(fmt.Sprint("e", i), "ana", i%3 > 0))
			}
			out = append(out, add(t, j, batch...)...)
		}
		p := out[0].Partition
		found, err := j.Lookup(t.Context(), p, []uint64{out[299].Seq, out[299].Seq + 1, out[0].Seq})
		if err != nil || len(found) != 3 {
			t.Fatalf("found %v, error %v", found, err)
		}
		for i, want := range []journal.Stored{out[299], {Position: event.Position{Partition: p, Seq: out[299].Seq + 1}}, out[0]} {
			if found[i].Position != want.Position || !bytes.Equal(found[i].Raw, want.Raw) {
				t.Errorf("lookup %d gives %+v, want %+v", i, found[i], want)
			}
		}
		read, err := j.Read(t.Context(), p, out[9].Seq, 0)
		if err != nil || len(read) != 290 || !bytes.Equal(read[0], out[10].Raw) || !bytes.Equal(read[289], out[299].Raw) {
			t.Errorf("the journal gives %d events, error %v", len(read), err)
		}
		if read, err = j.Read(t.Context(), p, out[9].Seq, 7); err != nil || len(read) != 7 {
			t.Errorf("the journal gives %d events for a limit of 7, error %v", len(read), err)
		}
		for _, err := range []error{
			second(j.Read(t.Context(), 4, 0, 1)), second(j.Lookup(t.Context(), -1, nil)), third(j.Head(t.Context(), 99)),
		} {
			wantKind(t, err, fault.Invalid)
		}
	})
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

func TestPartitionCountIsGuarded(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		other := journal.New(client, journal.Options{Partitions: 8})
		wantKind(t, other.Ready(t.Context()), fault.Invalid)
		_, err := other.Append(t.Context(), []journal.Entry{entry("a", "ana", true)})
		wantKind(t, err, fault.Invalid)
		if err := j.Ready(t.Context()); err != nil {
			t.Errorf("the right count is refused: %v", err)
		}
	})
}

func TestAppendIsReadyByItself(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		j := journal.New(open(t, url), journal.Options{})
		if s := add(t, j, entry("a", "ana", true))[0]; s.Seq == 0 || s.Duplicate {
			t.Errorf("stored as %+v", s)
		}
	})
}

func TestCancelledCallIsUnavailable(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := j.Append(ctx, []journal.Entry{entry("a", "ana", true)})
		wantKind(t, err, fault.Unavailable)
	})
}
