package rdb_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

// TestOneHoldsTheLease: of many that want it, one works at a time, and each gets its turn.
func TestOneHoldsTheLease(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		client := open(t, url)
		var inside, most, turns atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			l := rdb.NewLease(client, "test", time.Minute)
			all.Go(func() {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for held := false; !held; <-tick.C {
					var err error
					held, err = l.Hold(t.Context(), func(ctx context.Context) error {
						most.Store(max(most.Load(), inside.Add(1)))
						turns.Add(1)
						defer inside.Add(-1)
						return l.Check(ctx)
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if turns.Load() != 8 || most.Load() != 1 {
			t.Errorf("%d turns, at most %d at once", turns.Load(), most.Load())
		}
		boom := errors.New("boom")
		if held, err := rdb.NewLease(client, "test", time.Minute).Hold(t.Context(), func(context.Context) error { return boom }); !held || !errors.Is(err, boom) {
			t.Errorf("%v, %v", held, err)
		}
	})
}

// TestALostLeaseEndsTheWork: taken away, and with a Redis that is gone, its holder stops before
// another can begin, and does not take it from that one.
func TestALostLeaseEndsTheWork(t *testing.T) {
	for name, lose := range map[string]func(*testkit.RedisServer, rdb.Client) error{
		"taken": func(_ *testkit.RedisServer, c rdb.Client) error {
			return c.Set(context.Background(), "spine:lease:test", "another", 0).Err()
		},
		"frozen": func(s *testkit.RedisServer, _ rdb.Client) error { s.Stop(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			server := testkit.StartRedis(t)
			client := open(t, server.URL()+"?read_timeout=100ms")
			const ttl = 800 * time.Millisecond
			l := rdb.NewLease(client, "test", ttl)
			began, took := time.Now(), time.Duration(0)
			held, err := l.Hold(t.Context(), func(ctx context.Context) error {
				if err := lose(server, client); err != nil {
					return err
				}
				<-ctx.Done()
				took = time.Since(began)
				return nil
			})
			server.Continue()
			if !held || err != nil || took >= ttl {
				t.Errorf("held %v, %v, ended after %v", held, err, took)
			}
			if name == "taken" {
				if fault.KindOf(l.Check(t.Context())) != fault.Conflict {
					t.Error("the lease of another is renewed")
				}
				if owner := client.Get(t.Context(), "spine:lease:test").Val(); owner != "another" {
					t.Errorf("the lease belongs to %q", owner)
				}
			}
		})
	}
}
