package bridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"eventspine/internal/fanout"
	"eventspine/internal/quiet"
)

// fakeHub notes what it is given.
type fakeHub struct {
	got []string
	n   int
}

func (h *fakeHub) ToUser(user, name string, payload []byte) int {
	h.got = append(h.got, user+" "+name+" "+string(payload))
	return h.n
}

func (h *fakeHub) ToAll(name string, payload []byte) int { return h.ToUser("everybody", name, payload) }

func TestDeliver(t *testing.T) {
	h := &fakeHub{n: 2}
	d := &deliverer{users: h, recent: newRecent(10), m: freshMetrics(), log: quiet.New(nil, time.Second)}
	ana, all := stored("ana", "notification.order.shipped", 7, 100), stored("*", "alert", 8, 100)
	for _, m := range []fanout.Message{
		{Topic: "notification.order.shipped.ana", Body: ana},
		{Topic: "alert.*", Body: all},
		{Topic: "notification.order.shipped.ana", Body: ana},
		{Topic: "notification.x.bob", Body: []byte(`{"type":"notification.x"}`)},
		{Topic: "notification.x.bob", Body: []byte(`rubbish`)},
		{Topic: "_mark.3", Body: []byte(`{}`)},
		{Topic: "status.", Body: []byte(`{"id":"i","type":"status","seq":9}`)},
	} {
		d.deliver(m)
	}
	want := []string{"ana notification " + string(ana), "everybody alert " + string(all)}
	if strings.Join(h.got, "\n") != strings.Join(want, "\n") {
		t.Errorf("delivered\n%s\nwant\n%s", strings.Join(h.got, "\n"), strings.Join(want, "\n"))
	}
	for name, c := range map[string]float64{
		"received": testutil.ToFloat64(d.m.received) - 6, "malformed": testutil.ToFloat64(d.m.malformed) - 2,
		"repeated": testutil.ToFloat64(d.m.repeated) - 1, "nobody": testutil.ToFloat64(d.m.nobody) - 1,
		"queued": testutil.ToFloat64(d.m.queued) - 4,
	} {
		if c != 0 {
			t.Errorf("%s is off by %v", name, c)
		}
	}
}

func TestLateEventOfAnotherWorkerIsNew(t *testing.T) {
	h := &fakeHub{}
	d := &deliverer{users: h, recent: newRecent(10), m: freshMetrics(), log: quiet.New(nil, time.Second)}
	for _, seq := range []uint64{5, 9, 7, 5, 6} {
		d.deliver(fanout.Message{Topic: "status.ana", Body: stored("ana", "status", seq, int64(seq))})
	}
	if len(h.got) != 4 {
		t.Errorf("delivered %d, want 4: %s", len(h.got), h.got)
	}
}

// TestRecent: a repeat within the window is always noticed, a new place never taken for one,
// and memory stays bounded.
func TestRecent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "window")
		r := newRecent(n)
		var added []place
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			p := place{rapid.IntRange(0, 2).Draw(t, "partition"), uint64(rapid.IntRange(1, 6).Draw(t, "seq"))}
			want := true
			for _, q := range added[max(0, len(added)-n):] {
				want = want && p != q
			}
			if got := r.add(p); got != want {
				t.Fatalf("add(%v) = %v after %v", p, got, added)
			}
			if want {
				added = append(added, p)
			}
			if last := added[len(added)-1]; len(added) > 1 && r.before(last, added[len(added)-2]) {
				t.Fatalf("%v came before the one before it in %v", last, added)
			}
			if len(r.seen) > n {
				t.Fatalf("%d remembered of %d", len(r.seen), n)
			}
		}
	})
}

func BenchmarkDeliver(b *testing.B) {
	d := &deliverer{users: &nowhere{}, recent: newRecent(recentEvents), m: freshMetrics(), log: quiet.New(nil, time.Second)}
	bodies := make([][]byte, 1000)
	for i := range bodies {
		bodies[i] = stored(fmt.Sprint("user-", i), "notification.order", uint64(i+1), 1700000000000)
	}
	for i := 0; b.Loop(); i++ {
		d.deliver(fanout.Message{Topic: "notification.order.user", Body: bodies[i%len(bodies)]})
	}
}

type nowhere struct{}

func (*nowhere) ToUser(string, string, []byte) int { return 0 }
func (*nowhere) ToAll(string, []byte) int          { return 0 }
