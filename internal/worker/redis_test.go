package worker

import (
	"context"
	"fmt"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
	"eventspine/internal/testkit"
)

// TestARedisThatBeginsToEvict: a worker ends with a clear error when the policy is changed under
// it, and what it had taken in before is stored.
func TestARedisThatBeginsToEvict(t *testing.T) {
	redis := testkit.StartRedis(t)
	s := newStage(t, redis.URL())
	ended := make(chan error, 1)
	c := s.config()
	d, err := Open(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- Run(within(t), c, d) }()
	p := pusher(t, d.Endpoint())
	push(t, p, `{"id":"before","type":"a.b"}`)
	testkit.Eventually(t, patience, func() bool { return inJournal(t, redis.URL()) == 1 }, "the event is stored")
	redis.Do("+OK", "CONFIG SET maxmemory-policy allkeys-lru")
	select {
	case err := <-ended:
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "allkeys-lru") || !strings.Contains(err.Error(), "noeviction") {
			t.Errorf("Run gave %v", err)
		}
	case <-within(t).Done():
		t.Fatal("the worker goes on")
	}
}

// client is a client of the server at url.
func client(t testing.TB, url string) *goredis.Client {
	t.Helper()
	o, err := goredis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := goredis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// inJournal is how many events the journal holds, or -1 while the server does not tell.
func inJournal(t testing.TB, url string) int64 {
	t.Helper()
	c := client(t, url)
	defer func() { _ = c.Close() }()
	ctx := context.Background()
	keys, err := c.Keys(ctx, "spine:*:journal").Result()
	if err != nil {
		return -1
	}
	n := int64(0)
	for _, k := range keys {
		here, err := c.XLen(ctx, k).Result()
		if err != nil {
			return -1
		}
		n += here
	}
	return n
}

// TestARedisThatLoads: what comes in while Redis reads its file is stored after that, once.
func TestARedisThatLoads(t *testing.T) {
	const keys, before, during = 12_000, 50, 100
	redis := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no",
		"--key-load-delay", "400")
	c := client(t, redis.URL())
	fill := c.Pipeline()
	for i := range keys { // some five seconds of loading; it answers after each 1,024 commands
		fill.Set(t.Context(), fmt.Sprint("ballast-", i), "", 0)
	}
	if _, err := fill.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, redis.URL())
	w := s.worker(t, nil)
	p := pusher(t, w.Endpoint())
	for i := range before {
		push(t, p, fmt.Sprintf(`{"id":"before-%d","type":"a.b"}`, i))
	}
	testkit.Eventually(t, patience, func() bool { return inJournal(t, redis.URL()) == before }, "the first are stored")
	redis.Kill()
	redis.Restart()
	loading := func() bool {
		err := c.Get(t.Context(), "ballast-0").Err()
		return err != nil && strings.HasPrefix(err.Error(), "LOADING")
	}
	if !loading() {
		t.Fatal("the server does not load: there is nothing to see")
	}
	for i := range during {
		push(t, p, fmt.Sprintf(`{"id":"during-%d","type":"a.b"}`, i))
	}
	testkit.Eventually(t, patience, func() bool { return strings.Contains(w.log.String(), "LOADING") }, "the log says why nothing is stored")
	testkit.Eventually(t, patience, func() bool { return inJournal(t, redis.URL()) == before+during }, "all are stored")
	if err := w.stop(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	if n := inJournal(t, redis.URL()); n != before+during {
		t.Errorf("%d are stored, want %d", n, before+during)
	}
}

// TestARedisWithoutMemory: what comes in while Redis refuses writes is stored when it has room,
// once, and nothing of what was stored is gone.
func TestARedisWithoutMemory(t *testing.T) {
	const before, during = 50, 100
	redis := testkit.StartRedis(t, "--maxmemory-policy", "noeviction")
	s := newStage(t, redis.URL())
	w := s.worker(t, nil)
	p := pusher(t, w.Endpoint())
	for i := range before {
		push(t, p, fmt.Sprintf(`{"id":"before-%d","type":"a.b"}`, i))
	}
	testkit.Eventually(t, patience, func() bool { return inJournal(t, redis.URL()) == before }, "the first are stored")
	redis.Do("+OK", "CONFIG SET maxmemory 1mb")
	for i := range during {
		push(t, p, fmt.Sprintf(`{"id":"during-%d","type":"a.b"}`, i))
	}
	testkit.Eventually(t, patience, func() bool { return strings.Contains(w.log.String(), "out of memory") }, "the log says why nothing is stored")
	if n := inJournal(t, redis.URL()); n != before {
		t.Errorf("%d are stored in a server without memory, want %d", n, before)
	}
	redis.Do("+OK", "CONFIG SET maxmemory 100mb")
	testkit.Eventually(t, patience, func() bool { return inJournal(t, redis.URL()) == before+during }, "all are stored")
	if err := w.stop(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	if n := inJournal(t, redis.URL()); n != before+during {
		t.Errorf("%d are stored, want %d", n, before+during)
	}
}
