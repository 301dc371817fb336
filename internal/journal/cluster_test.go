package journal_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("a Redis Cluster is not started with -short")
	}
	client := open(t, testkit.RedisCluster(t))
	if err := rdb.Vet(t.Context(), client, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
		t.Fatal(err)
	}
	j := start(t, client, func(o *journal.Options) { o.Partitions = 16 })
	var batch []journal.Entry
	for i := range 500 {
		batch = append(batch, entry(fmt.Sprint("e", i), fmt.Sprint("u", i%50), true))
	}
	out := add(t, j, batch...)
	again := add(t, j, batch...)
	partitions := map[int]bool{}
	for i, s := range out {
		partitions[s.Partition] = true
		if s.Duplicate || !again[i].Duplicate || again[i].Seq != s.Seq {
			t.Fatalf("event %d is stored as %+v, its repeat as %+v", i, s.Position, again[i])
		}
	}
	if len(partitions) != 16 {
		t.Errorf("only %d partitions are used", len(partitions))
	}
	for user := range 50 {
		page := replay(t, j, fmt.Sprint("u", user), 0, 0)
		if len(page.Events) != 10 || !page.Complete {
			t.Errorf("user %d gets %d events, complete %v", user, len(page.Events), page.Complete)
		}
	}
	found, err := j.Lookup(t.Context(), out[7].Partition, []uint64{out[7].Seq})
	if err != nil || string(found[0].Raw) != string(out[7].Raw) {
		t.Errorf("lookup gives %v, error %v", found, err)
	}

	// One node of three loses everything: only its partitions begin a new epoch.
	cluster := client.(*redis.ClusterClient)
	p := event.Partition("u1", "", 16)
	node, err := cluster.MasterForKey(t.Context(), fmt.Sprintf("spine:{p%02d}:head", p))
	if err != nil {
		t.Fatal(err)
	}
	if err := node.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := node.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	begun := 0
	for i, s := range add(t, j, batch...) {
		if s.Epoch != out[i].Epoch {
			begun++
		}
		if s.Duplicate == (s.Epoch != out[i].Epoch) {
			t.Fatalf("event %d is stored as %+v after %+v", i, s, out[i].Position)
		}
	}
	if begun == 0 || begun == len(batch) {
		t.Errorf("%d of %d events are in a new epoch", begun, len(batch))
	}
}
