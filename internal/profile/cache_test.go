package profile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func newStore(t *testing.T) (*Store, redis.UniversalClient) {
	t.Helper()
	client, err := rdb.Open(testkit.Miniredis(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return New(client), client
}

func put(t *testing.T, s *Store, id, meta string) {
	t.Helper()
	if err := s.Put(t.Context(), id, json.RawMessage(meta)); err != nil {
		t.Fatal(err)
	}
}

func wantMany(t *testing.T, c *Cache, want string, ids ...string) {
	t.Helper()
	got, err := c.Many(t.Context(), ids)
	if err != nil || fmt.Sprintf("%s", got) != want {
		t.Errorf("the cache gives %s, error %v; want %s", got, err, want)
	}
}

func TestCacheAnswersAgainWithoutRedis(t *testing.T) {
	s, client := newStore(t)
	put(t, s, "ana", `{"n":1}`)
	c := NewCache(s, 100, time.Hour)
	for range 3 {
		wantMany(t, c, `map[ana:{"n":1}]`, "ana", "nobody", "ana", "nobody")
	}
	if got, want := c.Stats(), (Stats{Hits: 8, Misses: 2, Users: 2}); got != want {
		t.Errorf("the figures are %+v, want %+v", got, want)
	}
	_ = client.Close()
	wantMany(t, c, `map[ana:{"n":1}]`, "ana", "nobody")
	got, err := c.Many(t.Context(), []string{"ana", "bob"})
	if fault.KindOf(err) != fault.Unavailable || string(got["ana"]) != `{"n":1}` {
		t.Errorf("without redis the cache gives %s, error %v", got, err)
	}
}

func TestCacheForgets(t *testing.T) {
	s, _ := newStore(t)
	put(t, s, "ana", `{"n":1}`)
	told, timed := NewCache(s, 100, time.Hour), NewCache(s, 100, 50*time.Millisecond)
	wantMany(t, told, `map[ana:{"n":1}]`, "ana")
	wantMany(t, timed, `map[ana:{"n":1}]`, "ana")
	put(t, s, "ana", `{"n":2}`)
	wantMany(t, told, `map[ana:{"n":1}]`, "ana")
	told.Drop("ana")
	wantMany(t, told, `map[ana:{"n":2}]`, "ana")
	testkit.Eventually(t, 5*time.Second, func() bool {
		got, err := timed.Many(t.Context(), []string{"ana"})
		return err == nil && string(got["ana"]) == `{"n":2}`
	}, "the old value's time is over")
}

func TestCacheIsBounded(t *testing.T) {
	s, _ := newStore(t)
	c := NewCache(s, 10, time.Hour)
	for i := range 50 {
		wantMany(t, c, `map[]`, fmt.Sprint("u", i))
	}
	if n := c.Stats().Users; n != 10 {
		t.Errorf("%d users are cached, want 10", n)
	}
	wantMany(t, NewCache(s, 0, time.Hour), `map[]`, "a", "b")
}

// holdAnswers is a hook that keeps the answers of Redis back until it is let go.
type holdAnswers struct {
	fetched, release chan struct{}
}

func (h holdAnswers) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h holdAnswers) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h holdAnswers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		h.fetched <- struct{}{}
		<-h.release
		return err
	}
}

// A change that comes while the old value is on its way is not undone by that value.
func TestDropDuringAFetchIsNotUndone(t *testing.T) {
	s, client := newStore(t)
	put(t, s, "ana", `{"n":1}`)
	hold := holdAnswers{make(chan struct{}), make(chan struct{})}
	client.AddHook(hold)
	c := NewCache(s, 100, time.Hour)
	var fetch sync.WaitGroup
	fetch.Go(func() { wantMany(t, c, `map[ana:{"n":1}]`, "ana") })
	<-hold.fetched // the old value was read, and is not cached yet

	if err := client.HSet(t.Context(), "spine:user:ana", "n", "2").Err(); err != nil {
		t.Fatal(err)
	}
	c.Drop("ana")
	hold.release <- struct{}{}
	fetch.Wait()

	fetch.Go(func() { wantMany(t, c, `map[ana:{"n":2}]`, "ana") })
	<-hold.fetched
	hold.release <- struct{}{}
	fetch.Wait()
	wantMany(t, c, `map[ana:{"n":2}]`, "ana") // cached now: nothing to hold
}

func TestCacheUnderManyHands(t *testing.T) {
	s, _ := newStore(t)
	c := NewCache(s, 50, time.Hour)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 50 {
				id := fmt.Sprint("u", (w+i)%20)
				if w == 0 {
					if err := s.Put(t.Context(), id, json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))); err != nil {
						t.Error(err)
					}
					c.Drop(id)
				}
				if _, err := c.Many(t.Context(), []string{id, "nobody"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for i := range 20 {
		id := fmt.Sprint("u", i)
		got, err := c.Many(t.Context(), []string{id})
		want, lookup := s.Lookup(t.Context(), id)
		if err != nil || (lookup != nil && fault.KindOf(lookup) != fault.NotFound) || string(got[id]) != string(want) {
			t.Errorf("user %s: the cache has %s, the store %s; errors %v", id, got[id], want, errors.Join(err, lookup))
		}
	}
}
