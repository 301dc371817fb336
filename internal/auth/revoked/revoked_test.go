package revoked

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const keep = time.Hour

// start makes a list that follows until the test ends.
func start(t *testing.T, url string, o Options) *List {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	o.Keep = keep
	l := New(client, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = client.Close()
	})
	return l
}

func ready(t *testing.T, l *List) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, func() bool { return l.Ready(t.Context()) == nil }, "the list was read")
}

// who is an identity whose token was issued this long ago.
func who(user, id string, ago time.Duration) auth.Identity {
	return auth.Identity{Subject: user, ID: id, Issued: time.Now().Add(-ago)}
}

func refused(t *testing.T, l *List, id auth.Identity) bool {
	t.Helper()
	err := l.Check(t.Context(), id)
	if err != nil && fault.KindOf(err) != fault.Unauthorized {
		t.Fatal(err)
	}
	return err != nil
}

func TestRevocationsReachEveryProcess(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		api, bridge := start(t, url, Options{}), start(t, url, Options{})
		ready(t, api)
		ready(t, bridge)
		for _, l := range []*List{api, bridge} {
			if refused(t, l, who("ana", "t1", time.Minute)) || refused(t, l, who("bob", "", time.Minute)) {
				t.Error("refused before anything was revoked")
			}
		}
		asked := time.Now()
		until, err := api.Token(t.Context(), "t1")
		if err != nil || until.Before(asked.Add(keep)) {
			t.Fatalf("until %v, %v", until, err)
		}
		if _, err := api.User(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, time.Second, func() bool {
			return refused(t, bridge, who("ana", "t1", time.Minute)) && refused(t, bridge, who("bob", "", time.Minute))
		}, "the other process refuses them too, within a second")
		t.Logf("known everywhere after %v", time.Since(asked))
		select {
		case <-bridge.Changed():
		case <-time.After(time.Second):
			t.Error("the bridge was not told")
		}
		late := start(t, url, Options{}) // such as a bridge that was started again
		ready(t, late)
		for name, l := range map[string]*List{"api": api, "bridge": bridge, "late": late} {
			for _, c := range []struct {
				id   auth.Identity
				want bool
			}{
				{who("ana", "t1", time.Minute), true},
				{who("eve", "t1", 0), true}, // whoever carries it
				{who("ana", "t2", time.Minute), false},
				{who("ana", "", time.Minute), false},
				{who("bob", "any", time.Hour), true},
				{who("bob", "", 0), true}, // made in the same second
				{auth.Identity{Subject: "bob"}, true},
				{who("bob", "new", -2*time.Second), false}, // made afterwards
				{who("bobby", "", time.Hour), false},
			} {
				if got := refused(t, l, c.id); got != c.want {
					t.Errorf("%s: %+v refused: %v", name, c.id, got)
				}
			}
		}
		if got := testutil.ToFloat64(late.m.listed.WithLabelValues("token")); got != 1 || late.String() != "1 tokens and 1 users" {
			t.Errorf("%v tokens are counted of %v", got, late)
		}
	})
}

