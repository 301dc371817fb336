// Package testkit starts the servers that tests run against, and waits for conditions
// without sleeping. Only tests import it.
package testkit

import (
	"context"
	"testing"
	"time"

	"eventspine/internal/embedded/redis"
)

// Redis starts a redis-server of its own for the test, on a free loopback port and without
// persistence, and returns its URL. The server ends with the test. Without a redis-server
// binary the test is skipped, or fails where EVENTSPINE_REQUIRE_SERVERS is set.
func Redis(t testing.TB) string {
	t.Helper()
	return StartRedis(t).URL()
}

// EachRedis runs fn as a subtest on the embedded stand-in and on a real redis-server, each
// fresh and empty. With -short only the stand-in is used.
func EachRedis(t *testing.T, fn func(t *testing.T, url string)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) { fn(t, Miniredis(t)) })
	t.Run("redis", func(t *testing.T) {
		if testing.Short() {
			t.Skip("a real redis-server is not started with -short")
		}
		fn(t, Redis(t))
	})
}

// Miniredis starts an embedded stand-in that ends with the test, and returns its URL.
func Miniredis(t testing.TB) string {
	t.Helper()
	s, err := redis.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.URL()
}

// Eventually polls cond, first at once and then every 5 ms, until it is true. After timeout
// the test fails, naming what it waited for.
func Eventually(t testing.TB, timeout time.Duration, cond func() bool, what string) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for this to become true: %s", timeout, what)
		}
	}
}
