package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/profile"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// buffer collects log lines from several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// proxy stands in for the proxy node; it gives the two endpoints.
func proxy(t testing.TB) (xsub, xpub string) {
	t.Helper()
	return proxyAt(t, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
}

func proxyAt(t testing.TB, frontAt, backAt string) (xsub, xpub string) {
	t.Helper()
	front, back := zmq.New(zmq.XSub, zmq.Options{RcvHWM: 1_000_000}), zmq.New(zmq.XPub, zmq.Options{SndHWM: 1_000_000, SndBytes: 1 << 30})
	xsub, err := front.Bind(within(t), frontAt)
	if err != nil {
		t.Fatal(err)
	}
	xpub, err = back.Bind(within(t), backAt)
	if err != nil {
		t.Fatal(err)
	}
	if err := front.Subscribe(""); err != nil { // as the proxy node does
		t.Fatal(err)
	}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for m, err := front.Recv(context.Background()); err == nil; m, err = front.Recv(context.Background()) {
			_ = back.TrySend(m) // only a closed socket does not take it
		}
	})
	pumps.Go(func() {
		for m, err := back.Recv(context.Background()); err == nil; m, err = back.Recv(context.Background()) {
			if answer, _ := fanout.Welcome(m); answer != nil {
				_ = back.TrySend(answer) // likewise
			}
		}
	})
	t.Cleanup(func() {
		_ = front.Close(context.Background())
		_ = back.Close(context.Background())
		pumps.Wait()
	})
	return xsub, xpub
}

// stage is what the workers of a test share: Redis, a proxy, and a subscriber of everything.
type stage struct {
	redis, xsub, xpub string
	sub               *fanout.Subscriber
}

