package fanout

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// stage is a journal in a real Redis, a worker that stores and publishes, and a follower behind
// real sockets.
type stage struct {
	t       testing.TB
	redis   *testkit.RedisServer
	journal *journal.Journal
	pub     *Publisher
	f       *Follower

	mu      sync.Mutex
	heads   map[int]event.Position // what marks say
	feeds   map[int]uint64
	stored  map[int][]uint64 // what is to come, by partition
	deliver bool             // only deliverable events are to come
	count   int
}

const testPartitions = 4

var feedTopics = []string{"notification.", event.TopicMark}

func newStage(t testing.TB, feed bool, proxies ...*fakeProxy) *stage {
	t.Helper()
	s := &stage{t: t, deliver: feed, heads: map[int]event.Position{}, feeds: map[int]uint64{}, stored: map[int][]uint64{}}
	s.redis = testkit.StartRedis(t)
	s.journal = openJournal(t, s.redis.URL(), journal.Options{})
	if err := s.journal.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	var xsub, xpub []string
	for _, p := range proxies {
		xsub, xpub = append(xsub, p.xsub), append(xpub, p.xpub)
	}
	s.pub = publisher(t, Options{Endpoints: xsub})
	s.f = s.follow(xpub, nil)
	return s
}

func openJournal(t testing.TB, url string, o journal.Options) *journal.Journal {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	o.Partitions = testPartitions
	return journal.New(client, o)
}

func (s *stage) follow(xpub []string, start func(int) (uint64, uint64, bool)) *Follower {
	s.t.Helper()
	topics := []string{""}
	if s.deliver {
		topics = feedTopics
	}
	f, err := NewFollower(FollowerOptions{Subscriber: subscriber(s.t, SubscriberOptions{Endpoints: xpub, Topics: topics}),
		Journal: s.journal, Partitions: testPartitions, Start: start, Feed: s.deliver, Metrics: prometheus.NewRegistry()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = f.Close(context.Background()) })
	return f
}

// ready calls Recv until the follower is ready.
func (s *stage) ready() {
	s.t.Helper()
	testkit.Eventually(s.t, patience, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if it, err := s.f.Recv(ctx); err == nil {
			s.t.Errorf("received %s %s before anything was published", it.Topic, it.Body)
		}
		return s.f.Ready() == nil && s.pub.Ready() == nil
	}, "the follower is ready")
}

// store stores n events and publishes them as a worker does.
func (s *stage) store(ctx context.Context, n int) error {
	var batch []journal.Entry
	for range n {
		s.count++
		typ := "notification.order"
		if s.count%3 == 0 {
			typ = "audit.login"
		}
		user := "user-" + strconv.Itoa(rand.IntN(40))
		e, err := event.Parse(fmt.Appendf(nil, `{"id":"e%d","type":%q,"userId":%q,"timestamp":%d}`, s.count, typ, user, s.count))
		if err != nil {
			return err
		}
		batch = append(batch, journal.Entry{Event: e, Deliverable: typ != "audit.login"})
	}
	got, err := s.append(ctx, batch)
	for i := range got {
		s.pub.Publish(event.Topic(batch[i].Event.Type, batch[i].Event.UserID), got[i].Raw)
	}
	return err
}

// append holds the lock, as the follower may read from the journal what has just been stored.
func (s *stage) append(ctx context.Context, batch []journal.Entry) ([]journal.Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, err := s.journal.Append(ctx, batch)
	for i := range got {
		s.took(&batch[i], &got[i])
	}
	return got, err
}

func (s *stage) took(e *journal.Entry, got *journal.Stored) {
	s.heads[got.Partition] = got.Position
	if e.Deliverable {
		s.feeds[got.Partition] = got.Seq
	}
	if e.Deliverable || !s.deliver {
		s.stored[got.Partition] = append(s.stored[got.Partition], got.Seq)
	}
}

func (s *stage) mark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, at := range s.heads {
		s.pub.Publish(event.TopicMark+strconv.Itoa(p), fmt.Appendf(nil, `{"seq":%d,"epoch":%d,"feed":%d}`, at.Seq, at.Epoch, s.feeds[p]))
	}
}

