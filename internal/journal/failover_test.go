package journal_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/retry"
	"eventspine/internal/testkit"
)

// A Sentinel promotes a replica that has not seen the last events: a new epoch, and the source
// is where the replica saw it, so that its sender knows from where to send again.
func TestFailOverWithoutTheLastEvents(t *testing.T) {
	if testing.Short() {
		t.Skip("no servers are started with -short")
	}
	master, replica, url := testkit.RedisSentinel(t)
	client := open(t, url)
	j := start(t, client, nil)
	before := heads(t, j)
	kept := numbered("a", 1, 3)
	apply(t, j, kept)
	if n := client.Do(t.Context(), "WAIT", 1, 5000).Val(); n != int64(1) {
		t.Fatal("the replica did not follow")
	}
	replica.Stop()
	master.Cut() // what comes now does not even wait in the replica's socket
	lost := numbered("a", 4, 6)
	apply(t, j, lost)
	master.Kill()
	replica.Continue()

	ask := question("a")
	testkit.Eventually(t, 30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := j.Apply(ctx, []*journal.Batch{ask})
		if err != nil && fault.KindOf(err) != fault.Unavailable {
			t.Fatal(err)
		}
		return err == nil
	}, "the replica is the master")
	if ask.Upto != 3 || ask.Epoch <= lost.Stored[2].Seq {
		t.Errorf("after the fail-over the source is at %d in epoch %d; it was at 6, event %d", ask.Upto, ask.Epoch, lost.Stored[2].Seq)
	}
	again := numbered("a", 4, 7)
	apply(t, j, again)
	events, err := j.Read(t.Context(), again.Partition, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ids(t, events), []string{"a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7"}; !slices.Equal(got, want) {
		t.Errorf("stored %v, want %v", got, want)
	}
	for p, h := range heads(t, j) {
		if h.Epoch <= before[p].Epoch {
			t.Errorf("partition %d is in epoch %d still", p, h.Epoch)
		}
	}
}

// A server that is made a replica refuses to write; when it is a master again it goes on.
func TestReadOnlyServerIsUnavailable(t *testing.T) {
	server := testkit.StartRedis(t, "--replica-serve-stale-data", "yes")
	j := start(t, open(t, server.URL()), nil)
	apply(t, j, numbered("a", 1, 2))
	server.Do("+OK", "REPLICAOF 127.0.0.1 1")
	b := numbered("a", 3, 4)
	err := j.Apply(t.Context(), []*journal.Batch{b})
	wantKind(t, err, fault.Unavailable)
	if b.Done || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("done %v, %v", b.Done, err)
	}
	server.Do("+OK", "REPLICAOF NO ONE")
	apply(t, j, b)
	if b.Upto != 4 {
		t.Errorf("applied up to %d", b.Upto)
	}
}

// The rights that docs/redis.md names for the user are enough for the journal.
func TestRightsOfTheUser(t *testing.T) {
	server := testkit.StartRedis(t)
	server.Do("+OK", "ACL SETUSER spine on >secret ~spine:* -@all +@read +@write +@connection +@scripting +info +time +config|get")
	j := start(t, open(t, "redis://spine:secret@"+server.Addr()), nil)
	apply(t, j, numbered("a", 1, 2))
	heads(t, j)
	if page := replay(t, j, "ana", 0, 0); len(page.Events) != 2 {
		t.Errorf("%d events", len(page.Events))
	}
	admin := open(t, server.URL())
	if run := admin.HGet(t.Context(), keyOf("ana", "head"), "run").Val(); run == "" || !strings.Contains(admin.Info(t.Context(), "server").Val(), run) {
		t.Errorf("the head names the run %q", run)
	}
}

// A slot moves from one server of a cluster to another while a source stores in it: everything
// is stored once and in order, and the numbers have no gap within an epoch.
func TestClusterMovesASlot(t *testing.T) {
	if testing.Short() {
		t.Skip("a Redis Cluster is not started with -short")
	}
	client, ok := open(t, testkit.RedisCluster(t)).(*redis.ClusterClient)
	if !ok {
		t.Fatal("not a cluster")
	}
	j := start(t, client, nil)
	p := event.Partition("ana", "", 4)
	const batches, size = 150, 10
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var all sync.WaitGroup
	stored := make(chan int, batches)
	all.Go(func() {
		for n := range batches {
			b := numbered("a", uint64(n*size+1), uint64(n*size+size))
			err := retry.Policy{Min: time.Millisecond, Max: 20 * time.Millisecond}.Forever(ctx,
				func(ctx context.Context) error { return j.Apply(ctx, []*journal.Batch{b}) }, nil)
			if err != nil || b.Gap || b.Upto != b.Last {
				t.Errorf("batch %d is applied up to %d, gap %v, %v", n, b.Upto, b.Gap, err)
				return
			}
			stored <- n
		}
	})
	for n := range stored {
		if n == batches/5 {
			break
		}
	}
	moveSlot(t, client, keyOf("ana", "head"))
	all.Wait()
	events, err := j.Read(t.Context(), p, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	epochs := map[uint64]bool{}
	before := event.Event{}
	for i, raw := range events {
		e, err := event.ParseStored(raw)
		if err != nil {
			t.Fatal(err)
		}
		if e.ID != fmt.Sprint("a-", i+1) || e.Epoch == before.Epoch && e.Seq != before.Seq+1 {
			t.Fatalf("event %d is %s at %d, after %d", i+1, e.ID, e.Seq, before.Seq)
		}
		before, epochs[e.Epoch] = e, true
	}
	if len(events) != batches*size || len(epochs) != 2 {
		t.Errorf("%d events in %d epochs", len(events), len(epochs))
	}
	for p, h := range heads(t, j) {
		if h.Epoch == 0 {
			t.Errorf("partition %d has no head", p)
		}
	}
}

// moveSlot moves the slot of key, with all its keys, to another master, as redis-cli does.
func moveSlot(t *testing.T, client *redis.ClusterClient, key string) {
	t.Helper()
	ctx := t.Context()
	slot := int(client.ClusterKeySlot(ctx, key).Val())
	from, err := client.MasterForKey(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	var to *redis.Client
	var nodes []*redis.Client
	var mu sync.Mutex
	if err := client.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		nodes = append(nodes, node)
		if node.Options().Addr != from.Options().Addr {
			to = node
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	id := func(node *redis.Client) string { return node.Do(ctx, "CLUSTER", "MYID").Val().(string) }
	do := func(node *redis.Client, args ...any) {
		t.Helper()
		if err := node.Do(ctx, args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	do(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(from))
	do(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
	host, port, _ := net.SplitHostPort(to.Options().Addr)
	for {
		keys, err := from.ClusterGetKeysInSlot(ctx, slot, 1).Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		do(from, "MIGRATE", host, port, keys[0], 0, 5000)
	}
	do(to, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	for _, node := range nodes {
		if node != to {
			do(node, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
		}
	}
}
