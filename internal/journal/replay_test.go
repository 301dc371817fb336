package journal_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/testkit"
)

func replay(t testing.TB, j *journal.Journal, userID string, after uint64, limit int) journal.Page {
	t.Helper()
	page, err := j.Replay(t.Context(), userID, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestReplayGivesAUserTheirOwnDeliverableEvents(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		out := add(t, j, entry("a1", "ana", true), entry("a2", "ana", false), entry("b1", "bob", true),
			entry("a3", "ana", true), entry("all", event.Everybody, true), entry("none", "", true), entry("a4", "ana", true))
		page := replay(t, j, "ana", 0, 0)
		wantIDs(t, page.Events, "a1", "a3", "a4")
		if !page.Complete || page.More || page.Last != out[6].Seq || page.Epoch != out[6].Epoch || page.Head != out[6].Seq {
			t.Errorf("the page says %+v", page)
		}
		if !bytes.Equal(page.Events[1], out[3].Raw) {
			t.Errorf("the replay gives %s, Append gave %s", page.Events[1], out[3].Raw)
		}
		wantIDs(t, replay(t, j, event.Everybody, 0, 0).Events, "all")
		wantIDs(t, replay(t, j, "ana", out[0].Seq, 0).Events, "a3", "a4")
		none := replay(t, j, "ana", out[6].Seq, 0)
		if len(none.Events) != 0 || !none.Complete || none.Last != out[6].Seq {
			t.Errorf("after the last event the page says %+v", none)
		}
		if page := replay(t, j, "ana", 0, 1); page.Last != out[0].Seq || page.Head != out[6].Seq {
			t.Errorf("the first of several pages says %+v", page)
		}
		if page := replay(t, j, "ana", out[6].Seq+1000, 0); page.Complete || page.Head != out[6].Seq {
			t.Errorf("after a number that is yet to come the page says %+v", page)
		}
		if nobody := replay(t, j, "eve", 0, 0); len(nobody.Events) != 0 || !nobody.Complete {
			t.Errorf("for a user without events the page says %+v", nobody)
		}
		for _, bad := range []string{"", strings.Repeat("x", 129)} {
			_, err := j.Replay(t.Context(), bad, 0, 0)
			wantKind(t, err, fault.Invalid)
		}
	})
}

func TestReplayPagesOldestFirst(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		var want, got []string
		for i := range 25 {
			want = append(want, fmt.Sprint("e", i))
			add(t, j, entry(want[i], "ana", true))
		}
		after, pages := uint64(0), 0
		for {
			page := replay(t, j, "ana", after, 10)
			if !page.Complete {
				t.Errorf("page %d is not complete", pages)
			}
			got, after, pages = append(got, ids(t, page.Events)...), page.Last, pages+1
			if !page.More {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || pages != 3 {
			t.Errorf("%d pages gave %v", pages, got)
		}
	})
}

func TestReplayKeepsTheNewestAndSaysSo(t *testing.T) {
	change := func(o *journal.Options) { o.ReplayMax = 10 }
	onEach(t, change, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		var out []journal.Stored
		for i := range 200 {
			out = append(out, add(t, j, entry(fmt.Sprint("e", i), "ana", true))...)
		}
		for _, c := range []struct {
			name     string
			after    uint64
			first    string
			events   int
			complete bool
		}{
			{"everything", 0, "e190", 10, true},
			{"just inside", out[189].Seq, "e190", 10, true},
			{"just outside", out[188].Seq, "e190", 10, false},
			{"long gone", out[0].Seq, "e190", 10, false},
			{"the last", out[198].Seq, "e199", 1, true},
		} {
			page := replay(t, j, "ana", c.after, 0)
			if len(page.Events) != c.events || ids(t, page.Events)[0] != c.first || page.Complete != c.complete {
				t.Errorf("%s: %d events from %v, complete %v", c.name, len(page.Events), ids(t, page.Events)[:1], page.Complete)
			}
		}
		sets := keys(t, client, "*:replay:ana")
		if n := client.ZCard(t.Context(), sets[0]).Val(); n > 100 {
			t.Errorf("the replay set holds %d events, want about 10", n)
		}
	})
}

func keys(t testing.TB, client redis.UniversalClient, pattern string) []string {
	t.Helper()
	got, err := client.Keys(t.Context(), pattern).Result()
	if err != nil || len(got) == 0 {
		t.Fatalf("no key is like %s; error %v", pattern, err)
	}
	return got
}

// A user with a steady rhythm, whose numbers are all equal modulo eight, is trimmed as well.
func TestReplaySetIsTrimmedWhateverTheRhythm(t *testing.T) {
	change := func(o *journal.Options) { o.ReplayMax, o.Partitions = 10, 1 }
	onEach(t, change, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		for i := range 150 {
			var batch []journal.Entry
			for user := range 8 {
				batch = append(batch, entry(fmt.Sprint("e", i, "-", user), fmt.Sprint("u", user), true))
			}
			add(t, j, batch...)
		}
		for user := range 8 {
			if n := client.ZCard(t.Context(), fmt.Sprintf("spine:{p00}:replay:u%d", user)).Val(); n < 10 || n > 60 {
				t.Errorf("the replay set of user %d holds %d events, want 10 and a few", user, n)
			}
		}
	})
}

