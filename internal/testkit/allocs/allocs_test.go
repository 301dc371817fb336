package allocs

import (
	"runtime"
	"testing"
)

// verdict is a test that only notes whether it failed.
type verdict struct {
	testing.TB
	failed bool
}

func (v *verdict) Helper()               {}
func (v *verdict) Fatalf(string, ...any) { v.failed = true }

func TestAtMost(t *testing.T) {
	take := func(n int) func() {
		return func() { runtime.KeepAlive(make([]byte, n)) }
	}
	for _, c := range []struct {
		takes, limit int
		fails        bool
	}{{0, 1 << 10, false}, {100 << 10, 200 << 10, false}, {100 << 10, 99 << 10, true}, {1 << 20, Slack, true}, {Slack + 1<<10, Slack, true}} {
		v := &verdict{TB: t}
		AtMost(v, c.limit, take(c.takes))
		if v.failed != c.fails {
			t.Errorf("%d bytes with a limit of %d: failed is %v", c.takes, c.limit, v.failed)
		}
	}
}

// What one call of three takes by chance is forgiven; what comes every time is not.
func TestAtMostForgivesAStranger(t *testing.T) {
	n, v := 0, &verdict{TB: t}
	AtMost(v, 1<<10, func() {
		if n++; n == 1 {
			runtime.KeepAlive(make([]byte, 1<<20))
		}
	})
	if v.failed || n != 4 {
		t.Errorf("failed is %v after %d calls", v.failed, n)
	}
}
