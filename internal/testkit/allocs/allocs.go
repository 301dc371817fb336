// Package allocs measures how much memory a call takes, for tests of code that strangers feed.
package allocs

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// Slack is what a parser may take besides the bytes it was given.
const Slack = 64 << 10

// Of is the number of bytes that f took from the heap, whether it still holds them or not. What
// other goroutines take meanwhile counts too.
func Of(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// AtMost fails the test when f takes more than limit bytes every time of three, so that a
// stranger to f that allocates at the wrong moment does no harm. f must do the same each time.
// What looks like less than half of the limit by a quick count is not counted exactly, so that
// fuzzing stays fast.
func AtMost(t testing.TB, limit int, f func()) {
	t.Helper()
	before := rough()
	f()
	if rough()-before <= uint64(limit/2) {
		return
	}
	least := Of(f)
	for range 2 {
		least = min(least, Of(f))
	}
	if least > limit {
		t.Fatalf("%d bytes taken, the limit is %d", least, limit)
	}
}

// rough is what was allocated so far, short of what is in the spans in use, which is a few
// times 8 KiB at most.
func rough() uint64 {
	sample := [1]metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample[:])
	return sample[0].Value.Uint64()
}
