package replay

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/socketio"
)

// TestReplaysWaitForTheirTurn: no more than so many at the same time, in the order they came, and
// all of them in the end.
func TestReplaysWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(Options{Concurrent: 2, Waiting: 100, Wait: time.Minute, Rate: 1000})
		var mu sync.Mutex
		var wg sync.WaitGroup
		running, most := 0, 0
		var order []int
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond) // they come one by one
				leave, _, ok := b.enter(t.Context())
				if !ok {
					t.Error("sent away")
					return
				}
				defer leave()
				mu.Lock()
				running++
				most, order = max(most, running), append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running--
				mu.Unlock()
			})
		}
		wg.Wait()
		for i, n := range order {
			if most != 2 || i != n {
				t.Fatalf("%d at a time, in the order %v", most, order)
			}
		}
	})
}

func TestALineHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplayer(twoSets())
		r.budget = newBudget(Options{Concurrent: 1, Waiting: 1, Wait: 10 * time.Second, Rate: 1000})
		leave, _, _ := r.budget.enter(t.Context())
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			in := Info{}
			if err := json.Unmarshal(r.Sync(t.Context(), "ana", nil).Info, &in); err != nil || in.RetryAfter < 1000 || in.RetryAfter > 11_000 || in.Complete || in.Error == "" || in.Last != nil {
				t.Errorf("%+v %v", in, err)
			}
			if waited := time.Since(began); waited != 10*time.Second {
				t.Errorf("waited %v", waited)
			}
		})
		synctest.Wait()
		if got := r.Recover(t.Context(), "ana", socketio.Recovery{Cursor: json.RawMessage(`0`)}); got.Ok || got.Skip != nil || len(got.Events) != 0 || time.Since(began) != 0 {
			t.Errorf("behind a full line: %+v after %v", got, time.Since(began))
		}
		wg.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, ok := r.budget.enter(ctx); ok || r.budget.waiting.Load() != 0 {
			t.Errorf("%d wait after the end of their contexts", r.budget.waiting.Load())
		}
		leave()
		if _, _, ok := r.budget.enter(t.Context()); !ok {
			t.Error("there is room again")
		}
	})
}

// TestReplaysKeepToTheirRate: whoever they are, and however many.
func TestReplaysKeepToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(Options{Concurrent: 4, Waiting: 1000, Wait: time.Hour, Rate: 1000})
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				leave, _, ok := b.enter(t.Context())
				if !ok {
					t.Error("sent away")
					return
				}
				b.pay(t.Context(), 80, 10<<10) // with the page itself 100
				leave()
			})
		}
		wg.Wait()
		if took := time.Since(began); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("10,000 events at 1,000 a second took %v", took)
		}
	})
}
