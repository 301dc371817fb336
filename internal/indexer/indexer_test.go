package indexer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/archive"
	"eventspine/internal/embedded/search"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/retry"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func body(id string, seq int) string {
	return fmt.Sprintf(`{"id":"%s","type":"order.created","userId":"42","timestamp":%d,"data":{"n":%d},"partition":1,"seq":%d,"prev":{"user":0,"feed":0},"epoch":7}`,
		id, 1_700_000_000_000+seq, seq, seq)
}

func stored(t *testing.T, id string, seq int) event.Event {
	t.Helper()
	e, err := event.ParseStored([]byte(body(id, seq)))
	must(t, err)
	return e
}

func some(t *testing.T, n int) []event.Event {
	t.Helper()
	out := make([]event.Event, n)
	for i := range out {
		out[i] = stored(t, fmt.Sprint("e", i), i+1)
	}
	return out
}

func TestQueueRipens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(10_000, 1<<30)
		events := some(t, 2500)
		put := func(from, to int) {
			for _, e := range events[from:to] {
				must(t, q.put(t.Context(), e))
			}
		}
		start := time.Now()
		go func() {
			<-time.After(300 * time.Millisecond) // simulated
			put(0, 1)
		}()
		if !q.ripe(100, 500*time.Millisecond) || time.Since(start) != 800*time.Millisecond {
			t.Errorf("a lone event was ripe after %v, want 800ms", time.Since(start))
		}
		put(1, 100)
		start = time.Now()
		if !q.ripe(100, 500*time.Millisecond) || time.Since(start) != 0 {
			t.Errorf("a full batch waited %v", time.Since(start))
		}
		if b := q.take(); len(b.events) != 100 || b.events[99].ID != "e99" {
			t.Errorf("took %d events", len(b.events))
		}
		put(100, 2500)
		for _, want := range []int{2000, 400} {
			if b := q.take(); len(b.events) != want {
				t.Errorf("took %d events, want %d", len(b.events), want)
			}
		}
		put(0, 3)
		q.close()
		if !q.ripe(100, time.Hour) {
			t.Error("a closed queue with events is not ripe")
		}
		q.take()
		if q.ripe(100, time.Hour) {
			t.Error("a closed and empty queue is ripe")
		}
	})
}

// A queue that is full, or was since the last question, is Elasticsearch's fault.
func TestQueueSaysThatItHeldPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2, 1<<30)
		events := some(t, 3)
		for _, e := range events[:2] {
			if q.waited() {
				t.Error("there was room")
			}
			must(t, q.put(t.Context(), e))
		}
		if !q.waited() {
			t.Error("it is full")
		}
		ended := make(chan error)
		go func() { ended <- q.put(t.Context(), events[2]) }()
		synctest.Wait()
		q.take()
		must(t, <-ended)
		q.take()
		if !q.waited() || q.waited() {
			t.Error("it was full once")
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := len(body("e0", 1))
		for name, q := range map[string]*queue{"events": newQueue(3, 1<<30), "bytes": newQueue(1000, 3*size+5)} {
			for i, e := range some(t, 3) {
				if err := q.put(t.Context(), e); err != nil {
					t.Fatalf("%s: put %d: %v", name, i, err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := q.put(ctx, stored(t, "more", 4)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: a fourth event found room: %v", name, err)
			}
			cancel()
			go q.take()
			must(t, q.put(t.Context(), stored(t, "more", 4)))
			synctest.Wait()
			if n, b := q.size(); n > 1 || b > size+5 {
				t.Errorf("%s: %d events, %d bytes left", name, n, b)
			}
		}
		small := newQueue(1, 1)
		must(t, small.put(t.Context(), stored(t, "huge", 1)))
		if b := small.take(); len(b.events) != 1 {
			t.Error("an event above the bound was not taken alone")
		}
	})
}

// script is a source that gives what it holds and then an error.
type script struct{ messages []fanout.Message }

var errEnd = errors.New("end of script")

func (s *script) Recv(context.Context) (fanout.Message, error) {
	if len(s.messages) == 0 {
		return fanout.Message{}, errEnd
	}
	m := s.messages[0]
	s.messages = s.messages[1:]
	return m, nil
}

func TestReceiveSkipsAndCounts(t *testing.T) {
	q := newQueue(100, 1<<20)
	m := newMetrics(prometheus.NewRegistry(), q)
	var src script
	for topic, b := range map[string]string{
		"order.created.42": body("good", 1),
		"_ack.api-1":       `{"index":1}`,
		"_mark.3":          `{"seq":1}`,
		"_user.42":         ``,
		"a":                `{"id":"x"`,
		"b":                `[]`,
		"c":                `{"id":"x","type":"a","timestamp":1}`,
		"d":                `{"type":"a","timestamp":1,"seq":1}`,
		"e":                `{"id":"x","type":"a","seq":1}`,
		"f":                "\xff",
	} {
		src.messages = append(src.messages, fanout.Message{Topic: topic, Body: []byte(b)})
	}
	in := intake{queue: q, m: m, log: quiet.New(nil, time.Second)}
	if err := in.receive(t.Context(), t.Context(), &src); !errors.Is(err, errEnd) {
		t.Errorf("ended with %v", err)
	}
	if n := len(q.take().events); n != 1 || testutil.ToFloat64(m.received) != 1 || testutil.ToFloat64(m.malformed) != 6 {
		t.Errorf("queued %d, received %v, malformed %v", n, testutil.ToFloat64(m.received), testutil.ToFloat64(m.malformed))
	}
}

// answers is an index that answers as it is told, and takes everything when it has no answer left.
type answers struct {
	mu       sync.Mutex
	index    []func([]event.Event) (archive.Result, error)
	prepares int
	away     error // of Prepare
	sent     [][]string
}

func (a *answers) Prepare(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.prepares++
	return a.away
}

func (a *answers) Index(_ context.Context, events []event.Event) (archive.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, len(events))
	for i := range events {
		ids[i] = events[i].ID
	}
	a.sent = append(a.sent, ids)
	if len(a.index) == 0 {
		return archive.Result{Indexed: len(events)}, nil
	}
	next := a.index[0]
	a.index = a.index[1:]
	return next(events)
}

