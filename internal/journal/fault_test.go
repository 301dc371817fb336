package journal_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/testkit"
)

func TestScriptsAreLoadedAgain(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		before := add(t, j, entry("a1", "ana", true))[0]
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, replay(t, j, "ana", 0, 0).Events, "a1")
		after := add(t, j, entry("a2", "ana", true))[0]
		if after.Epoch != before.Epoch || after.Seq != before.Seq+1 || after.Prev.User != before.Seq {
			t.Errorf("after the scripts were gone %+v follows %+v", after.Position, before.Position)
		}
	})
}

func TestWipedServerBeginsANewEpoch(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		old := add(t, j, entry("a1", "ana", true), entry("a2", "ana", true))
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s := add(t, j, entry("a1", "ana", true))[0]
		if s.Duplicate || s.Epoch <= old[1].Seq || s.Seq != s.Epoch+1 || s.Prev != (event.Prev{}) {
			t.Errorf("after the wipe the event is stored as %+v; before it the head was %d", s, old[1].Seq)
		}
		if got := client.HGet(t.Context(), keyOf("ana", "head"), "ended").Val(); got != fmt.Sprint(old[1].Seq) {
			t.Errorf("the new epoch says that the old one ended at %s, want %d", got, old[1].Seq)
		}
		if got := client.Get(t.Context(), "spine:partitions").Val(); got != "4" {
			t.Errorf("the partition count is %q after the wipe", got)
		}
		if page := replay(t, j, "ana", old[0].Seq, 0); page.Complete || len(page.Events) != 1 {
			t.Errorf("a replay across the wipe says %+v", page)
		}
		if again := add(t, j, entry("a1", "ana", true))[0]; !again.Duplicate || again.Seq != s.Seq {
			t.Errorf("the repeat after the wipe is %+v", again)
		}
	})
}

func TestNewEpochLiesAboveWhateverIsThere(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		const ahead = 1 << 52 // as if the clock had been set back
		err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: keyOf("ana", "journal"), ID: fmt.Sprint(ahead), Values: []string{"m", "0,0,1", "e", `{"a":1}`}}).Err()
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Del(t.Context(), keyOf("ana", "head")).Err(); err != nil {
			t.Fatal(err)
		}
		s := add(t, j, entry("a1", "ana", true))[0]
		if s.Seq <= ahead || s.Seq >= 1<<53 {
			t.Errorf("the new epoch begins at %d, want above %d", s.Seq, ahead)
		}
	})
}

func TestNumbersOfPartitionsLieApart(t *testing.T) {
	const stride = 1 << 28
	onEach(t, nil, func(t *testing.T, j *journal.Journal, _ redis.UniversalClient) {
		_, first, err := j.Head(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for p := 1; p < 4; p++ {
			_, epoch, err := j.Head(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if apart := epoch - first; apart < uint64(p)*stride || apart > uint64(p)*stride+stride/2 {
				t.Errorf("partition %d begins %d after partition 0, want %d strides of %d", p, apart, p, stride)
			}
		}
	})
}

func TestWorkersOnOneServerDoNotFightOverEpochs(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		a, b := start(t, open(t, url), nil), start(t, open(t, url), nil)
		first := add(t, a, entry("a0", "ana", true))[0]
		for i := range 10 {
			if err := a.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := add(t, b, entry(fmt.Sprint("b", i), "ana", true))[0]
			if s.Epoch != first.Epoch || s.Seq != first.Seq+1+uint64(i) {
				t.Fatalf("event %d is stored at %d in epoch %d; the epoch was %d", i, s.Seq, s.Epoch, first.Epoch)
			}
		}
	})
}

// stored follows what an application sees of its events over failures.
type stored struct {
	t     *testing.T
	j     *journal.Journal
	byID  map[string]journal.Stored
	bySeq map[uint64]string
}

