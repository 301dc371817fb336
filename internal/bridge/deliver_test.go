package bridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/quiet"
	"eventspine/internal/socketio/hub"
)

// fakeHub notes what it is given.
type fakeHub struct {
	got []string
	n   int
}

func (h *fakeHub) ToUser(user, name string, payload []byte, _ hub.Position) int {
	h.got = append(h.got, user+" "+name+" "+string(payload))
	return h.n
}

func (h *fakeHub) ToAll(name string, payload []byte, at hub.Position) int {
	return h.ToUser("everybody", name, payload, at)
}

func newDeliverer(h users) *deliverer {
	return &deliverer{users: h, recent: newRecent(10, 16), m: freshMetrics(), log: quiet.New(nil, time.Second)}
}

// asItem is an event as the follower hands it out.
func asItem(t testing.TB, raw []byte) fanout.Item {
	t.Helper()
	e, err := event.ParseStored(raw)
	if err != nil {
		t.Fatal(err)
	}
	return fanout.Item{Position: e.Position, Topic: event.Topic(e.Type, e.UserID), Body: raw}
}

func TestDeliver(t *testing.T) {
	h := &fakeHub{n: 2}
	d := newDeliverer(h)
	ana, all := stored("ana", "notification.order.shipped", 7, 100), stored("*", "alert", 8, 100)
	again := event.Splice([]byte(`{"id":"i","type":"status","userId":"ana","redelivered":true}`), event.AppendPosition(nil, event.Position{Seq: 10, Epoch: 1}))
	for _, it := range []fanout.Item{
		asItem(t, ana),
		asItem(t, all),
		{Position: event.Position{Seq: 9}, Topic: "notification.x.bob", Body: []byte(`{"type":"notification.x"}`)},
		{Position: event.Position{Seq: 9}, Topic: "notification.x.bob", Body: []byte(`rubbish`)},
		{Topic: "_user.ana", Body: []byte(`{}`)},
		asItem(t, []byte(`{"id":"i","type":"status","seq":9}`)),
		asItem(t, again),
	} {
		d.deliver(it)
	}
	want := []string{"ana notification " + string(ana), "everybody alert " + string(all)}
	if strings.Join(h.got, "\n") != strings.Join(want, "\n") {
		t.Errorf("delivered\n%s\nwant\n%s", strings.Join(h.got, "\n"), strings.Join(want, "\n"))
	}
	for name, c := range map[string]float64{
		"received": testutil.ToFloat64(d.m.received) - 6, "malformed": testutil.ToFloat64(d.m.malformed) - 2,
		"redelivered": testutil.ToFloat64(d.m.redelivered) - 1, "nobody": testutil.ToFloat64(d.m.nobody) - 1,
		"queued": testutil.ToFloat64(d.m.queued) - 4,
	} {
		if c != 0 {
			t.Errorf("%s is off by %v", name, c)
		}
	}
	if _, known := d.recent.before(0, place{0, 10}); known {
		t.Error("what was not pushed counts as delivered")
	}
}

// TestRecent: what came before is known within the window, and never wrong, and memory stays
// bounded.
func TestRecent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "window")
		r := newRecent(n, 3)
		var added []place
		next := [3]uint64{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			p := rapid.IntRange(0, 2).Draw(t, "partition")
			next[p] += uint64(rapid.IntRange(1, 3).Draw(t, "later"))
			r.add(place{p, next[p]})
			added = append(added, place{p, next[p]})
			kept := added[max(0, len(added)-n):]
			at := rapid.IntRange(0, len(kept)-1).Draw(t, "event")
			of := rapid.IntRange(0, 2).Draw(t, "of")
			want := uint64(0)
			for _, q := range kept[:at] {
				if q.partition == of {
					want = q.seq
				}
			}
			if got, ok := r.before(of, kept[at]); ok != (want > 0) || got != want {
				t.Fatalf("before %v in partition %d: %d, %v; want %d of %v", kept[at], of, got, ok, want, kept)
			}
			if old := len(added) - n - 1; old >= 0 {
				if _, ok := r.before(of, added[old]); ok {
					t.Fatalf("%v is still known after %d", added[old], n)
				}
			}
			if total := len(r.lanes[0]) + len(r.lanes[1]) + len(r.lanes[2]); total > n {
				t.Fatalf("%d remembered of %d", total, n)
			}
		}
	})
}

func TestRecentOfAnotherJournal(t *testing.T) {
	r := newRecent(4, 1)
	for _, seq := range []uint64{5, 6, 3, 4} {
		r.add(place{0, seq})
	}
	if _, known := r.before(0, place{0, 5}); known {
		t.Error("a number of the old journal is known")
	}
	if got, known := r.before(0, place{0, 4}); !known || got != 3 {
		t.Errorf("before 4: %d, %v", got, known)
	}
	for seq := range uint64(10) {
		r.add(place{0, 100 + seq})
	}
	if len(r.lanes[0]) != 4 {
		t.Errorf("%d remembered", len(r.lanes[0]))
	}
}

func BenchmarkDeliver(b *testing.B) {
	d := &deliverer{users: &nowhere{}, recent: newRecent(recentEvents, 16), m: freshMetrics(), log: quiet.New(nil, time.Second)}
	items := make([]fanout.Item, 1000)
	for i := range items {
		items[i] = asItem(b, stored(fmt.Sprint("user-", i), "notification.order", uint64(i+1), 1700000000000))
	}
	for i := uint64(0); b.Loop(); i++ {
		it := items[i%1000]
		it.Seq = i + 1
		d.deliver(it)
	}
}

type nowhere struct{}

func (*nowhere) ToUser(string, string, []byte, hub.Position) int { return 0 }
func (*nowhere) ToAll(string, []byte, hub.Position) int          { return 0 }
