package journal_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/retry"
	"eventspine/internal/testkit"
)

// Two workers store while the server is killed again and again. Every event is stored once,
// no number is used twice, and the numbers of each epoch have no gap.
func TestServerKilledWhileTwoWorkersStore(t *testing.T) {
	server := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	const batches, size = 120, 10
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all sync.WaitGroup
	progress := make(chan struct{}, 2*batches)
	retries := make([]int, 2)
	for w := range 2 {
		j := start(t, open(t, server.URL()+"?read_timeout=500ms&dial_timeout=500ms"), func(o *journal.Options) { o.Partitions = 1 })
		all.Go(func() {
			for b := range batches {
				var batch []journal.Entry
				for i := range size {
					batch = append(batch, entry(fmt.Sprintf("w%d-%d", w, b*size+i), fmt.Sprint("u", w), true))
				}
				err := retry.Policy{Min: time.Millisecond, Max: 20 * time.Millisecond}.Forever(ctx,
					func(ctx context.Context) error { _, err := j.Append(ctx, batch); return err },
					func(error, time.Duration) { retries[w]++ })
				if err != nil {
					t.Errorf("batch %d of worker %d cannot be stored: %v", b, w, err)
				}
				progress <- struct{}{}
			}
		})
	}
	for range 3 {
		for range batches / 4 {
			<-progress
		}
		server.Kill()
		server.Restart()
	}
	all.Wait()
	if retries[0]+retries[1] == 0 {
		t.Error("no call met the killed server")
	}
	j := start(t, open(t, server.URL()), func(o *journal.Options) { o.Partitions = 1 })
	checkWhole(t, j, 2*batches*size)
}

func checkWhole(t *testing.T, j *journal.Journal, want int) {
	t.Helper()
	events, err := j.Read(t.Context(), 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen, epochs := map[string]bool{}, map[uint64]bool{}
	var before event.Event
	users := map[string]uint64{}
	for _, raw := range events {
		e, err := event.ParseStored(raw)
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq <= before.Seq || (e.Epoch == before.Epoch && e.Seq != before.Seq+1) || (e.Epoch != before.Epoch && e.Seq != e.Epoch+1) {
			t.Errorf("%d of epoch %d follows %d of epoch %d", e.Seq, e.Epoch, before.Seq, before.Epoch)
		}
		if e.Prev.Feed != before.Seq || e.Prev.User != users[e.UserID] {
			t.Errorf("event %d has prev %+v, want %d and %d", e.Seq, e.Prev, users[e.UserID], before.Seq)
		}
		if seen[e.ID] {
			t.Errorf("%s is stored twice", e.ID)
		}
		seen[e.ID], epochs[e.Epoch], users[e.UserID], before = true, true, e.Seq, e
	}
	if len(events) != want || len(epochs) < 2 {
		t.Errorf("%d events in %d epochs, want %d in several", len(events), len(epochs), want)
	}
}

// A server that comes back with older data gives none of the lost numbers again.
func TestRolledBackServer(t *testing.T) {
	server := testkit.StartRedis(t)
	client := open(t, server.URL())
	j := start(t, client, nil)
	kept := add(t, j, entry("a1", "ana", true))[0]
	if err := client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	lost := add(t, j, entry("a2", "ana", true), entry("a3", "ana", true))
	server.Kill()
	server.Restart()

	var out []journal.Stored
	testkit.Eventually(t, 5*time.Second, func() bool {
		var err error
		out, err = j.Append(t.Context(), []journal.Entry{entry("a1", "ana", true), entry("a2", "ana", true)})
		return err == nil
	}, "the server is back")
	if !out[0].Duplicate || out[0].Seq != kept.Seq || out[0].Epoch != 0 {
		t.Errorf("what was kept is %+v, want a duplicate of %d", out[0], kept.Seq)
	}
	if out[1].Duplicate || out[1].Seq <= lost[1].Seq || out[1].Prev.User != kept.Seq {
		t.Errorf("what was lost is stored as %+v; the lost head was %d", out[1], lost[1].Seq)
	}
	if ended := client.HGet(t.Context(), keyOf("ana", "head"), "ended").Val(); ended != fmt.Sprint(lost[1].Seq) {
		t.Errorf("the old epoch is said to have ended at %s; this process saw %d", ended, lost[1].Seq)
	}
	page := replay(t, j, "ana", lost[1].Seq, 0)
	wantIDs(t, page.Events, "a2")
	if page.Complete {
		t.Error("a replay across the rollback is called complete")
	}
	if files, err := filepath.Glob("dump.rdb"); err != nil || len(files) > 0 {
		t.Errorf("the server wrote %v into the sources, error %v", files, err)
	}
}