func (s *stored) add(n int) error {
	var batch []journal.Entry
	for i := range 10 {
		batch = append(batch, entry(fmt.Sprintf("e%d-%d", n, i), "ana", true))
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
	defer cancel()
	out, err := s.j.Append(ctx, batch)
	for i, got := range out {
		if got.Seq == 0 {
			continue
		}
		id := batch[i].Event.ID
		if other, taken := s.bySeq[got.Seq]; taken && other != id {
			s.t.Fatalf("number %d was given to %s and %s", got.Seq, other, id)
		}
		s.bySeq[got.Seq] = id
		if _, known := s.byID[id]; !known {
			s.byID[id] = got
		}
	}
	return err
}

func TestKilledServer(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		kept bool
	}{
		{"without persistence", nil, false},
		{"with its data intact", []string{"--appendonly", "yes", "--appendfsync", "always"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := testkit.StartRedis(t, c.args...)
			client := open(t, server.URL())
			j := start(t, client, func(o *journal.Options) { o.Partitions = 1 })
			s := &stored{t, j, map[string]journal.Stored{}, map[uint64]string{}}
			for n := range 5 {
				if err := s.add(n); err != nil {
					t.Fatal(err)
				}
			}
			before := s.byID["e4-9"]
			server.Kill()
			wantKind(t, s.add(5), fault.Unavailable)
			server.Restart()
			testkit.Eventually(t, 10*time.Second, func() bool { return s.add(5) == nil }, "the journal is there again")
			if err := s.add(6); err != nil {
				t.Fatal(err)
			}
			after := s.byID["e5-0"]
			if after.Epoch <= before.Seq || after.Seq != after.Epoch+1 || s.byID["e6-9"].Seq != after.Seq+19 {
				t.Errorf("after the restart %+v follows %+v, and ends at %+v", after.Position, before.Position, s.byID["e6-9"].Position)
			}
			again, err := j.Append(t.Context(), []journal.Entry{entry("e4-9", "ana", true)})
			if err != nil || again[0].Duplicate != c.kept {
				t.Errorf("a repeat from before the restart is %+v, error %v", again, err)
			}
			if ended := client.HGet(t.Context(), "spine:{p00}:head", "ended").Val(); ended != fmt.Sprint(before.Seq) {
				t.Errorf("the old epoch is said to have ended at %s, want %d", ended, before.Seq)
			}
			if c.kept && (after.Prev.User != before.Seq || after.Prev.Feed != before.Seq) {
				t.Errorf("prev across the restart is %+v, want %d", after.Prev, before.Seq)
			}
			if page := replay(t, j, "ana", before.Seq, 0); page.Complete {
				t.Error("a replay across epochs is called complete")
			}
		})
	}
}

// A server that was restarted within one tick, and whose scripts another process loaded
// again, is found out all the same.
func TestRestartIsNoticedThoughScriptsAreThere(t *testing.T) {
	server := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	client := open(t, server.URL())
	j := start(t, client, nil)
	before := add(t, j, entry("a1", "ana", true))[0]
	server.Kill()
	server.Restart()
	fresh := start(t, open(t, testkit.Redis(t)), nil) // only to see that its scripts are the same
	add(t, fresh, entry("a1", "ana", true))
	var sha string
	testkit.Eventually(t, 5*time.Second, func() bool {
		var err error
		sha, err = client.ScriptLoad(t.Context(), journal.CommitSource).Result()
		return err == nil
	}, "the server answers")
	if exists, err := client.ScriptExists(t.Context(), sha).Result(); err != nil || !exists[0] {
		t.Fatal("the script is not loaded", err)
	}
	if after := add(t, j, entry("a2", "ana", true))[0]; after.Epoch <= before.Seq {
		t.Errorf("the restart went unnoticed: %+v follows %+v", after.Position, before.Position)
	}
}

func TestFullServerStoresNothingAndRecovers(t *testing.T) {
	server := testkit.StartRedis(t, "--maxmemory-policy", "noeviction")
	client := open(t, server.URL())
	registry := prometheus.NewRegistry()
	j := start(t, client, func(o *journal.Options) {
		o.ReplayWindow = 50 * time.Millisecond
		o.Metrics = registry
	})
	fill := func(n int) ([]journal.Stored, error) {
		var batch []journal.Entry
		for i := range 50 {
			e := entry(fmt.Sprintf("e%d-%d", n, i), fmt.Sprint("u", i%5), true)
			e.Event.Raw = event.Splice(e.Event.Raw, fmt.Appendf(nil, `,"data":"%01000d"`, i))
			batch = append(batch, e)
		}
		return j.Append(t.Context(), batch)
	}
	if _, err := fill(0); err != nil {
		t.Fatal(err)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "3mb").Err(); err != nil {
		t.Fatal(err)
	}
	n, full := 1, error(nil)
	testkit.Eventually(t, 20*time.Second, func() bool {
		_, full = fill(n)
		n++
		return full != nil
	}, "the server is full")
	wantKind(t, full, fault.Overloaded)

	testkit.Eventually(t, 10*time.Second, func() bool { _, err := fill(n); return err == nil }, "the trim made room")
	n++
	if err := client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	heads := map[int]uint64{}
	for p := range 4 {
		heads[p], _, _ = j.Head(t.Context(), p)
	}
	out, err := fill(n)
	wantKind(t, err, fault.Overloaded)
	for i, s := range out {
		if s.Seq != 0 {
			t.Errorf("event %d is said to be stored on a full server: %+v", i, s.Position)
		}
	}
	for p, want := range heads {
		if got, _, err := j.Head(t.Context(), p); err != nil || got != want {
			t.Errorf("partition %d went from %d to %d on a full server, error %v", p, want, got, err)
		}
		if events, err := j.Read(t.Context(), p, want, 0); err != nil || len(events) > 0 {
			t.Errorf("partition %d has %d events beyond its head, error %v", p, len(events), err)
		}
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "100mb").Err(); err != nil {
		t.Fatal(err)
	}
	out, err = fill(n)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range out {
		if s.Duplicate {
			t.Errorf("event %d of the refused batch was remembered", i)
		}
	}
	wantCounted(t, registry, "eventspine_journal_full_calls_total", "eventspine_journal_freed_events_total", "eventspine_journal_stored_events_total", "eventspine_journal_epochs_total")
}

