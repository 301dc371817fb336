package byuser

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	partitions = 2
	window     = 5 * time.Minute
	newEpoch   = 1 << 20
)

// world is a journal, and a wire to one subscriber, which loses what it is told to.
type world struct {
	mu      sync.Mutex
	heads   []journal.Head
	sets    map[string][]stored
	seen    map[string]int // watchers told of each topic
	away    bool           // the proxy
	broken  bool           // the journal
	changes uint64
	wire    chan fanout.Message
	reads   int
}

type stored struct {
	seq uint64
	raw []byte
	at  time.Time
}

func newWorld() *world {
	w := &world{sets: map[string][]stored{}, seen: map[string]int{}, wire: make(chan fanout.Message, 10_000)}
	for range partitions {
		w.heads = append(w.heads, journal.Head{Seq: newEpoch, Epoch: newEpoch})
	}
	return w
}

// store numbers an event and keeps it. The second result sends it to who subscribed to it by then.
func (w *world) store(user string) (seq uint64, send func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := event.Partition(user, "", partitions)
	h := &w.heads[p]
	prev := uint64(0)
	if set := w.sets[user]; len(set) > 0 && time.Since(set[len(set)-1].at) < window {
		prev = set[len(set)-1].seq
	}
	h.Seq++
	at := event.Position{Partition: p, Seq: h.Seq, Epoch: h.Epoch, Prev: event.Prev{User: prev, Feed: h.Feed}}
	h.Feed = h.Seq
	raw := event.Splice(fmt.Appendf(nil, `{"id":"%s-%d","type":"status","userId":%q}`, user, h.Seq, user), event.AppendPosition(nil, at))
	w.sets[user] = append(w.sets[user], stored{h.Seq, raw, time.Now()})
	return h.Seq, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.seen[event.To(user)] > 0 && !w.away {
			w.wire <- fanout.Message{Topic: event.TopicTo + event.EncodeUserID(user), Body: raw}
		}
	}
}

// mark says where the partitions end.
func (w *world) mark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, h := range w.heads {
		if !w.away {
			w.wire <- fanout.Message{Topic: fmt.Sprint(event.TopicMark, p), Body: fmt.Appendf(nil, `{"seq":%d,"epoch":%d,"feed":%d}`, h.Seq, h.Epoch, h.Feed)}
		}
	}
}

func (w *world) Recv(ctx context.Context) (fanout.Message, error) {
	select {
	case m := <-w.wire:
		return m, nil
	case <-ctx.Done():
		return fanout.Message{}, ctx.Err()
	}
}

func (w *world) add(topic string, n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[topic] += n
	return nil
}

func (w *world) Subscribe(topic string) error {
	time.Sleep(time.Millisecond) // until it is in effect
	return w.add(topic, 1)
}
func (w *world) Unsubscribe(topic string) error { return w.add(topic, -1) }

func (w *world) Confirm(ctx context.Context) error {
	for {
		w.mu.Lock()
		away := w.away
		w.mu.Unlock()
		if !away {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *world) Changes() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes
}
func (w *world) Ready() error                { return nil }
func (w *world) Close(context.Context) error { return nil }

func (w *world) fails() error {
	if w.broken {
		return fault.Errorf("", fault.Unavailable, "away")
	}
	return nil
}

func (w *world) Heads(context.Context) ([]journal.Head, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.heads), w.fails()
}

func (w *world) Newest(_ context.Context, users []string) ([]uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]uint64, len(users))
	for i, user := range users {
		if set := w.sets[user]; len(set) > 0 {
			out[i] = set[len(set)-1].seq
		}
	}
	return out, w.fails()
}

func (w *world) Replay(_ context.Context, user string, after uint64, limit int) (journal.Page, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	h := w.heads[event.Partition(user, "", partitions)]
	page := journal.Page{Last: after, Complete: after >= h.Epoch && after <= h.Seq, Epoch: h.Epoch, Head: h.Seq}
	for _, s := range w.sets[user] {
		switch {
		case s.seq <= after:
		case time.Since(s.at) > window:
			page.Complete = false
		case len(page.Events) == limit:
			page.More = true
			return page, w.fails()
		default:
			page.Events, page.Last = append(page.Events, s.raw), s.seq
		}
	}
	return page, w.fails()
}

// reader takes what the follower hands out.
type reader struct {
	mu  sync.Mutex
	got map[string][]uint64
}

func (r *reader) take(user string) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.got[user]
	delete(r.got, user)
	return out
}