func newStage(t testing.TB, redis string) *stage {
	t.Helper()
	s := &stage{redis: redis}
	s.xsub, s.xpub = proxy(t)
	var err error
	s.sub, err = fanout.NewSubscriber(fanout.SubscriberOptions{Endpoints: []string{s.xpub}, Topics: []string{""},
		ZMQ: zmq.Options{ReconnectMin: 5 * time.Millisecond, RcvHWM: 1_000_000, RcvBytes: 1 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.sub.Close(context.Background()) })
	return s
}

// running is a worker that a test started; stop ends it and gives Run's result.
type running struct {
	*Deps
	log  *buffer
	stop func() error
}

func (s *stage) config() Config {
	c := DefaultConfig()
	c.Bind, c.Health, c.Metrics = "tcp://127.0.0.1:0", "", "127.0.0.1:0"
	c.RedisURL, c.XSub, c.XPub = s.redis, []string{s.xsub}, []string{s.xpub}
	return c
}

func (s *stage) worker(t testing.TB, change func(*Config)) *running {
	t.Helper()
	r := s.launch(t, change)
	d := r.Deps
	testkit.Eventually(t, patience, func() bool { // what is published before the subscription came through is lost
		st := d.out.proxies
		return st.Peers() == 1 && s.sub.Peers() == 1 && d.changes.Peers() == 1
	}, "the worker is connected to the proxy")
	s.awaitRoute(t, d)
	return r
}

// launch starts a worker and waits for nothing.
func (s *stage) launch(t testing.TB, change func(*Config)) *running {
	t.Helper()
	log := &buffer{}
	c := s.config()
	c.Log = slog.New(slog.NewJSONHandler(log, nil))
	if change != nil {
		change(&c)
	}
	d, err := Open(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c, d) }()
	var once sync.Once
	var result error
	r := &running{d, log, func() error {
		once.Do(func() { cancel(); result = <-ended })
		return result
	}}
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// awaitRoute waits until what this worker publishes reaches the subscriber.
func (s *stage) awaitRoute(t testing.TB, d *Deps) {
	t.Helper()
	probe := "_probe." + d.Endpoint()
	testkit.Eventually(t, patience, func() bool {
		d.out.proxies.Publish(probe, []byte("1"))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		m, err := s.sub.Recv(ctx)
		return err == nil && m.Topic == probe
	}, "a probe comes through")
}

// next gives the next event that was published, leaving reserved topics out.
func (s *stage) next(t testing.TB, ctx context.Context) (topic string, e event.Event) { //nolint:revive // t first, as in the rest
	t.Helper()
	for {
		m, err := s.sub.Recv(ctx)
		if err != nil {
			t.Fatalf("no event came: %v", err)
		}
		if strings.HasPrefix(m.Topic, "_") {
			continue
		}
		e, err := event.ParseStored(m.Body)
		if err != nil {
			t.Fatalf("%s: %v", m.Body, err)
		}
		return m.Topic, e
	}
}

func pusher(t testing.TB, endpoint string) *zmq.Socket {
	t.Helper()
	s := zmq.New(zmq.Push, zmq.Options{})
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	if err := s.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return s
}

func push(t testing.TB, s *zmq.Socket, frames ...string) {
	t.Helper()
	var m zmq.Msg
	for _, f := range frames {
		m = append(m, []byte(f))
	}
	if err := s.Send(within(t), m); err != nil {
		t.Fatal(err)
	}
}

func sender(t testing.TB, workers ...string) *ingest.Sender {
	t.Helper()
	s, err := ingest.NewSender(ingest.SenderOptions{Endpoints: workers, Source: "api-1", Partitions: DefaultConfig().Partitions,
		ZMQ: zmq.Options{ReconnectMin: 5 * time.Millisecond, Linger: 5 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	testkit.Eventually(t, patience, func() bool { return s.Workers() == len(workers) }, "the sender is connected")
	return s
}

func TestAnEventGoesAllTheWay(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		putUser(t, url, "ana", `{"name":"Ana"}`)
		w := s.worker(t, nil)
		p := pusher(t, w.Endpoint())
		push(t, p, `{"id":"n1","type":"notification.chat","userId":"ana","timestamp":5,"data":{"text":"hi"},"extra":1}`)
		topic, e := s.next(t, within(t))
		if topic != "notification.chat.ana" || e.ID != "n1" || e.Seq == 0 || e.Epoch == 0 || e.Partition != event.Partition("ana", "", 16) {
			t.Errorf("topic %s, event %+v", topic, e)
		}
		if !strings.HasPrefix(string(e.Raw), `{"id":"n1","type":"notification.chat","userId":"ana","timestamp":5,"data":{"text":"hi"},"extra":1,`+
			`"user":{"name":"Ana"},"processed":true,"processedAt":1`) {
			t.Errorf("event %s", e.Raw)
		}
		first := e.Seq
		push(t, p, "B1 api-1 0 0", `{"id":"n1","type":"notification.chat","userId":"ana"}`, `not json`, `{"id":"d","type":"debug.x"}`,
			`{"id":"o1","type":"order.created","userId":"ana","timestamp":6}`)
		if _, e = s.next(t, within(t)); e.ID != "o1" || e.Source != "api-1" || e.Seq != first+1 || e.Prev.User != first || e.Prev.Feed != first {
			t.Errorf("event %s", e.Raw)
		}
		if topic, e = s.next(t, within(t)); topic != "notification.order.ana" || e.ID != "o1/order-notification" || e.Seq != first+2 {
			t.Errorf("topic %s, event %s", topic, e.Raw)
		}
		page, err := w.journal.Replay(within(t), "ana", first, 10)
		if err != nil || len(page.Events) != 1 || !bytes.Equal(page.Events[0], e.Raw) {
			t.Errorf("the replay of ana is %s, %v", page.Events, err)
		}
		metrics := get(t, "http://"+w.Metrics()+"/metrics")
		for _, want := range []string{`eventspine_worker_malformed_events_total{kind="invalid"} 1`, `eventspine_worker_filtered_events_total{rule="drop-debug"} 1`,
			`eventspine_worker_repeated_events_total{where="journal"} 1`, "eventspine_worker_stored_events_total 3", "eventspine_worker_derived_events_total 1",
			"eventspine_ingest_received_events_total 5", "eventspine_worker_latency_seconds_count 3"} {
			if !strings.Contains(metrics, want) {
				t.Errorf("the metrics lack %s", want)
			}
		}
		if ready := get(t, "http://"+w.Metrics()+"/readyz"); !strings.Contains(ready, `"ready"`) {
			t.Errorf("readyz says %s", ready)
		}
		if err := w.stop(); err != nil {
			t.Errorf("Run gave %v", err)
		}
	})
}

func putUser(t testing.TB, url, id, meta string) {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := profile.New(client).Put(within(t), id, json.RawMessage(meta)); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A change of a user's metadata is in the next event within a second, although it is cached.
func TestAChangedUserIsForgotten(t *testing.T) {
	url := testkit.Miniredis(t)
	s := newStage(t, url)
	w := s.worker(t, func(c *Config) { c.UserTTL = time.Hour })
	api, err := fanout.NewPublisher(fanout.Options{Endpoints: []string{s.xsub}, ZMQ: zmq.Options{ReconnectMin: 5 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = api.Close(context.Background()) }()
	const id = "a.b c"
	forgotten := func() string { return get(t, "http://"+w.Metrics()+"/metrics") }
	testkit.Eventually(t, patience, func() bool {
		api.UserChanged("somebody")
		return !strings.Contains(forgotten(), "eventspine_worker_users_forgotten_total 0\n")
	}, "changes reach the worker")
	p := pusher(t, w.Endpoint())
	for i, meta := range []string{"", `{"n":1}`, `{"n":2}`} {
		if meta != "" {
			putUser(t, url, id, meta)
			api.UserChanged(id)
		}
		limit := time.Now().Add(time.Second)
		for n := 0; ; n++ {
			push(t, p, fmt.Sprintf(`{"id":"%d-%d","type":"a.b","userId":%q}`, i, n, id))
			_, e := s.next(t, within(t))
			if got := strings.Contains(string(e.Raw), `,"user":{`); got == (meta != "") && strings.Contains(string(e.Raw), meta) {
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("a second later the event still is %s", e.Raw)
			}
		}
	}
}

// Whatever comes in on 5557, the good events of everybody go on.
func TestGarbageDisturbsNobody(t *testing.T) {
	s := newStage(t, testkit.Miniredis(t))
	w := s.worker(t, nil)
	good := pusher(t, w.Endpoint())
	bad := pusher(t, w.Endpoint())
	addr := strings.TrimPrefix(w.Endpoint(), "tcp://")
	for i, garbage := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + strings.Repeat("\x00", 48) + "\x02\x40\x00\x00\x00\x00\x00\x00\x00",
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, garbage); err != nil {
			t.Fatal(err)
		}
		push(t, bad, "no header", "secret")
		push(t, bad, `{"id":"x"}`)
		push(t, good, fmt.Sprintf(`{"id":"%d","type":"a.b"}`, i))
		if _, e := s.next(t, within(t)); e.ID != fmt.Sprint(i) {
			t.Errorf("got %s", e.Raw)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("the broken connection was not closed: %v", err)
		}
		_ = conn.Close()
	}
	// A frame over the limit ends its connection only.
	huge := pusher(t, w.Endpoint())
	if err := huge.Send(within(t), zmq.Msg{make([]byte, 15<<20)}); err != nil {
		t.Fatal(err)
	}
	push(t, good, `{"id":"last","type":"a.b"}`)
	if _, e := s.next(t, within(t)); e.ID != "last" {
		t.Errorf("got %s", e.Raw)
	}
	if log := w.log.String(); !strings.Contains(log, "malformed event") || strings.Contains(log, "secret") {
		t.Errorf("the log is\n%s", log)
	}
}

func TestRedisAwayAtTheStart(t *testing.T) {
	redis := testkit.StartRedis(t)
	redis.Kill()
	s := newStage(t, redis.URL())
	w := s.worker(t, nil)
	p := pusher(t, w.Endpoint())
	push(t, p, `{"id":"early","type":"a.b"}`)
	testkit.Eventually(t, patience, func() bool { return strings.Contains(w.log.String(), "dependency is away") }, "the log says that Redis is away")
	if ready := get(t, "http://"+w.Metrics()+"/readyz"); !strings.Contains(ready, "not ready") || !strings.Contains(ready, "redis") {
		t.Errorf("readyz says %s", ready)
	}
	redis.Restart()
	if _, e := s.next(t, within(t)); e.ID != "early" {
		t.Errorf("got %s", e.Raw)
	}
	testkit.Eventually(t, patience, func() bool { return strings.Contains(get(t, "http://"+w.Metrics()+"/readyz"), `"ready"`) }, "ready again")
}

// A Redis that throws events away under memory pressure is refused.
func TestAnEvictingRedisIsRefused(t *testing.T) {
	redis := testkit.StartRedis(t, "--maxmemory-policy", "allkeys-lru")
	s := newStage(t, redis.URL())
	c := s.config()
	d, err := Open(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(within(t), c, d); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("Run gave %v", err)
	}
}

func TestMarksTellTheHeads(t *testing.T) {
	s := newStage(t, testkit.Miniredis(t))
	w := s.worker(t, nil)
	push(t, pusher(t, w.Endpoint()), `{"id":"1","type":"a.b","userId":"ana"}`)
	_, e := s.next(t, within(t))
	s.wantMark(t, fmt.Sprintf(`_mark.%d {"seq":%d,"epoch":%d,"feed":0}`, e.Partition, e.Seq, e.Epoch))

	// What another worker stored, and one that died published nothing of, is told, too.
	out, err := w.journal.Append(within(t), entriesOf("silent@ana"))
	if err != nil {
		t.Fatal(err)
	}
	s.wantMark(t, fmt.Sprintf(`_mark.%d {"seq":%d,"epoch":%d,"feed":0}`, e.Partition, out[0].Seq, e.Epoch))

	// So is the epoch of a wiped Redis, though nothing comes in.
	client, err := rdb.Open(s.redis)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := client.FlushAll(within(t)).Err(); err != nil {
		t.Fatal(err)
	}
	var m struct{ Seq, Epoch, Feed uint64 }
	for m.Epoch <= e.Epoch {
		got := s.reserved(t, event.TopicMark+fmt.Sprint(e.Partition))
		if err := json.Unmarshal(got, &m); err != nil {
			t.Fatal(err)
		}
	}
	if m.Seq != m.Epoch || m.Epoch <= out[0].Seq {
		t.Errorf("after the wipe %+v", m)
	}
}

// reserved gives the next message of a reserved topic.
func (s *stage) reserved(t testing.TB, topic string) []byte {
	t.Helper()
	ctx := within(t)
	for {
		m, err := s.sub.Recv(ctx)
		if err != nil {
			t.Fatalf("no message of %s came: %v", topic, err)
		}
		if m.Topic == topic {
			return m.Body
		}
	}
}

func (s *stage) wantMark(t testing.TB, want string) {
	t.Helper()
	ctx, last := within(t), ""
	for last != want {
		m, err := s.sub.Recv(ctx)
		if err != nil {
			t.Fatalf("the last mark was %s; want %s", last, want)
		}
		if topic, _, _ := strings.Cut(want, " "); m.Topic == topic {
			last = m.Topic + " " + string(m.Body)
		}
	}
}

func TestOptionalOutputs(t *testing.T) {
	s := newStage(t, testkit.Miniredis(t))
	w := s.worker(t, func(c *Config) {
		c.PushBind, c.PubBind = "tcp://"+testkit.FreeAddr(t), "tcp://"+testkit.FreeAddr(t)
		s.xsub, s.xpub = c.PushBind, c.PubBind // remembered for below
	})
	pull, sub := zmq.New(zmq.Pull, zmq.Options{}), zmq.New(zmq.Sub, zmq.Options{})
	for _, o := range []*zmq.Socket{pull, sub} {
		defer func() { _ = o.Close(context.Background()) }()
	}
	if err := sub.Subscribe("a.b.ana "); err != nil {
		t.Fatal(err)
	}
	for o, at := range map[*zmq.Socket]string{pull: s.xsub, sub: s.xpub} {
		if err := o.Connect(at); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, patience, func() bool {
		peers := w.out.pub.Peers()
		return w.out.push.Stats().Peers == 1 && len(peers) == 1 && peers[0].Subscriptions == 1
	}, "the outputs are connected")
	push(t, pusher(t, w.Endpoint()), `{"id":"1","type":"a.b","userId":"ana"}`)
	_, e := s.next(t, within(t))
	if m, err := pull.Recv(within(t)); err != nil || string(m[0]) != string(e.Raw) {
		t.Errorf("PUSH gave %s, %v", m, err)
	}
	if m, err := sub.Recv(within(t)); err != nil || string(m[0]) != "a.b.ana "+string(e.Raw) {
		t.Errorf("PUB gave %s, %v", m, err)
	}
}

// At the end everything that was sent before is stored and published.
func TestStopDrains(t *testing.T) {
	s := newStage(t, testkit.Redis(t))
	w := s.worker(t, nil)
	const n = 5000
	snd := sender(t, w.Endpoint())
	events := make([]event.Event, n)
	for i := range events {
		events[i] = mustEvent(t, fmt.Sprintf(`{"id":"e%d","type":"a.b","userId":"u%d"}`, i, i%50))
	}
	for _, err := range snd.TrySend(events) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := snd.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.stop(); err != nil {
		t.Errorf("Run gave %v", err)
	}
	seen := map[string]bool{}
	for len(seen) < n {
		_, e := s.next(t, within(t))
		if seen[e.ID] {
			t.Fatalf("%s twice", e.ID)
		}
		seen[e.ID] = true
	}
}

// With Redis away for good the end still comes in time, and says what was not stored.
func TestStopWithoutRedisSaysWhatIsLost(t *testing.T) {
	redis := testkit.StartRedis(t)
	s := newStage(t, redis.URL())
	w := s.worker(t, nil)
	p := pusher(t, w.Endpoint())
	push(t, p, `{"id":"1","type":"a.b"}`)
	s.next(t, within(t))
	redis.Kill()
	push(t, p, `{"id":"2","type":"a.b"}`)
	testkit.Eventually(t, patience, func() bool { return strings.Contains(w.log.String(), "dependency is away") }, "the commit fails")
	w.drain = 300 * time.Millisecond // read by Run when it is told to end
	begin := time.Now()
	err := w.stop()
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "1 events in hand") || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func TestAnEndedContextOnlyCloses(t *testing.T) {
	s := newStage(t, "redis://127.0.0.1:1")
	c := s.config()
	d, err := Open(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, c, d); err != nil {
		t.Error(err)
	}
}

func TestOpenNamesTheWrongSetting(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	busy := "tcp://" + taken.Addr().String()
	badRules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(badRules, []byte("rules:\n  - {name: a, match: b, drop: true, when: nonsense}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stage{redis: "redis://127.0.0.1:1", xsub: "tcp://127.0.0.1:1", xpub: "tcp://127.0.0.1:1"}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
		kind   fault.Kind
	}{
		"redis":      {func(c *Config) { c.RedisURL = "http://x" }, "REDIS_URL", fault.Invalid},
		"rules":      {func(c *Config) { c.Rules = badRules }, "rules.yaml:2:", fault.Invalid},
		"no rules":   {func(c *Config) { c.Rules = "/nowhere" }, "WORKER_RULES", fault.Invalid},
		"bind":       {func(c *Config) { c.Bind = "x" }, "ZMQ_PROCESSING_BIND", fault.Invalid},
		"bind taken": {func(c *Config) { c.Bind = busy }, "ZMQ_PROCESSING_BIND", fault.Unavailable},
		"publish":    {func(c *Config) { c.XSub = []string{"x"} }, "ZMQ_PROXY_XSUB", fault.Invalid},
		"subscribe":  {func(c *Config) { c.XPub = []string{"x"} }, "ZMQ_PROXY_XPUB", fault.Invalid},
		"push":       {func(c *Config) { c.PushBind = busy }, "ZMQ_OUTPUT_PUSH_BIND", fault.Unavailable},
		"pub":        {func(c *Config) { c.PubBind = "x" }, "ZMQ_OUTPUT_PUB_BIND", fault.Invalid},
		"statsd":     {func(c *Config) { c.Statsd = "no port" }, "STATSD_ADDR", fault.Invalid},
		"metrics":    {func(c *Config) { c.Metrics = taken.Addr().String() }, "METRICS_ADDR", fault.Unavailable},
		"wait":       {func(c *Config) { c.ProxyWait = -1 }, "WORKER_PROXY_WAIT", fault.Invalid},
		"many": {func(c *Config) { c.Partitions, c.XSub, c.JournalAge = 0, nil, 0 },
			"ZMQ_PROXY_XSUB needs at least one endpoint; PARTITIONS must be 1 to 1024; JOURNAL_AGE must not be shorter", fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config()
			c.change(&cfg)
			_, err := Open(within(t), cfg)
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v of kind %v, want %s named", err, fault.KindOf(err), c.want)
			}
		})
	}
	if c := DefaultConfig(); len(c.Validate()) > 0 {
		t.Error("the defaults are not valid")
	}
}

// A worker that starts before its proxy takes nothing in until that asks for what it publishes,
// for WORKER_PROXY_WAIT at most.
func TestAWorkerWaitsForTheProxy(t *testing.T) {
	s := &stage{redis: testkit.Miniredis(t), xsub: "tcp://" + testkit.FreeAddr(t), xpub: "tcp://" + testkit.FreeAddr(t)}
	patient := s.launch(t, func(c *Config) { c.ProxyWait = patience })
	hasty := s.launch(t, func(c *Config) { c.ProxyWait = 50 * time.Millisecond })
	stored := func(r *running) float64 { return testutil.ToFloat64(r.m.stored) }
	for _, r := range []*running{patient, hasty} {
		push := zmq.New(zmq.Push, zmq.Options{})
		defer func() { _ = push.Close(context.Background()) }()
		if err := push.Connect(r.Endpoint()); err != nil {
			t.Fatal(err)
		}
		if err := push.Send(within(t), zmq.Msg{[]byte(`{"type":"notification.x","userId":"u"}`)}); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, patience, func() bool { return push.Stats().Sent == 1 }, "the event is sent")
	}
	testkit.Eventually(t, patience, func() bool { return stored(hasty) == 1 }, "the hasty one stores without a proxy")
	if !strings.Contains(hasty.log.String(), "stored without a proxy") {
		t.Error("it does not say so")
	}
	if stored(patient) != 0 {
		t.Error("the patient one stored before the proxy was there")
	}
	proxyAt(t, s.xsub, s.xpub)
	testkit.Eventually(t, patience, func() bool { return stored(patient) == 1 }, "the patient one stores once the proxy is there")
}
