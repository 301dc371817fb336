package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/ingest"
)

func sized(n, bytes int) unit {
	out := make([]event.Event, n)
	for i := range out {
		out[i] = event.Event{ID: fmt.Sprint(i), Raw: make([]byte, bytes)}
	}
	return unit{events: out}
}

func count(units []unit) (n int) {
	for i := range units {
		n += len(units[i].events)
	}
	return n
}

func TestIntakeGivesWhatIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		puts []int // events in each
		size int
		want []int
	}{
		"one at once":    {[]int{1}, 10, []int{1}},
		"all together":   {[]int{1, 2, 3}, 10, []int{6}},
		"at most 512":    {[]int{500, 12, 500}, 10, []int{512, 500}},
		"a long message": {[]int{1000, 20}, 10, []int{512, 508}},
		"bounded bytes":  {[]int{10}, 1 << 20, []int{4, 4, 2}},
		"one large":      {[]int{2}, 5 << 20, []int{1, 1}},
		"empty put, one": {[]int{0, 1}, 1, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newIntake()
			for _, n := range c.puts {
				if err := q.put(t.Context(), sized(n, c.size)); err != nil {
					t.Fatal(err)
				}
			}
			q.close()
			for _, want := range c.want {
				if got, err := q.take(t.Context()); count(got) != want || err != nil {
					t.Fatalf("took %d, %v; want %d", count(got), err, want)
				}
			}
			if _, err := q.take(t.Context()); !errors.Is(err, io.EOF) || q.len() != 0 || q.bytes != 0 || q.weight != 0 {
				t.Errorf("at the end: %v, %d events, %d bytes", err, q.len(), q.bytes)
			}
		})
	}
}

func TestIntakeHoldsTheReceiverBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newIntake()
		put := make(chan error, 1)
		go func() {
			for range 3 {
				if err := q.put(t.Context(), sized(maxBatchEvents, 1)); err != nil {
					put <- err
				}
			}
			put <- nil
		}()
		synctest.Wait()
		if q.len() != 2*maxBatchEvents {
			t.Fatalf("%d events wait", q.len())
		}
		if _, err := q.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-put; err != nil {
			t.Fatal(err)
		}
		if q.len() != 2*maxBatchEvents {
			t.Errorf("%d events wait after one batch was taken", q.len())
		}
	})
}

func TestIntakeWaitsEndWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newIntake()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("take: %v", err)
		}
		if err := q.put(t.Context(), sized(5*maxBatchEvents, 1)); err != nil {
			t.Fatal(err)
		}
		if err := q.put(ctx, sized(1, 1)); !errors.Is(err, context.DeadlineExceeded) || q.len() != 5*maxBatchEvents {
			t.Errorf("put: %v", err)
		}
	})
}

// Numbered units stay whole, and questions, which have no events, take room.
func TestIntakeOfNumberedUnits(t *testing.T) {
	q := newIntake()
	large, h := sized(10, 1<<20), ingest.Numbered{First: 1}
	large.numbered, large.last = &h, 10
	for range 2 {
		if err := q.put(t.Context(), large); err != nil {
			t.Fatal(err)
		}
		if got, err := q.take(t.Context()); err != nil || len(got) != 1 || count(got) != 10 {
			t.Fatalf("took %d units of %d events, %v", len(got), count(got), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	questions := 0
	for ; questions <= maxWaitingBatch*maxBatchEvents; questions++ {
		if q.put(ctx, unit{numbered: &h}) != nil {
			break
		}
	}
	got, err := q.take(t.Context())
	if questions != maxWaitingBatch*maxBatchEvents || len(got) != maxBatchEvents || err != nil {
		t.Errorf("%d questions had room, %d were taken at once, %v", questions, len(got), err)
	}
}