// TestRedisAwayForAMoment: what is known stays in force, nothing can be revoked, a process that
// knows nothing yet lets nobody or everybody in, as it was told, and what Redis lost comes back.
func TestRedisAwayForAMoment(t *testing.T) {
	server := testkit.StartRedis(t)
	old := start(t, server.URL(), Options{})
	ready(t, old)
	for i := range 3 {
		if _, err := old.Token(t.Context(), fmt.Sprint("t", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := old.User(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if !refused(t, old, who("ana", "t1", 0)) || refused(t, old, who("ana", "t9", 0)) {
		t.Error("without redis the list is not what it was")
	}
	if _, err := old.Token(t.Context(), "t9"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("revoked without redis: %v", err)
	}
	if refused(t, old, who("ana", "t9", 0)) {
		t.Error("what could not be stored is in force here alone")
	}
	closed, opened := start(t, server.URL(), Options{Wait: 50 * time.Millisecond}), start(t, server.URL(), Options{})
	if err := closed.Check(t.Context(), who("ana", "t9", 0)); fault.KindOf(err) != fault.Unavailable || strings.Contains(err.Error(), server.Addr()) {
		t.Errorf("before the first reading: %v", err)
	}
	if closed.Ready(t.Context()) == nil {
		t.Error("ready before the first reading")
	}
	if err := opened.Check(t.Context(), who("ana", "t1", 0)); err != nil {
		t.Errorf("before the first reading: %v", err)
	}
	server.Restart() // it keeps nothing on disk
	for _, l := range []*List{closed, opened} {
		testkit.Eventually(t, 10*time.Second, func() bool {
			return l.Revoked("ana", "t1", time.Now()) && l.Revoked("bob", "", time.Now().Add(-time.Minute))
		}, "whoever did not know has it from who did, by way of redis")
	}
	if err := closed.Check(t.Context(), who("ana", "t9", 0)); err != nil {
		t.Errorf("with redis: %v", err)
	}
	if got := testutil.ToFloat64(old.m.restored); got != 4 {
		t.Errorf("%v were stored again", got)
	}
}

// TestFlushedRedis: data can go without any connection breaking.
func TestFlushedRedis(t *testing.T) {
	url := testkit.Miniredis(t)
	l := start(t, url, Options{})
	ready(t, l)
	if _, err := l.Token(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	if lost, err := l.lost(t.Context()); lost || err != nil {
		t.Fatalf("lost: %v, %v", lost, err)
	}
	if err := l.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if lost, err := l.lost(t.Context()); !lost || err != nil {
		t.Fatalf("lost: %v, %v", lost, err)
	}
	if _, err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := l.client.XLen(t.Context(), key).Val(); n != 1 {
		t.Errorf("%d entries are stored", n)
	}
}

func TestRevocationsEndWithTheTokens(t *testing.T) {
	l := New(nil, Options{Keep: keep})
	now := time.Now()
	l.take([]entry{
		{token: "old", until: now.Add(-time.Second).UnixMilli()}, {token: "new", until: now.Add(time.Hour).UnixMilli()},
		{user: "bob", before: now.Unix() - 100, until: now.Add(time.Hour).UnixMilli()},
		{user: "bob", before: now.Unix() - 200, until: now.Add(time.Minute).UnixMilli()},
	})
	if l.Revoked("", "old", now) || !l.Revoked("", "new", now) || !l.Revoked("bob", "", now.Add(-100*time.Second)) || l.Revoked("bob", "", now.Add(-98*time.Second)) {
		t.Errorf("the list is %v", l)
	}
	l.mu.Lock()
	l.tokens["new"], l.users["bob"] = now.UnixMilli()-1, mark{now.Unix(), now.UnixMilli() - 1}
	l.mu.Unlock()
	l.forget()
	if l.some.Load() || l.String() != "0 tokens and 0 users" {
		t.Errorf("after their time: %v", l)
	}
}

func TestStreamIsBoundedByAge(t *testing.T) {
	l := start(t, testkit.Redis(t), Options{})
	ready(t, l)
	long := time.Now().Add(-2 * keep).UnixMilli()
	for i := range 300 { // redis trims whole nodes of 100
		if err := l.client.Do(t.Context(), "XADD", key, fmt.Sprintf("%d-%d", long, i+1), "jti", fmt.Sprint("x", i), "until", fmt.Sprint(long+1)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Token(t.Context(), "t1"); err != nil {
		t.Fatal(err)
	}
	if n := l.client.XLen(t.Context(), key).Val(); n > 102 {
		t.Errorf("%d entries are kept", n)
	}
	if ttl := l.client.PTTL(t.Context(), key).Val(); ttl < keep || ttl > keep+5*time.Minute {
		t.Errorf("the key is kept for %v", ttl)
	}
	if l.String() != "1 tokens and 0 users" {
		t.Errorf("known are %v", l)
	}
}

func TestWhatMakesNoSense(t *testing.T) {
	l := start(t, testkit.Miniredis(t), Options{})
	ready(t, l)
	for _, id := range []string{"", strings.Repeat("x", auth.MaxID+1)} {
		if _, err := l.Token(t.Context(), id); fault.KindOf(err) != fault.Invalid {
			t.Errorf("token %q: %v", id, err)
		}
	}
	for _, user := range []string{"", strings.Repeat("x", auth.MaxSubject+1)} {
		if _, err := l.User(t.Context(), user); fault.KindOf(err) != fault.Invalid {
			t.Errorf("user %q: %v", user, err)
		}
	}
	for _, fields := range [][]string{{"a", "b"}, {"jti", "x"}, {"jti", "x", "until", "soon"}, {"user", "x", "until", "9999999999999"}, {"jti", "x", "user", "y", "before", "1", "until", "9999999999999"}} {
		if err := l.client.Do(t.Context(), append([]any{"XADD", key, "*"}, toAny(fields)...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.User(t.Context(), "ana"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return testutil.ToFloat64(l.m.malformed) == 5 }, "they are counted")
	if l.String() != "0 tokens and 1 users" {
		t.Errorf("known are %v", l)
	}
}

func toAny(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

func BenchmarkRevoked(b *testing.B) {
	l := New(nil, Options{Keep: keep})
	var all []entry
	for i := range 100_000 {
		all = append(all, entry{token: fmt.Sprint("t", i), until: time.Now().Add(time.Hour).UnixMilli()})
	}
	l.take(all)
	issued := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if l.Revoked("ana", "another", issued) {
			b.Fatal("revoked")
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
	for name, url := range map[string]string{"few rights": "redis://spine:secret@" + server.Addr(), "cluster": testkit.RedisCluster(t)} {
		one, two := start(t, url, Options{}), start(t, url, Options{})
		ready(t, one)
		ready(t, two)
		if _, err := one.Token(t.Context(), "t1"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		testkit.Eventually(t, time.Second, func() bool { return two.Revoked("", "t1", time.Now()) }, name+": the other process knows it")
		if lost, err := two.lost(t.Context()); lost || err != nil {
			t.Errorf("%s: lost %v, %v", name, lost, err)
		}
	}
}