func TestReplayGivesOnlyTheWindow(t *testing.T) {
	change := func(o *journal.Options) { o.ReplayWindow = 400 * time.Millisecond }
	onEach(t, change, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		old := add(t, j, entry("old1", "ana", true), entry("old2", "ana", true), entry("other", "bob", true))
		n := 0
		testkit.Eventually(t, 5*time.Second, func() bool {
			n++
			s := add(t, j, entry(fmt.Sprint("new", n), "ana", true))[0]
			for _, e := range replay(t, j, "ana", 0, 0).Events {
				if bytes.Contains(e, []byte(`"old2"`)) {
					return false
				}
			}
			return s.Prev.User != old[1].Seq
		}, "the old events leave the window")
		if page := replay(t, j, "ana", old[0].Seq, 0); page.Complete {
			t.Error("a replay from before the window is called complete")
		}
		page := replay(t, j, "ana", 0, 0)
		recent := ids(t, page.Events)
		if !page.Complete || len(recent) == 0 || recent[len(recent)-1] != fmt.Sprint("new", n) {
			t.Errorf("the window holds %v, complete %v", recent, page.Complete)
		}
		testkit.Eventually(t, 5*time.Second, func() bool { return len(replay(t, j, "ana", 0, 0).Events) == 0 }, "the window is empty")
		testkit.Eventually(t, 5*time.Second, func() bool { return client.Exists(t.Context(), keyOf("ana", "replay:ana")).Val() == 0 }, "the replay set expires")
		if page := replay(t, j, "ana", old[1].Seq, 0); page.Complete {
			t.Error("a replay of expired events is called complete")
		}
		back := add(t, j, entry("back", "ana", true))[0]
		if back.Prev != (event.Prev{}) {
			t.Errorf("after a long pause prev is %+v, want none", back.Prev)
		}
		if page := replay(t, j, "ana", back.Seq-1, 0); !page.Complete || len(page.Events) != 1 {
			t.Errorf("the replay of the event after a pause says %+v", page)
		}
	})
}

func keyOf(userID, name string) string {
	return fmt.Sprintf("spine:{p%02d}:%s", event.Partition(userID, "", 4), name)
}

func TestReplayRefusesForeignNumbers(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		s := add(t, j, entry("a1", "ana", true))[0]
		for name, after := range map[string]uint64{"beyond the head": s.Seq + 5, "far beyond": 1<<64 - 1, "an old epoch": s.Epoch - 100} {
			page := replay(t, j, "ana", after, 0)
			if page.Complete {
				t.Errorf("%s: the page is called complete", name)
			}
			if flood := after > s.Seq && len(page.Events) > 0; flood {
				t.Errorf("%s: the page holds %d events", name, len(page.Events))
			}
		}
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if page := replay(t, j, "ana", s.Seq, 0); page.Complete || page.Epoch != 0 {
			t.Errorf("on a wiped server the page says %+v", page)
		}
	})
}

func TestReplaySaysWhenTheJournalLostABody(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		out := add(t, j, entry("a1", "ana", true), entry("a2", "ana", true), entry("a3", "ana", true))
		if err := client.XDel(t.Context(), keyOf("ana", "journal"), fmt.Sprint(out[1].Seq, "-0")).Err(); err != nil {
			t.Fatal(err)
		}
		page := replay(t, j, "ana", out[0].Seq, 0)
		wantIDs(t, page.Events, "a3")
		if page.Complete {
			t.Error("a page with a hole is called complete")
		}
	})
}

func TestJournalIsTrimmedByCount(t *testing.T) {
	change := func(o *journal.Options) { o.JournalMax = 200 }
	onEach(t, change, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		var batch []journal.Entry
		for i := range 1000 {
			batch = append(batch, entry(fmt.Sprint("e", i), "ana", true))
		}
		add(t, j, batch...)
		if n := client.XLen(t.Context(), keyOf("ana", "journal")).Val(); n < 200 || n > 400 {
			t.Errorf("the journal holds %d events, want 200 and a block", n)
		}
	})
}

func TestJournalIsTrimmedByAge(t *testing.T) {
	change := func(o *journal.Options) { o.ReplayWindow, o.JournalAge = 200*time.Millisecond, 300*time.Millisecond }
	onEach(t, change, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		var batch []journal.Entry
		for i := range 400 {
			batch = append(batch, entry(fmt.Sprint("e", i), "ana", true))
		}
		add(t, j, batch...)
		n := 0
		testkit.Eventually(t, 5*time.Second, func() bool {
			n++
			add(t, j, entry(fmt.Sprint("new", n), "ana", true))
			return client.XLen(t.Context(), keyOf("ana", "journal")).Val() < 400
		}, "the old entries leave the journal")
		times := client.ZCard(t.Context(), keyOf("ana", "times")).Val()
		if times > 120 {
			t.Errorf("the time index holds %d entries", times)
		}
		testkit.Eventually(t, 5*time.Second, func() bool {
			return client.Exists(t.Context(), keyOf("ana", "journal"), keyOf("ana", "times")).Val() == 0
		}, "an idle partition's journal expires")
		if s := add(t, j, entry("later", "ana", true))[0]; s.Prev != (event.Prev{}) {
			t.Errorf("after the journal expired prev is %+v", s.Prev)
		}
	})
}

