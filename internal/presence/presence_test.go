package presence

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is a bridge's hub: connections by user.
type hub struct {
	mu    sync.Mutex
	conns map[string]int
	watch func(string, bool)
}

func (h *hub) Users() iter.Seq2[string, int] {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.All(maps.Clone(h.conns))
}

func (h *hub) Connections(user string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[user]
}

// set gives the user n connections, and says so as the real one does.
func (h *hub) set(user string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.conns[user]
	if h.conns[user] = n; n == 0 {
		delete(h.conns, user)
	}
	if (old == 0) != (n == 0) && h.watch != nil {
		h.watch(user, n > 0)
	}
}

// bridge is a hub with a beacon that runs until the test ends, or stop.
type bridge struct {
	*hub
	*Beacon
	stop func()
}

func open(t *testing.T, url string) rdb.Client {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// idle is a bridge whose beacon does nothing by itself.
func idle(t *testing.T, url string, timeout time.Duration) *bridge {
	h := &hub{conns: map[string]int{}}
	b := &bridge{hub: h, Beacon: NewBeacon(open(t, url), h, Options{Instance: "bridge-1", Timeout: timeout})}
	h.watch = b.Changed
	return b
}

func start(t *testing.T, url string, timeout time.Duration) *bridge {
	t.Helper()
	b := idle(t, url, timeout)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

func state(t *testing.T, r *Reader, user string) State {
	t.Helper()
	s, err := r.Of(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wait(t *testing.T, r *Reader, user string, n int, within time.Duration) {
	t.Helper()
	testkit.Eventually(t, within, func() bool { return state(t, r, user).Connections == n }, fmt.Sprint(user, " has ", n, " connections"))
}

func TestPresenceOverTwoBridges(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		r := NewReader(open(t, url))
		one, two := start(t, url, 3*time.Second), start(t, url, 3*time.Second)
		if s := state(t, r, "ana"); s.Online() || s.Connections != 0 || !s.Since.IsZero() {
			t.Errorf("before anything %+v", s)
		}
		began := time.Now()
		one.set("ana", 1)
		wait(t, r, "ana", 1, time.Second)
		two.set("ana", 2)
		wait(t, r, "ana", 3, time.Second)
		s := state(t, r, "ana")
		if !s.Online() || s.Since.Before(began.Add(-time.Millisecond)) || s.Since.After(time.Now()) {
			t.Errorf("online since %v", s.Since)
		}
		one.set("ana", 4) // no change of who is online: the next beat tells
		wait(t, r, "ana", 6, 3*time.Second)
		if again := state(t, r, "ana"); !again.Since.Equal(s.Since) {
			t.Errorf("online since %v, and then since %v", s.Since, again.Since)
		}
		one.set("ana", 0)
		wait(t, r, "ana", 2, time.Second)
		two.set("bob", 1)
		wait(t, r, "bob", 1, time.Second)
		if got := testutil.ToFloat64(two.m.users); got != 2 {
			t.Errorf("%v users are counted", got)
		}
		two.stop()
		if s := state(t, r, "ana"); s.Online() {
			t.Errorf("after a clean end %+v", s)
		}
	})
}

// TestPresenceAfterACrash: a bridge that beats no more counts for nothing once its time is over,
// and what it left behind is taken away.
func TestPresenceAfterACrash(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		r := NewReader(open(t, url))
		const timeout = 500 * time.Millisecond
		dead, alive := idle(t, url, timeout), start(t, url, timeout)
		dead.set("ana", 2)
		dead.set("bob", 1)
		alive.set("ana", 1)
		if err := dead.beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := state(t, r, "bob"); s.Connections != 1 {
			t.Errorf("before %+v", s)
		}
		wait(t, r, "ana", 3, timeout)
		wait(t, r, "bob", 0, 2*timeout) // nothing more comes from it
		wait(t, r, "ana", 1, 2*timeout)
		if n := r.client.HLen(t.Context(), userKey("ana")).Val(); n != 1 {
			t.Errorf("%d entries are left of ana", n)
		}
		if err := dead.beat(t.Context()); err != nil { // it was not dead, only slow
			t.Fatal(err)
		}
		wait(t, r, "ana", 3, timeout)
		if testutil.ToFloat64(dead.m.rewrites) != 1 {
			t.Error("it did not notice")
		}
	})
}

