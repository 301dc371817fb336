package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/fault"
)

var away = fault.Errorf("ping", fault.Unavailable, "nobody there")

func TestForeverGoesOnUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, calls := time.Now(), 0
		var waits []time.Duration
		err := Policy{}.Forever(t.Context(), func(context.Context) error {
			if calls++; calls == 40 {
				return nil
			}
			return away
		}, func(err error, wait time.Duration) {
			if !errors.Is(err, away) {
				t.Errorf("told of %v", err)
			}
			waits = append(waits, wait)
		})
		if err != nil || calls != 40 || len(waits) != 39 {
			t.Fatalf("%v after %d calls and %d waits", err, calls, len(waits))
		}
		var sum time.Duration
		for i, w := range waits {
			sum += w
			if w < 25*time.Millisecond || w > 7500*time.Millisecond {
				t.Errorf("wait %d is %v", i, w)
			}
		}
		if waits[0] > 75*time.Millisecond || waits[38] < 2500*time.Millisecond {
			t.Errorf("the first wait is %v, the last %v", waits[0], waits[38])
		}
		if took := time.Since(began); took != sum {
			t.Errorf("it took %v and said it waits %v", took, sum)
		}
	})
}

func TestForeverStopsAtAnErrorThatWillNotPass(t *testing.T) {
	for _, kind := range []fault.Kind{fault.Invalid, fault.Internal, fault.Conflict, fault.Unauthorized} {
		calls := 0
		bad := fault.Errorf("op", kind, "no")
		err := Policy{}.Forever(t.Context(), func(context.Context) error { calls++; return bad }, nil)
		if !errors.Is(err, bad) || fault.KindOf(err) != kind || calls != 1 {
			t.Errorf("%v: %v after %d calls", kind, err, calls)
		}
	}
}

func TestForeverEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err := Policy{Min: time.Second, Max: time.Minute}.Forever(ctx, func(context.Context) error { return away }, nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		cancel()
		calls := 0
		err = Policy{}.Forever(ctx, func(context.Context) error { calls++; return away }, nil)
		if err == nil || calls > 1 {
			t.Errorf("%v after %d calls with a context that had ended", err, calls)
		}
	})
}

func TestForeverKeepsToItsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Policy{Min: time.Second, Max: 4 * time.Second}
		calls := 0
		_ = p.Forever(t.Context(), func(context.Context) error {
			if calls++; calls == 200 {
				return nil
			}
			return away
		}, func(_ error, wait time.Duration) {
			if wait < p.Min/2 || wait > p.Max*3/2 { // jitter is half of the wait to either side
				t.Errorf("wait is %v", wait)
			}
		})
	})
}
