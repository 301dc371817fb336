package bridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/bridge/replay"
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
	return &deliverer{users: h, replays: replay.New(replay.Options{Partitions: 16, Registry: prometheus.NewRegistry()}), m: freshMetrics(), log: quiet.New(nil, time.Second)}
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
}

func BenchmarkDeliver(b *testing.B) {
	d := &deliverer{users: &nowhere{}, replays: replay.New(replay.Options{Partitions: 16, Registry: prometheus.NewRegistry()}), m: freshMetrics(), log: quiet.New(nil, time.Second)}
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