// start follows in a bubble; the end waits for all of it.
func start(t *testing.T, w *world) (*Follower, *reader, func()) {
	t.Helper()
	f, err := New(Options{Feed: w, Journal: w, Partitions: partitions, Window: window, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{got: map[string][]uint64{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			it, err := f.Recv(ctx)
			if err != nil {
				return
			}
			e, err := event.ParseStored(it.Body)
			if err != nil || e.Seq != it.Seq {
				t.Errorf("handed out %+v: %v", it, err)
			}
			r.mu.Lock()
			r.got[e.UserID] = append(r.got[e.UserID], it.Seq)
			r.mu.Unlock()
		}
	})
	return f, r, func() {
		cancel()
		wg.Wait()
		if err := f.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func watch(t *testing.T, f *Follower, users ...string) {
	t.Helper()
	for _, user := range users {
		f.Watch(user, true)
	}
	for _, user := range users {
		if !f.Await(t.Context(), user) {
			t.Fatalf("%s is not followed", user)
		}
	}
}

func TestEventsOfWhoIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for range 10 {
			w.store("ana") // before
		}
		f, r, end := start(t, w)
		defer end()
		watch(t, f, "ana", event.Everybody)
		var want []uint64
		for i := range 20 {
			seq, send := w.store("ana")
			want = append(want, seq)
			if i != 7 {
				send() // one is lost
			}
			_, send = w.store("bob")
			send()
			_, send = w.store(event.Everybody)
			send()
		}
		time.Sleep(time.Second)
		if got := r.take("ana"); !slices.Equal(got, want) {
			t.Errorf("ana got %v, want %v", got, want)
		}
		if got := r.take(event.Everybody); len(got) != 20 {
			t.Errorf("%d for everybody", len(got))
		}
		if len(r.take("bob")) > 0 || testutil.ToFloat64(f.m.gaps) != 1 || testutil.ToFloat64(f.m.refilled) != 1 {
			t.Error("bob is not watched, and one was refilled")
		}
		if err := f.Ready(); err != nil {
			t.Error(err)
		}
	})
}

// TestALostTailShows: nothing follows, but a mark.
func TestALostTailShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		f, r, end := start(t, w)
		defer end()
		watch(t, f, "ana")
		w.mark()
		synctest.Wait()
		seq, _ := w.store("ana") // lost
		w.mark()
		time.Sleep(settleLook + 10*time.Millisecond)
		if got := r.take("ana"); !slices.Equal(got, []uint64{seq}) {
			t.Errorf("got %v, want %d", got, seq)
		}
		looks := testutil.ToFloat64(f.m.looks)
		for range 10 {
			w.mark()
		}
		synctest.Wait()
		if testutil.ToFloat64(f.m.looks) > looks+1 {
			t.Error("looked again, although nothing was stored")
		}
	})
}

// TestAnIdleUserCostsNothing: the first event after an hour names none before it, and is whole.
func TestAnIdleUserCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		f, r, end := start(t, w)
		defer end()
		watch(t, f, "ana")
		for i := range 3600 {
			if i < 100 {
				w.store("zoe") // of both partitions
				w.store("bob")
			}
			w.mark()
			time.Sleep(time.Second)
		}
		reads := w.reads
		seq, send := w.store("ana")
		send()
		synctest.Wait()
		if got := r.take("ana"); !slices.Equal(got, []uint64{seq}) || w.reads != reads {
			t.Errorf("got %v after %d readings, want %d", got, w.reads-reads, seq)
		}
		if testutil.ToFloat64(f.m.lost) != 0 {
			t.Error("something counts as lost")
		}
	})
}

// TestWhatTheJournalForgotIsLost, and said to be.
func TestWhatTheJournalForgotIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		f, r, end := start(t, w)
		defer end()
		watch(t, f, "ana")
		w.mark()
		synctest.Wait()
		w.store("ana") // lost
		w.broken = true
		w.mark()
		time.Sleep(2 * window)
		seq, send := w.store("ana")
		send()
		w.mu.Lock()
		w.broken = false
		w.mu.Unlock()
		time.Sleep(5 * time.Second)
		if got := r.take("ana"); !slices.Equal(got, []uint64{seq}) || testutil.ToFloat64(f.m.lost) != 1 {
			t.Errorf("got %v, %v lost", got, testutil.ToFloat64(f.m.lost))
		}
	})
}

func TestTheProxyIsAwayWhenAUserComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.away = true
		f, r, end := start(t, w)
		defer end()
		time.Sleep(time.Second) // what is for everybody waits for the proxy already
		f.Watch("ana", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if !f.Await(ctx, "ana") || ctx.Err() == nil || f.Ready() == nil {
			t.Error("it did not wait for the proxy, or lets events go that come before it")
		}
		seq, send := w.store("ana")
		send()
		w.mu.Lock()
		w.away = false
		w.mu.Unlock()
		if !f.Await(t.Context(), "ana") {
			t.Fatal("not followed")
		}
		time.Sleep(time.Second)
		if got := r.take("ana"); !slices.Equal(got, []uint64{seq}) {
			t.Errorf("got %v, want %d, which came before the proxy did", got, seq)
		}
		if f.Await(t.Context(), "bob") {
			t.Error("bob is not watched")
		}
	})
}