// TestPresenceAfterRedisLostIt: killed without a disk, away for a moment, and flushed under the
// feet of everybody.
func TestPresenceAfterRedisLostIt(t *testing.T) {
	server := testkit.StartRedis(t)
	r := NewReader(open(t, server.URL()))
	b := start(t, server.URL(), time.Second)
	for i := range 2000 {
		b.set(fmt.Sprint("u", i), 1)
	}
	wait(t, r, "u1999", 1, 5*time.Second)
	server.Kill()
	b.set("u0", 0)
	b.set("late", 1)
	if _, err := r.Of(t.Context(), "u1"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("without redis: %v", err)
	}
	server.Restart()
	testkit.Eventually(t, 10*time.Second, func() bool {
		s, err := r.Of(t.Context(), "late")
		return err == nil && s.Connections == 1
	}, "who came meanwhile is there")
	for _, user := range []string{"u1", "u1000", "u1999"} {
		wait(t, r, user, 1, 5*time.Second)
	}
	if s := state(t, r, "u0"); s.Online() {
		t.Errorf("who went meanwhile: %+v", s)
	}
	if err := r.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"u1", "u1999", "late"} {
		wait(t, r, user, 1, 5*time.Second)
	}
	if testutil.ToFloat64(b.m.rewrites) < 2 {
		t.Error("the losses were not noticed")
	}
}

// TestBridgesThatCrashAgainAndAgain leave no pile behind.
func TestBridgesThatCrashAgainAndAgain(t *testing.T) {
	url := testkit.Miniredis(t)
	client := open(t, url)
	for range 40 {
		b := idle(t, url, 20*time.Second)
		b.set("ana", 1)
		if err := b.beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := client.Del(t.Context(), bridgeKey(b.name)).Err(); err != nil { // as its time does
			t.Fatal(err)
		}
	}
	if n := client.HLen(t.Context(), userKey("ana")).Val(); n > manyBridges+1 {
		t.Errorf("%d entries of dead bridges", n)
	}
	if ttl := client.PTTL(t.Context(), userKey("ana")).Val(); ttl <= 0 || ttl > keyLife {
		t.Errorf("they are kept for %v", ttl)
	}
	if err := client.HSet(t.Context(), userKey("ana"), "x", "nonsense", "y", "-1 5", "z", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if s := state(t, NewReader(client), "ana"); s.Online() {
		t.Errorf("nonsense is %+v", s)
	}
}

func TestOldEntriesAreRenewed(t *testing.T) {
	b := idle(t, testkit.Miniredis(t), time.Minute)
	b.set("ana", 1)
	if err := b.beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.compare(); len(b.dirty) != 0 {
		t.Errorf("marked at once: %v", b.dirty)
	}
	e := b.written["ana"]
	e.at = e.at.Add(-keyLife)
	b.written["ana"] = e
	if b.compare(); len(b.dirty) != 1 {
		t.Errorf("marked when it is old: %v", b.dirty)
	}
}

func BenchmarkBeat(b *testing.B) {
	h := &hub{conns: map[string]int{}}
	for i := range 10_000 {
		h.conns[fmt.Sprint("u", i)] = 1
	}
	client, err := rdb.Open(testkit.Redis(b))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	x := NewBeacon(client, h, Options{Instance: "bridge-1"})
	if err := x.beat(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := x.beat(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// The rights that docs/redis.md names for the user are enough, and so is a Redis Cluster.
func TestOtherServers(t *testing.T) {
	if testing.Short() {
		t.Skip("real servers are not started with -short")
	}
	server := testkit.StartRedis(t)
	server.Do("+OK", "ACL SETUSER spine on >secret ~spine:* &* -@all +@read +@write +@transaction +@connection +@scripting +info +time +config|get")
	for _, url := range []string{"redis://spine:secret@" + server.Addr(), testkit.RedisCluster(t)} {
		b, r := start(t, url, time.Second), NewReader(open(t, url))
		for i := range 50 {
			b.set(fmt.Sprint("u", i), 1)
		}
		for i := range 50 {
			wait(t, r, fmt.Sprint("u", i), 1, 5*time.Second)
		}
		b.set("u7", 0)
		wait(t, r, "u7", 0, 5*time.Second)
		b.stop()
		if s := state(t, r, "u8"); s.Online() {
			t.Errorf("after a clean end %+v", s)
		}
	}
}