func newSender(ix index, q *queue, log io.Writer) *sender {
	return &sender{index: ix, m: newMetrics(prometheus.NewRegistry(), q), log: slog.New(slog.NewJSONHandler(log, nil)), retry: retry.Policy{Min: 100 * time.Millisecond}}
}

func TestSenderTriesUntilAllIsAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := fault.Errorf("index", fault.Unavailable, "away")
		busy := fault.Errorf("index", fault.Overloaded, "busy")
		ix := &answers{index: []func([]event.Event) (archive.Result, error){
			func([]event.Event) (archive.Result, error) { return archive.Result{}, away },
			func([]event.Event) (archive.Result, error) { return archive.Result{}, errors.New("of no kind") },
			func([]event.Event) (archive.Result, error) {
				return archive.Result{Indexed: 1, Existing: 1, Retry: []int{1, 3}, Cause: busy, Wait: 20 * time.Second,
					Refused: []archive.Refusal{{Doc: 4, ID: "e4", Reason: "a reason", Status: 400}}}, nil
			},
		}}
		q := newQueue(100, 1<<20)
		var log bytes.Buffer
		s := newSender(ix, q, &log)
		start := time.Now()
		if left := s.send(t.Context(), &batch{events: some(t, 5), oldest: start}); left != 0 {
			t.Errorf("%d events are left", left)
		}
		if got := fmt.Sprint(ix.sent[2:]); got != "[[e0 e1 e2 e3 e4] [e1 e3]]" {
			t.Errorf("sent %s", got)
		}
		if d := time.Since(start); d < 20*time.Second {
			t.Errorf("it did not wait as asked: %v", d)
		}
		if ix.prepares != 4 {
			t.Errorf("the template was looked after %d times, want 4: at first and after each failure", ix.prepares)
		}
		for name, c := range map[string]struct {
			got  prometheus.Counter
			want float64
		}{"indexed": {s.m.indexed, 3}, "existing": {s.m.existing, 1}, "refused": {s.m.refused, 1}, "retries": {s.m.retries, 3}} {
			if v := testutil.ToFloat64(c.got); v != c.want {
				t.Errorf("%s is %v, want %v", name, v, c.want)
			}
		}
		for line, want := range map[string]int{"does not take events": 1, "takes events again": 1, `"id":"e4"`: 1, "a reason": 1} {
			if n := strings.Count(log.String(), line); n != want {
				t.Errorf("%d log lines with %q, want %d:\n%s", n, line, want, log.String())
			}
		}
	})
}

func TestCollectCountsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ix := &answers{away: fault.Errorf("prepare", fault.Unavailable, "away")}
		q := newQueue(10_000, 1<<30)
		s := newSender(ix, q, io.Discard)
		for _, e := range some(t, 4500) {
			must(t, q.put(t.Context(), e))
		}
		q.close()
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		defer cancel()
		start := time.Now()
		if lost := s.collect(ctx, q, 100, time.Second); lost != 4500 || testutil.ToFloat64(s.m.lost) != 4500 {
			t.Errorf("lost %d, counted %v", lost, testutil.ToFloat64(s.m.lost))
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("it took %v to give up", d)
		}
	})
}

func TestBatchesGrowWhileElasticsearchIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(10_000, 1<<30)
		slow := func(events []event.Event) (archive.Result, error) { return archive.Result{Indexed: len(events)}, nil }
		ix := &slowIndex{answers: answers{index: []func([]event.Event) (archive.Result, error){slow}}}
		s := newSender(ix, q, io.Discard)
		done := make(chan int)
		go func() { done <- s.collect(t.Context(), q, 100, 500*time.Millisecond) }()
		for _, e := range some(t, 3000) {
			<-time.After(time.Millisecond) // simulated
			must(t, q.put(t.Context(), e))
		}
		q.close()
		if lost := <-done; lost != 0 {
			t.Errorf("lost %d", lost)
		}
		total, largest := 0, 0
		for _, ids := range ix.sent {
			total, largest = total+len(ids), max(largest, len(ids))
		}
		if total != 3000 || largest < 300 || len(ix.sent) > 12 || ix.most > maxInFlight {
			t.Errorf("%d events in %d batches, the largest %d, %d at once", total, len(ix.sent), largest, ix.most)
		}
	})
}

// slowIndex takes a second for each batch.
type slowIndex struct {
	answers
	at, most int
}

func (s *slowIndex) Index(ctx context.Context, events []event.Event) (archive.Result, error) {
	s.mu.Lock()
	s.at++
	s.most = max(s.most, s.at)
	s.mu.Unlock()
	<-time.After(time.Second) // simulated
	s.mu.Lock()
	s.at--
	s.mu.Unlock()
	return s.answers.Index(ctx, events)
}

func TestConfig(t *testing.T) {
	good := DefaultConfig()
	if wrong := good.Validate(); len(wrong) > 0 {
		t.Errorf("the defaults are wrong: %v", wrong)
	}
	bad := Config{Replicas: -1, SnailLimit: time.Millisecond}
	if wrong := bad.Validate(); len(wrong) != 11 {
		t.Errorf("%d fields are wrong, want 11: %v", len(wrong), wrong)
	}
	for name, change := range map[string]func(*Config){
		"ES_HOST":  func(c *Config) { c.ESHosts = []string{"ftp://x"} },
		"ES_INDEX": func(c *Config) { c.Index = "No!" },
		"proxy":    func(c *Config) { c.Proxies = []string{"nonsense"} },
		"flush":    func(c *Config) { c.Flush = 0 },
	} {
		c := DefaultConfig()
		c.Health, c.Metrics = "", ""
		change(&c)
		if _, err := Open(t.Context(), c); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: kind %v: %v", name, fault.KindOf(err), err)
		}
	}
}