// TestTheJournalIsAwayWhenAUserComes: what is stored before it can be read is not followed.
func TestTheJournalIsAwayWhenAUserComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.broken = true
		f, _, end := start(t, w)
		defer end()
		f.Watch("ana", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if f.Await(ctx, "ana") {
			t.Error("followed from where nobody knows")
		}
		w.mu.Lock()
		w.broken = false
		w.mu.Unlock()
		if !f.Await(t.Context(), "ana") {
			t.Error("not followed")
		}
	})
}

// TestAnOlderJournal is followed after some marks, without what it held before.
func TestAnOlderJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		f, r, end := start(t, w)
		defer end()
		watch(t, f, "ana")
		_, send := w.store("ana")
		send()
		w.mark()
		synctest.Wait()
		r.take("ana")
		w.mu.Lock()
		for p := range w.heads {
			w.heads[p] = journal.Head{Seq: 100, Epoch: 100}
		}
		w.sets = map[string][]stored{}
		w.mu.Unlock()
		w.store("ana")
		for range olderEpochs + 3 {
			w.mark()
			time.Sleep(time.Second)
		}
		r.take("ana")
		seq, send := w.store("ana")
		send()
		time.Sleep(time.Second)
		if got := r.take("ana"); !slices.Equal(got, []uint64{seq}) {
			t.Errorf("got %v, want %d", got, seq)
		}
	})
}

func TestRubbishIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		f, _, end := start(t, w)
		defer end()
		watch(t, f, "ana")
		for topic, body := range map[string]string{"_to.ana": "rubbish", "_to.%zz": "{}", "_mark.x": "{}", "_mark.1": `{"seq":"x"}`, "_mark.77": `{"seq":1,"epoch":1}`,
			"_to.bob": `{"id":"x","type":"a","userId":"bob","partition":77,"seq":9,"prev":{"user":0,"feed":0},"epoch":1}`} {
			w.wire <- fanout.Message{Topic: topic, Body: []byte(body)}
		}
		w.wire <- fanout.Message{Topic: "_user.ana", Body: []byte(`{}`)}
		synctest.Wait()
		if got := testutil.ToFloat64(f.m.bad); got != 6 {
			t.Errorf("%v counted", got)
		}
		if _, err := New(Options{}); fault.KindOf(err) != fault.Invalid {
			t.Error(err)
		}
	})
}

// TestWhateverHappens: users come and go, the wire loses, repeats and turns round, the proxy and
// the journal are away by turns; who stays gets every event that was stored since it was followed,
// once and in order.
func TestWhateverHappens(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) { whatever(t, rand.New(rand.NewPCG(seed, 1))) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

type session struct {
	since int // index of the first event that it has to get
	ready bool
}

func whatever(t *testing.T, rnd *rand.Rand) {
	w := newWorld()
	f, r, end := start(t, w)
	defer end()
	users := []string{"ana", "bob", "c.d e", "zoe"}
	on := map[string]*session{}
	all := map[string][]uint64{}
	var late []func()
	check := func(user string, s *session) {
		t.Helper()
		got := r.take(user)
		if want := all[user]; s.ready && (len(got) < len(want)-s.since || !slices.Equal(got, want[len(want)-len(got):])) {
			t.Errorf("%s got %v, want those of %v from %d on", user, got, want, s.since)
		}
	}
	quiet := func() { // all that is to come comes
		w.mu.Lock()
		w.away, w.broken = false, false
		w.mu.Unlock()
		for range 5 {
			w.mark()
			time.Sleep(time.Second)
		}
	}
	for range 150 {
		user := users[rnd.IntN(len(users))]
		switch k := rnd.IntN(20); {
		case k < 10:
			seq, send := w.store(user)
			all[user] = append(all[user], seq)
			switch rnd.IntN(6) {
			case 0: // lost
			case 1:
				send()
				send()
			case 2:
				late = append(late, send)
			default:
				send()
			}
		case k < 12:
			for _, send := range late {
				send()
			}
			late = nil
		case k < 14 && on[user] == nil:
			f.Watch(user, true)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			on[user] = &session{ready: f.Await(ctx, user), since: len(all[user])}
			cancel()
		case k < 14:
			quiet()
			s := on[user]
			delete(on, user)
			check(user, s)
			f.Watch(user, false)
			synctest.Wait()
			r.take(user)
			late = nil
		case k == 14:
			w.mu.Lock()
			w.broken = !w.broken
			w.mu.Unlock()
		case k == 15:
			w.mu.Lock()
			w.away = !w.away
			w.changes++
			w.mu.Unlock()
		case k < 19:
			w.mark()
			time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		default:
			time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
		}
	}
	quiet()
	for _, user := range slices.Sorted(maps.Keys(on)) {
		check(user, on[user])
	}
}

func TestClosedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.away, w.broken = true, true
		f, _, end := start(t, w)
		f.Watch("ana", true)
		time.Sleep(time.Second)
		end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