func TestOutdatedDedupeBucketIsFreed(t *testing.T) {
	onEach(t, nil, func(t *testing.T, _ *journal.Journal, client redis.UniversalClient) {
		now := time.Now().Truncate(10 * time.Minute)
		j := start(t, client, func(o *journal.Options) {
			o.Now = func() time.Time { return now }
			o.ReplayWindow = time.Millisecond
		})
		add(t, j, entry("a1", "ana", true))
		bucket := keys(t, client, "*:ids:*")[0]
		if ttl := client.PTTL(t.Context(), bucket).Val(); ttl < 10*time.Minute || ttl > 12*time.Minute {
			t.Errorf("the bucket lives for %v", ttl)
		}
		client.PExpire(t.Context(), bucket, 59*time.Second) // as the window after its last id is over
		now = now.Add(20 * time.Minute)
		testkit.Eventually(t, 5*time.Second, func() bool {
			now = now.Add(time.Millisecond)
			add(t, j, entry(fmt.Sprint("n", now.UnixMilli()), "ana", true))
			return client.Exists(t.Context(), bucket).Val() == 0
		}, "the outdated bucket is unlinked")
	})
}

// TestJournalIsTrimmedByBytes: whatever the events' size, and while it changes, the journal takes no
// more of Redis' memory than twice the bound; and it does not keep fewer events than the bound allows.
func TestJournalIsTrimmedByBytes(t *testing.T) {
	const bound = 2 << 20
	client := open(t, testkit.StartRedis(t).URL())
	j := start(t, client, func(o *journal.Options) { o.JournalBytes = bound })
	n, most := 0, int64(0)
	for _, phase := range []struct{ size, bytes int }{{200, 6 << 20}, {20_000, 10 << 20}, {200, 4 << 20}, {100_000, 20 << 20}, {1000, 6 << 20}} {
		for sent := 0; sent < phase.bytes; {
			var batch []journal.Entry
			for range min(100, 1+400_000/phase.size) {
				n++
				e := entry(fmt.Sprint("e", n), "ana", true)
				e.Event.Raw = event.Splice(e.Event.Raw, fmt.Appendf(nil, `,"data":"%0*d"`, phase.size, n))
				batch = append(batch, e)
				sent += len(e.Event.Raw)
			}
			add(t, j, batch...)
			used := client.MemoryUsage(t.Context(), keyOf("ana", "journal"), 0).Val()
			if most = max(most, used); used > 2*bound+fewestBytes(phase.size) {
				t.Fatalf("the journal takes %d bytes with events of %d, the bound is %d", used, phase.size, bound)
			}
		}
		if held := client.XLen(t.Context(), keyOf("ana", "journal")).Val() * int64(phase.size); held < bound/2 {
			t.Errorf("it holds only %d bytes of events of %d", held, phase.size)
		}
	}
	t.Logf("at most %d bytes with a bound of %d", most, bound)
}

// fewestBytes is what goes beyond the bound: a block that is trimmed as a whole, the 64 events between
// two trims, and the batch that the bound was last compared with.
func fewestBytes(size int) int64 { return int64(64*size) + 1<<20 }

// TestReplaySetsOutliveTheWindow: the time a user's set has left is renewed once a tick, and is
// never less than the window that its newest event is in; also while the server's clock is behind
// what it was, when no tick comes. The same holds for dedupe buckets.
func TestReplaySetsOutliveTheWindow(t *testing.T) {
	const window = 2560 * time.Millisecond // a tick of 10 ms
	for _, ahead := range []time.Duration{0, time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			client := open(t, testkit.Redis(t))
			j := start(t, client, func(o *journal.Options) { o.ReplayWindow, o.DedupeWindow = window, time.Second })
			add(t, j, entry("first", "ana", true))
			if ahead > 0 { // as if the clock had been set back since then
				then := time.Now().Add(ahead).UnixMilli()
				client.HSet(t.Context(), keyOf("ana", "head"), "last", then, "tick", then, "ticked", fmt.Sprint(then, ",", 1))
			}
			for n := range 300 {
				add(t, j, entry(fmt.Sprint("a", n), "ana", true))
				if left := client.PTTL(t.Context(), keyOf("ana", "replay:ana")).Val(); left < window {
					t.Fatalf("after event %d the set has %v left, less than the window", n, left)
				}
			}
			for _, bucket := range client.Keys(t.Context(), keyOf("ana", "ids:*")).Val() {
				if left := client.PTTL(t.Context(), bucket).Val(); left < time.Minute {
					t.Errorf("the bucket %s has %v left", bucket, left)
				}
			}
		})
	}
}
