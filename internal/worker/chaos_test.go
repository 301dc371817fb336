package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/testkit"
)

// audit checks the promises on what a subscriber of everything got: each event once, each
// user's in the order sent, and numbers without gaps within a partition and epoch.
type audit struct {
	ids     map[string]bool
	last    map[string]int     // user → number in its last id
	seq     map[int]uint64     // partition → newest
	numbers map[[2]uint64]int  // partition and seq: repeats of a number
	epochs  map[[2]uint64]bool // partition and epoch
}

func newAudit() *audit {
	return &audit{map[string]bool{}, map[string]int{}, map[int]uint64{}, map[[2]uint64]int{}, map[[2]uint64]bool{}}
}

// take accepts one event; its id is user-number.
func (a *audit) take(e event.Event) error {
	key := [2]uint64{uint64(e.Partition), e.Seq}
	if a.numbers[key]++; a.numbers[key] > 1 {
		return nil // a repeat by number, which subscribers drop
	}
	if a.ids[e.ID] {
		return fmt.Errorf("event %s was stored twice", e.ID)
	}
	a.ids[e.ID] = true
	var n int
	if _, err := fmt.Sscanf(e.ID, e.UserID+"-%d", &n); err != nil {
		return fmt.Errorf("id %s of user %s: %w", e.ID, e.UserID, err)
	}
	if n <= a.last[e.UserID] {
		return fmt.Errorf("event %s came after number %d", e.ID, a.last[e.UserID])
	}
	a.last[e.UserID] = n
	if before := a.seq[e.Partition]; before > 0 && e.Seq != before+1 && before >= e.Epoch {
		return fmt.Errorf("partition %d went from %d to %d within epoch %d", e.Partition, before, e.Seq, e.Epoch)
	}
	a.seq[e.Partition] = e.Seq
	a.epochs[[2]uint64{key[0], e.Epoch}] = true
	return nil
}

// feed sends count events over users, each user's numbered from 1, batch by batch, again and
// again while the workers are full. Some batches are sent twice.
func feed(t *testing.T, snd *ingest.Sender, users, count int) {
	t.Helper()
	next := make([]int, users)
	for sent := 0; sent < count; {
		batch := make([]event.Event, 0, 100)
		for range min(cap(batch), count-sent) {
			u := rand.IntN(users)
			next[u]++
			batch = append(batch, mustEvent(t, fmt.Sprintf(`{"id":"u%d-%d","type":"notification.x","userId":"u%d"}`, u, next[u], u)))
		}
		sent += len(batch)
		again := append([]event.Event(nil), batch...)
		sendAll(t, snd, batch)
		if rand.IntN(4) == 0 {
			sendAll(t, snd, again)
		}
	}
}

func sendAll(t testing.TB, snd *ingest.Sender, batch []event.Event) {
	t.Helper()
	testkit.Eventually(t, patience, func() bool {
		rest := batch[:0:0]
		for i, err := range snd.TrySend(batch) {
			switch {
			case fault.KindOf(err) == fault.Overloaded:
				rest = append(rest, batch[i])
			case err != nil:
				t.Fatal(err)
			}
		}
		batch = rest
		return len(batch) == 0
	}, "the workers take a batch")
}