// node is a running indexer with a publisher in the place of the proxy.
type node struct {
	pub    *zmq.Socket
	deps   *Deps
	stop   context.CancelFunc
	ended  chan error
	es     string
	client *archive.Archive
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func startNode(t *testing.T, change func(*Config)) *node {
	t.Helper()
	n := &node{pub: zmq.New(zmq.XPub, zmq.Options{}), es: freeAddr(t), ended: make(chan error, 1)}
	at, err := n.pub.Bind(t.Context(), "tcp://127.0.0.1:0")
	must(t, err)
	c := DefaultConfig()
	c.Health, c.Metrics, c.Proxies, c.ESHosts, c.Flush = "tcp://127.0.0.1:0", "127.0.0.1:0", []string{at}, []string{n.es}, 20*time.Millisecond
	if change != nil {
		change(&c)
	}
	n.deps, err = Open(t.Context(), c)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	n.stop = stop
	go func() { n.ended <- Run(ctx, c, n.deps) }()
	n.client, err = archive.New(archive.Options{URLs: c.ESHosts})
	must(t, err)
	t.Cleanup(func() {
		stop()
		n.client.Close()
		http.DefaultClient.CloseIdleConnections()
		must(t, n.pub.Close(context.WithoutCancel(t.Context())))
	})
	answered := make(chan struct{})
	go func() { // as the proxy does
		defer close(answered)
		for m, err := n.pub.Recv(ctx); err == nil; m, err = n.pub.Recv(ctx) {
			if answer, _ := fanout.Welcome(m); answer != nil {
				_ = n.pub.TrySend(answer) // only a closed socket does not take it
			}
		}
	}()
	t.Cleanup(func() { stop(); <-answered })
	eventually(t, "the subscription", func() bool {
		peers := n.pub.Peers()
		return len(peers) == 1 && peers[0].Subscriptions >= 1
	})
	return n
}

func (n *node) elasticsearch(t *testing.T, dir string) *search.Server {
	t.Helper()
	s, err := search.Start(t.Context(), search.Options{Dir: dir, Addr: n.es})
	must(t, err)
	return s
}

func (n *node) publish(t *testing.T, id string, seq int) {
	t.Helper()
	must(t, n.pub.Send(t.Context(), zmq.Msg{[]byte("order.created.42 " + body(id, seq))}))
}

func (n *node) ready(t *testing.T) string {
	t.Helper()
	res, err := http.Get("http://" + n.deps.Metrics() + "/readyz")
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return fmt.Sprint(res.StatusCode, " ", string(b))
}

func (n *node) count(ctx context.Context) int64 {
	c, err := n.client.Count(ctx, archive.Query{AnyUser: true})
	if err != nil {
		return -1
	}
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestIndexesEverythingOnceElasticsearchComes(t *testing.T) {
	n := startNode(t, nil)
	for i := range 250 {
		n.publish(t, fmt.Sprint("early", i), i+1)
	}
	if got := n.ready(t); !strings.HasPrefix(got, "503") || !strings.Contains(got, "elasticsearch") {
		t.Errorf("without Elasticsearch: %s", got)
	}
	first := n.elasticsearch(t, t.TempDir())
	eventually(t, "the early events", func() bool { return n.count(t.Context()) == 250 })
	must(t, n.pub.Send(t.Context(), zmq.Msg{[]byte("order.created.42 {")}))
	n.publish(t, "early0", 1) // came already
	n.publish(t, "late", 251)
	eventually(t, "the late event", func() bool { return n.count(t.Context()) == 251 })
	if got := n.ready(t); !strings.HasPrefix(got, "200") {
		t.Errorf("with everything there: %s", got)
	}

	must(t, first.Close())
	for i := range 50 {
		n.publish(t, fmt.Sprint("between", i), 300+i)
	}
	eventually(t, "the failure", func() bool { return testutil.ToFloat64(n.deps.m.retries) > 0 })
	second := n.elasticsearch(t, t.TempDir()) // without its data
	defer func() { must(t, second.Close()) }()
	eventually(t, "the events of the outage", func() bool { return n.count(t.Context()) == 50 })
	if ok, err := n.client.Prepared(t.Context()); !ok || err != nil {
		t.Errorf("the template was not installed again: %v, %v", ok, err)
	}

	for i := range 30 {
		n.publish(t, fmt.Sprint("last", i), 400+i)
	}
	eventually(t, "the last to arrive", func() bool { return testutil.ToFloat64(n.deps.m.received) >= 252+50+30 })
	n.stop()
	must(t, <-n.ended)
	if got := n.count(t.Context()); got != 80 {
		t.Errorf("after the drain %d events are there, want 80", got)
	}
	m := n.deps.m
	if testutil.ToFloat64(m.malformed) != 1 || testutil.ToFloat64(m.existing) < 1 || testutil.ToFloat64(m.lost) != 0 {
		t.Errorf("malformed %v, existing %v, lost %v", testutil.ToFloat64(m.malformed), testutil.ToFloat64(m.existing), testutil.ToFloat64(m.lost))
	}
}

func TestEndsInTimeWithoutElasticsearch(t *testing.T) {
	n := startNode(t, nil)
	for i := range 10 {
		n.publish(t, fmt.Sprint("e", i), i+1)
	}
	eventually(t, "the events", func() bool { return testutil.ToFloat64(n.deps.m.received) == 10 })
	start := time.Now()
	n.stop()
	err := <-n.ended
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "10 events") {
		t.Errorf("ended with %v", err)
	}
	if d := time.Since(start); d > 10500*time.Millisecond {
		t.Errorf("it took %v to end", d)
	}
}