func wantCounted(t *testing.T, registry *prometheus.Registry, names ...string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, f := range families {
		counted[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue()
	}
	for _, name := range names {
		if counted[name] == 0 {
			t.Errorf("%s is not counted; the registry holds %v", name, counted)
		}
	}
}

func TestJournalsShareARegistry(t *testing.T) {
	onEach(t, nil, func(t *testing.T, _ *journal.Journal, client redis.UniversalClient) {
		registry := prometheus.NewRegistry()
		with := func(o *journal.Options) { o.Metrics = registry }
		add(t, start(t, client, with), entry("a1", "ana", true))
		add(t, start(t, client, with), entry("a1", "ana", true))
		wantCounted(t, registry, "eventspine_journal_stored_events_total", "eventspine_journal_repeated_events_total")
	})
}

func TestStoppedServerIsUnavailable(t *testing.T) {
	server := testkit.StartRedis(t)
	j := start(t, open(t, server.URL()+"?read_timeout=200ms"), nil)
	server.Stop()
	_, err := j.Append(t.Context(), []journal.Entry{entry("a1", "ana", true)})
	wantKind(t, err, fault.Unavailable)
	server.Continue()
	// The server may have stored the event after the call gave up.
	s := add(t, j, entry("a1", "ana", true))[0]
	found, err := j.Lookup(t.Context(), s.Partition, []uint64{s.Seq})
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, error %v", found, err)
	}
	wantIDs(t, [][]byte{found[0].Raw}, "a1")
}

func TestForeignKeyIsCorrupt(t *testing.T) {
	onEach(t, nil, func(t *testing.T, j *journal.Journal, client redis.UniversalClient) {
		if err := client.Set(t.Context(), keyOf("ana", "replay:ana"), "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Append(t.Context(), []journal.Entry{entry("a1", "ana", true)}); err == nil {
			t.Error("a replay set of a foreign type was written to")
		}
		client.XAdd(t.Context(), &redis.XAddArgs{Stream: keyOf("bob", "journal"), ID: "7", Values: []string{"x", "y"}})
		_, err := j.Read(t.Context(), event.Partition("bob", "", 4), 0, 0)
		wantKind(t, err, fault.Corrupt)
		_, err = j.Lookup(t.Context(), event.Partition("bob", "", 4), []uint64{7})
		wantKind(t, err, fault.Corrupt)
	})
}

// TestAWipeAfterTheClockWasSetBack: numbers rise also then, as those who only read leave the new epoch
// to those who store, and these know how far the old one went.
func TestAWipeAfterTheClockWasSetBack(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		client := open(t, url)
		worker := start(t, client, nil)
		ahead := add(t, worker, entry("a", "ana", true))[0].Seq + uint64(time.Hour.Milliseconds())*8192
		if err := client.HSet(t.Context(), keyOf("ana", "head"), "seq", ahead).Err(); err != nil { // as if the clock had been an hour ahead
			t.Fatal(err)
		}
		watching := start(t, client, func(o *journal.Options) { o.Observer = true })
		last := add(t, worker, entry("b", "ana", true))[0]
		if last.Seq <= ahead {
			t.Fatalf("the number is %d, want more than %d", last.Seq, ahead)
		}
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		_, _, err := watching.Head(t.Context(), last.Partition)
		wantKind(t, err, fault.Unavailable)
		_, err = watching.Heads(t.Context())
		wantKind(t, err, fault.Unavailable)
		if again := add(t, worker, entry("c", "ana", true))[0]; again.Epoch <= last.Seq {
			t.Errorf("the new epoch %d begins below %d", again.Epoch, last.Seq)
		}
		if seq, _, err := watching.Head(t.Context(), last.Partition); err != nil || seq <= last.Seq {
			t.Errorf("then the head is %d, %v", seq, err)
		}
		empty := start(t, client, func(o *journal.Options) { o.Observer = true }) // one that never saw anything may begin
		if _, _, err := empty.Head(t.Context(), last.Partition); err != nil {
			t.Error(err)
		}
	})
}
