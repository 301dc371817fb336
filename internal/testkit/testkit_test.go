package testkit_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachRedisIsFreshAndEmpty(t *testing.T) {
	urls := map[string]bool{}
	for range 2 {
		testkit.EachRedis(t, func(t *testing.T, url string) {
			client, err := rdb.Open(url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Close() }()
			if n, err := client.DBSize(t.Context()).Result(); n != 0 || err != nil {
				t.Errorf("%d keys, error %v", n, err)
			}
			if err := client.Set(t.Context(), "k", "v", time.Millisecond).Err(); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, 5*time.Second, func() bool { return client.Exists(t.Context(), "k").Val() == 0 }, "the key expires")
			urls[url] = true
		})
	}
	if want := 4; len(urls) != want && !testing.Short() {
		t.Errorf("%d servers, want %d", len(urls), want)
	}
}

func TestRedisServerComesBackAfterAKill(t *testing.T) {
	server := testkit.StartRedis(t)
	client, err := rdb.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	server.Kill()
	server.Kill()
	if rdb.Ping(t.Context(), client) == nil {
		t.Error("a killed server answers")
	}
	server.Restart()
	testkit.Eventually(t, 5*time.Second, func() bool { return rdb.Ping(t.Context(), client) == nil }, "the server answers again")
}

// failing records a failure in place of the test that it stands for.
type failing struct {
	testing.TB
	message string
	skipped bool
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (f *failing) Fatal(args ...any) { f.message = fmt.Sprint(args...); runtime.Goexit() }
func (f *failing) Skip(args ...any) {
	f.message, f.skipped = fmt.Sprint(args...), true
	runtime.Goexit()
}

func record(t *testing.T, fn func(testing.TB)) *failing {
	f := &failing{TB: t}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer cancel(); fn(f) }()
	<-ctx.Done()
	return f
}

func TestEventuallyFailsWithWhatItWaitedFor(t *testing.T) {
	f := record(t, func(tb testing.TB) {
		testkit.Eventually(tb, 20*time.Millisecond, func() bool { return false }, "pigs fly")
	})
	if f.message != "waited 20ms for this to become true: pigs fly" {
		t.Errorf("it says %q", f.message)
	}
}

func TestMissingServerIsSkippedOrFails(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("EVENTSPINE_REQUIRE_SERVERS", "")
	if err := os.Unsetenv("EVENTSPINE_REQUIRE_SERVERS"); err != nil {
		t.Fatal(err)
	}
	if f := record(t, func(tb testing.TB) { testkit.Redis(tb) }); !f.skipped {
		t.Errorf("without a server it says %q", f.message)
	}
	t.Setenv("EVENTSPINE_REQUIRE_SERVERS", "1")
	if f := record(t, func(tb testing.TB) { testkit.Redis(tb) }); f.skipped || f.message == "" {
		t.Errorf("without a required server it says %q, skipped %v", f.message, f.skipped)
	}
}