// marks publishes marks until the function it returns is called.
func (s *stage) marks() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.mark()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (s *stage) left() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seqs := range s.stored {
		n += len(seqs)
	}
	return n
}

// expect receives until all that was stored came, each partition in order and once, and then
// nothing more for a moment.
func (s *stage) expect() {
	s.t.Helper()
	for s.left() > 0 {
		s.one(within(s.t))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	if it, err := s.f.Recv(ctx); err == nil {
		s.t.Fatalf("more than was stored: %+v", it.Position)
	}
}

// one receives one event, which has to be the next one of its partition.
func (s *stage) one(ctx context.Context) {
	s.t.Helper()
	it, err := s.f.Recv(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.t.Fatalf("%v; still to come: %v", err, maps.Collect(maps.All(s.stored)))
	}
	next := s.stored[it.Partition]
	if len(next) == 0 || next[0] != it.Seq {
		s.t.Fatalf("partition %d: received %d, want the first of %v", it.Partition, it.Seq, next[:min(5, len(next))])
	}
	if e, err := event.ParseStored(it.Body); err != nil || e.Position != it.Position || it.Topic != event.Topic(e.Type, e.UserID) {
		s.t.Fatalf("received %s %+v %s: %v", it.Topic, it.Position, it.Body, err)
	}
	s.stored[it.Partition] = next[1:]
}

// dropping makes a proxy that loses a share of all it gets, marks included.
func dropping(p *fakeProxy, share float64) {
	random := rand.New(rand.NewPCG(1, uint64(share*1000)))
	drop := func(zmq.Msg) bool { return random.Float64() < share }
	p.drop.Store(&drop)
}

func count(t testing.TB, c prometheus.Collector) float64 { t.Helper(); return testutil.ToFloat64(c) }

func TestWhatAProxyLosesIsReadFromTheJournal(t *testing.T) {
	for _, feed := range []bool{false, true} {
		for _, share := range []float64{0, 0.01, 0.2, 1} {
			t.Run(fmt.Sprintf("feed %v, %v lost", feed, share), func(t *testing.T) {
				p := startProxy(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
				s := newStage(t, feed, p)
				s.ready()
				if dropping(p, share); share == 1 {
					all := func(m zmq.Msg) bool { return !strings.HasPrefix(string(m[0]), event.TopicMark) }
					p.drop.Store(&all)
				}
				defer s.marks()()
				var worker sync.WaitGroup
				defer worker.Wait()
				const batches = 100
				worker.Go(func() {
					for range batches {
						if err := s.store(context.Background(), 20); err != nil {
							t.Error(err)
						}
					}
				})
				testkit.Eventually(t, patience, func() bool { return s.left() > 0 }, "something is stored")
				s.expectAll(&worker)
				if lost := count(t, s.f.m.lost) + count(t, s.f.m.unfinished); lost != 0 {
					t.Errorf("%v counted as lost", lost)
				}
				gaps, refilled := count(t, s.f.m.gaps), count(t, s.f.m.refilled)
				if (gaps > 0) != (share > 0) || (refilled > 0) != (share > 0) {
					t.Errorf("%v lost: %v gaps, %v refilled", share, gaps, refilled)
				}
			})
		}
	}
}

// expectAll is expect while a worker still stores.
func (s *stage) expectAll(worker *sync.WaitGroup) {
	s.t.Helper()
	done := make(chan struct{})
	go func() { worker.Wait(); close(done) }()
	for {
		select {
		case <-done:
			s.expect()
			return
		default:
		}
		if s.left() > 0 {
			s.one(within(s.t))
		}
	}
}

func TestFollowerWantsMarks(t *testing.T) {
	_, xpub := proxy(t)
	sub := subscriber(t, SubscriberOptions{Endpoints: []string{xpub}, Topics: []string{"notification."}})
	_, err := NewFollower(FollowerOptions{Subscriber: sub, Journal: &journal.Journal{}, Partitions: 1})
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("without marks: %v", err)
	}
	if _, err := NewFollower(FollowerOptions{Subscriber: sub}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("without a journal: %v", err)
	}
}