// collect audits published events until count different ones came.
func (s *stage) collect(t *testing.T, count int) *audit {
	t.Helper()
	a := newAudit()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for len(a.ids) < count {
		_, e := s.next(t, ctx)
		if err := a.take(e); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// silent checks that nothing new follows.
func (s *stage) silent(t *testing.T, a *audit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	for {
		m, err := s.sub.Recv(ctx)
		if err != nil {
			return
		}
		if m.Topic[0] == '_' {
			continue
		}
		e, err := event.ParseStored(m.Body)
		if err == nil {
			err = a.take(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Redis is killed again and again while events come in, and keeps what it answered for: then
// every event is stored and published once, in the order of its user.
func TestRedisKilledInMidBatch(t *testing.T) {
	redis := testkit.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	s := newStage(t, redis.URL())
	w := s.worker(t, nil)
	const count, kills = 20_000, 4
	fed := make(chan struct{})
	snd := sender(t, w.Endpoint())
	go func() { defer close(fed); feed(t, snd, 40, count) }()
	killed := make(chan struct{})
	goOn := make(chan int, 1) // how far the collector is
	go func() {
		defer close(killed)
		for at := range goOn {
			_ = at
			redis.Kill()
			redis.Restart()
		}
	}()
	a := newAudit()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	done := 0
	for len(a.ids) < count {
		_, e := s.next(t, ctx)
		if err := a.take(e); err != nil {
			t.Fatal(err)
		}
		if done < kills && len(a.ids) > (done+1)*count/(kills+1) {
			done++
			goOn <- done
		}
	}
	close(goOn)
	<-killed
	<-fed
	s.silent(t, a)
	if len(a.epochs) <= len(a.seq) {
		t.Errorf("%d epochs of %d partitions: Redis was not killed while events came in", len(a.epochs), len(a.seq))
	}
	if got := w.count(t, "eventspine_worker_retries_total"); got == 0 {
		t.Error("no call was tried again")
	}
}

func (r *running) count(t *testing.T, name string) (n float64) {
	t.Helper()
	for _, line := range strings.Split(get(t, "http://"+r.Metrics()+"/metrics"), "\n") {
		if _, err := fmt.Sscanf(line, name+" %g", &n); err == nil {
			return n
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// A Redis that hangs loses the answers of calls that it then carries out: these events are
// read back and published.
func TestRedisHangsAndLosesTheAnswer(t *testing.T) {
	redis := testkit.StartRedis(t)
	s := newStage(t, redis.URL())
	w := s.worker(t, func(c *Config) { c.RedisURL += "?read_timeout=200ms" })
	snd := sender(t, w.Endpoint())
	sendAll(t, snd, mustEvents(t, `{"id":"u-1","type":"a.b","userId":"u"}`))
	s.next(t, within(t))
	redis.Stop()
	sendAll(t, snd, mustEvents(t, `{"id":"u-2","type":"a.b","userId":"u"}`, `{"id":"u-3","type":"a.b","userId":"u"}`, `{"id":"u-1","type":"a.b","userId":"u"}`))
	testkit.Eventually(t, patience, func() bool { return w.count(t, "eventspine_worker_retries_total") > 0 }, "the answer is given up")
	redis.Continue()
	for _, want := range []string{"u-2", "u-3"} {
		if _, e := s.next(t, within(t)); e.ID != want {
			t.Fatalf("got %s, want %s", e.ID, want)
		}
	}
	if got := w.count(t, "eventspine_worker_republished_events_total"); got != 2 {
		t.Errorf("%v events were read back", got)
	}
	if got := w.count(t, `eventspine_worker_repeated_events_total{where="journal"}`); got != 1 {
		t.Errorf("%v repeats", got)
	}
}

// Two workers share the partitions; each user's events stay with one of them.
func TestTwoWorkers(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		one, two := s.worker(t, nil), s.worker(t, nil)
		const count = 3000
		snd := sender(t, one.Endpoint(), two.Endpoint())
		fed := make(chan struct{})
		go func() { defer close(fed); feed(t, snd, 40, count) }()
		a := s.collect(t, count)
		<-fed
		s.silent(t, a)
		if one.count(t, "eventspine_worker_stored_events_total") == 0 || two.count(t, "eventspine_worker_stored_events_total") == 0 {
			t.Error("one of the workers had nothing to do")
		}
	})
}

// When a worker ends, the other one takes over its partitions.
func TestAWorkerLeaves(t *testing.T) {
	s := newStage(t, testkit.Redis(t))
	one, two := s.worker(t, nil), s.worker(t, nil)
	snd := sender(t, one.Endpoint(), two.Endpoint())
	feed(t, snd, 40, 2000)
	a := s.collect(t, 2000)
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() bool { return snd.Workers() == 1 }, "the sender knows")
	for i := range 40 {
		sendAll(t, snd, mustEvents(t, fmt.Sprintf(`{"id":"u%d-100000","type":"a.b","userId":"u%d"}`, i, i)))
	}
	for len(a.ids) < 2040 {
		_, e := s.next(t, within(t))
		if err := a.take(e); err != nil {
			t.Fatal(err)
		}
	}
}

// Random batches with repeats, through the whole worker: numbers without gaps, each event
// once, each user's in order.
func TestWorkerProperty(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		w := s.worker(t, nil)
		snd := sender(t, w.Endpoint())
		a, users, next := newAudit(), 0, map[string]int{}
		rapid.Check(t, func(rt *rapid.T) {
			users++ // users of its own, for each case
			var sent []string
			fresh := 0
			for range rapid.IntRange(1, 8).Draw(rt, "batches") {
				var batch []event.Event
				for range rapid.IntRange(1, 30).Draw(rt, "events") {
					user := fmt.Sprintf("u%d.%d", users, rapid.IntRange(0, 3).Draw(rt, "user"))
					raw := ""
					if len(sent) > 0 && rapid.IntRange(0, 3).Draw(rt, "repeat") == 0 {
						raw = rapid.SampledFrom(sent).Draw(rt, "which")
					} else {
						next[user]++
						fresh++
						raw = fmt.Sprintf(`{"id":"%s-%d","type":"a.b","userId":"%s"}`, user, next[user], user)
						sent = append(sent, raw)
					}
					batch = append(batch, mustEvent(t, raw))
				}
				sendAll(t, snd, batch)
			}
			for want := len(a.ids) + fresh; len(a.ids) < want; {
				_, e := s.next(t, within(t))
				if err := a.take(e); err != nil {
					rt.Fatal(err)
				}
			}
		})
		s.silent(t, a)
	})
}
