package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/archive"
	"eventspine/internal/embedded/search"
	"eventspine/internal/event"
	"eventspine/internal/ingest"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// node is a running api and what it talks to.
type node struct {
	t      *testing.T
	deps   *Deps
	client *http.Client
	bearer string
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, c Config) *node {
	t.Helper()
	d, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{t: t, deps: d, client: &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}, cancel: cancel, done: make(chan error, 1)}
	n.bearer = "Bearer " + token(t, "42", "emit", "admin")
	go func() { n.done <- Run(ctx, c, d) }()
	t.Cleanup(func() { _ = n.stop() })
	return n
}

// stop ends the api and returns what Run said; a second call is nothing.
func (n *node) stop() error {
	n.cancel()
	n.client.CloseIdleConnections()
	select {
	case err, ok := <-n.done:
		if ok {
			close(n.done)
		}
		return err
	case <-time.After(12 * time.Second):
		n.t.Fatal("the api does not end")
		return nil
	}
}

func (n *node) call(method, path, body string) (int, string, http.Header) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://"+n.deps.Addr()+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", n.bearer)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return n.roundTrip(req)
}

func (n *node) roundTrip(req *http.Request) (int, string, http.Header) {
	n.t.Helper()
	res, err := n.client.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func (n *node) ready() (int, string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://"+n.deps.Metrics()+"/readyz", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	status, body, _ := n.roundTrip(req)
	return status, body
}

func (n *node) waitReady() {
	n.t.Helper()
	testkit.Eventually(n.t, 10*time.Second, func() bool { status, _ := n.ready(); return status == 200 }, "the api is ready")
}

// worker receives what the api pushes.
func worker(t *testing.T) *ingest.Receiver {
	t.Helper()
	// A short queue, so that a worker that does not read soon holds the api back.
	r, err := ingest.Listen(t.Context(), "tcp://127.0.0.1:0", ingest.ReceiverOptions{ZMQ: zmq.Options{RcvHWM: 10}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Close(ctx)
	})
	return r
}

// take reads n events that a worker received.
func take(t *testing.T, r *ingest.Receiver, n int) []event.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out []event.Event
	for len(out) < n {
		b, err := r.Recv(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		for _, raw := range b.Events {
			e, err := event.Parse(raw)
			if err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			out = append(out, e)
		}
	}
	return out
}

func elasticsearch(t *testing.T) *search.Server {
	t.Helper()
	s, err := search.Start(t.Context(), search.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// proxy stands for the proxy's XSUB side: it hears what the api publishes.
func proxy(t *testing.T) (*zmq.Socket, string) {
	t.Helper()
	s := zmq.New(zmq.Sub, zmq.Options{})
	at, err := s.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Subscribe("_user."); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s, at
}

func TestEventsReachTheWorker(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		w, es := worker(t), elasticsearch(t)
		heard, at := proxy(t)
		c := anyPort(t)
		c.Workers, c.RedisURL, c.ESHosts, c.XSub = []string{w.Endpoint()}, url, []string{es.URL()}, []string{at}
		n := start(t, c)
		n.waitReady()
		n.posts(w)
		n.keepsUsers(heard)
		n.searches(c.ESHosts)
		if _, body := n.ready(); !strings.Contains(body, "elasticsearch") || !strings.Contains(body, "workers") || !strings.Contains(body, "redis") {
			t.Errorf("/readyz says %s", body)
		}
		if err := n.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func (n *node) posts(w *ingest.Receiver) {
	n.t.Helper()
	if status, body, _ := n.call("POST", "/api/events", `{"id":"one","type":"notification.x","userId":"7"}`); status != 202 {
		n.t.Fatalf("answered %d %s", status, body)
	}
	if e := take(n.t, w, 1)[0]; e.ID != "one" || e.UserID != "7" || e.Source != "api-1" || e.Timestamp == 0 {
		n.t.Errorf("the worker got %+v", e)
	}
	var items []string
	for i := range 500 {
		items = append(items, fmt.Sprintf(`{"id":"b%d","type":"a","userId":"%d"}`, i, i%20))
	}
	status, body, _ := n.call("POST", "/api/events/batch", "["+strings.Join(items, ",")+"]")
	if status != 202 || !strings.HasPrefix(body, `{"accepted":500,"refused":0,`) {
		n.t.Fatalf("answered %d %.200s", status, body)
	}
	last := map[string]int{}
	for _, e := range take(n.t, w, 500) {
		var i int
		if _, err := fmt.Sscanf(e.ID, "b%d", &i); err != nil || i < last[e.UserID] {
			n.t.Errorf("user %s got b%d after b%d", e.UserID, i, last[e.UserID])
		}
		last[e.UserID] = i
	}
	if status, body, _ := n.call("POST", "/api/orders", `{"amount":5}`); status != 202 {
		n.t.Fatalf("answered %d %s", status, body)
	}
	if e := take(n.t, w, 1)[0]; e.Type != "order.created" || e.UserID != "42" {
		n.t.Errorf("the worker got %+v", e)
	}
}

func (n *node) keepsUsers(heard *zmq.Socket) {
	n.t.Helper()
	testkit.Eventually(n.t, 5*time.Second, func() bool { return n.deps.publish.Peers() == 1 }, "the proxy is connected")
	user := "/api/users/ana.b%2Fc"
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	for i, step := range []struct {
		method, body string
		status       int
	}{{"PUT", `{"name":"Ana","tags":[1,2]}`, 204}, {"GET", "", 200}, {"DELETE", "", 204}, {"GET", "", 404}} {
		status, body, _ := n.call(step.method, user, step.body)
		if status != step.status {
			n.t.Fatalf("step %d answered %d %s", i, status, body)
		}
		if step.status == 200 {
			var meta map[string]any
			if err := json.Unmarshal([]byte(body), &meta); err != nil || meta["name"] != "Ana" || len(meta) != 2 {
				n.t.Errorf("the metadata came back as %s", body)
			}
		}
		if step.status != 204 {
			continue
		}
		m, err := heard.Recv(ctx)
		if err != nil || len(m) != 1 || string(m[0]) != "_user.ana%2Eb/c {}" {
			n.t.Errorf("step %d published %q, %v", i, m, err)
		}
	}
}

func (n *node) searches(hosts []string) {
	n.t.Helper()
	a, err := archive.New(archive.Options{URLs: hosts})
	if err != nil {
		n.t.Fatal(err)
	}
	defer a.Close()
	if err := a.Prepare(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	var docs []event.Event
	for i := range 3 {
		raw := fmt.Sprintf(`{"id":"s%d","type":"notification.order","userId":"7","timestamp":%d,"data":{"text":"blue chair"},"partition":1,"seq":%d,"epoch":1}`, i, 1448020800000+i, i+1)
		e, err := event.ParseStored([]byte(raw))
		if err != nil {
			n.t.Fatal(err)
		}
		docs = append(docs, e)
	}
	if res, err := a.Index(n.t.Context(), docs); err != nil || res.Indexed != 3 {
		n.t.Fatalf("%+v, %v", res, err)
	}
	if err := a.Refresh(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	type page struct {
		Total  int
		Events []struct{ ID string }
		Next   string
	}
	var got []string
	path := "/api/search?q=chair&type=notification.*&userId=7&order=asc&size=2"
	for next := ""; len(got) < 4; {
		status, body, _ := n.call("GET", path+next, "")
		var p page
		if err := json.Unmarshal([]byte(body), &p); err != nil || status != 200 || p.Total != 3 {
			n.t.Fatalf("answered %d %s", status, body)
		}
		for _, e := range p.Events {
			got = append(got, e.ID)
		}
		if p.Next == "" {
			break
		}
		next = "&after=" + p.Next
	}
	if strings.Join(got, " ") != "s0 s1 s2" {
		n.t.Errorf("found %v", got)
	}
	if status, body, _ := n.call("GET", "/api/search?after=rubbish", ""); status != 400 {
		n.t.Errorf("a bad page token answered %d %s", status, body)
	}
}

func TestWhileEverythingIsAway(t *testing.T) {
	n := start(t, anyPort(t))
	began := time.Now()
	for _, c := range []struct{ method, path, body, retry string }{
		{"PUT", "/api/users/42", `{}`, "5"},
		{"GET", "/api/users/42", ``, "5"},
		{"GET", "/api/search", ``, "5"},
	} {
		status, body, header := n.call(c.method, c.path, c.body)
		if status != 503 || header.Get("Retry-After") != c.retry || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s answered %d %s", c.method, c.path, status, body)
		}
		if strings.Contains(body, "127.0.0.1") {
			t.Errorf("the answer tells addresses: %s", body)
		}
	}
	for path, body := range map[string]string{"/api/events": `{"type":"a"}`, "/api/orders": `{"amount":1}`, "/api/events/batch": `[{"type":"a"},{"type":"b"}]`} {
		if status, body, _ := n.call("POST", path, body); status != 202 {
			t.Errorf("%s answered %d %s", path, status, body)
		}
	}
	if n := n.deps.outbox.Unacknowledged(); n != 4 {
		t.Errorf("%d events wait on disk", n)
	}
	if status, _, _ := n.call("GET", "/docs", ""); status != 200 {
		t.Errorf("/docs answered %d", status)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	status, body := n.ready()
	if status != 503 || !strings.Contains(body, "workers") || !strings.Contains(body, "redis") || !strings.Contains(body, "elasticsearch") {
		t.Errorf("/readyz answered %d %s", status, body)
	}
}

func TestElasticsearchMayBeAway(t *testing.T) {
	w := worker(t)
	c := anyPort(t)
	c.Workers, c.RedisURL = []string{w.Endpoint()}, testkit.Miniredis(t)
	n := start(t, c)
	n.waitReady()
	if _, body := n.ready(); !strings.Contains(body, "elasticsearch") {
		t.Errorf("/readyz does not mention Elasticsearch: %s", body)
	}
	if status, body, _ := n.call("POST", "/api/events", `{"type":"a"}`); status != 202 {
		t.Errorf("answered %d %s", status, body)
	}
	take(t, w, 1)
}

func TestAWorkerThatComesLateGetsEvents(t *testing.T) {
	addr := testkit.FreeAddr(t)
	c := anyPort(t)
	c.Workers = []string{"tcp://" + addr}
	n := start(t, c)
	if status, _, _ := n.call("POST", "/api/events", `{"id":"late","type":"a"}`); status != 202 {
		t.Errorf("answered %d without a worker", status)
	}
	r, err := ingest.Listen(t.Context(), "tcp://"+addr, ingest.ReceiverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(context.Background()) }()
	if e := take(t, r, 1)[0]; e.ID != "late" {
		t.Errorf("got %+v", e)
	}
}

// A worker that does not read holds nobody up: events wait on disk until that is full. What was
// accepted is sent once there is a worker that reads, also by the next process.
func TestAFullLogIsA503AndNothingAcceptedIsLost(t *testing.T) {
	addr := testkit.FreeAddr(t)
	c := anyPort(t)
	c.Workers, c.SendQueue, c.WALSize = []string{"tcp://" + addr}, 10, minWAL
	n := start(t, c)
	big := strings.Repeat("x", 200<<10)
	accepted, refused := 0, 0
	for refused == 0 && accepted < 1000 {
		status, body, header := n.call("POST", "/api/events", fmt.Sprintf(`{"id":"%d","type":"a","userId":"7","data":"%s"}`, accepted, big))
		switch {
		case status == 202:
			accepted++
		case status == 503 && header.Get("Retry-After") == "1":
			refused++
		default:
			t.Fatalf("answered %d %s", status, body)
		}
	}
	if refused == 0 || accepted < 200 {
		t.Fatalf("%d were accepted, %d refused", accepted, refused)
	}
	if got := testutil.ToFloat64(n.deps.api.metrics.accepted); got != float64(accepted) {
		t.Errorf("counted %v accepted events, want %d", got, accepted)
	}
	if err := n.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	w, err := ingest.Listen(t.Context(), "tcp://"+addr, ingest.ReceiverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n = start(t, c)
	stopped := make(chan struct{})
	go func() { // the worker's answers, as if they came through a proxy
		defer close(stopped)
		for {
			b, err := w.Recv(t.Context())
			if err != nil {
				return
			}
			a := ingest.Ack{Generation: b.Numbered.Generation, Partition: b.Numbered.Partition, Round: b.Numbered.Round, Epoch: 5, Last: b.Numbered.First - 1 + uint64(len(b.Events))}
			if len(b.Events) == 0 {
				a.Last = 0
			}
			n.deps.outbox.Acknowledge(a)
		}
	}()
	testkit.Eventually(t, 20*time.Second, func() bool { return n.deps.outbox.Unacknowledged() == 0 }, "all is stored")
	testkit.Eventually(t, 10*time.Second, func() bool {
		status, _, _ := n.call("POST", "/api/events", `{"type":"a"}`)
		return status == 202
	}, "there is room again")
	_ = n.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.Close(ctx)
	<-stopped
}

func TestRequestsInHandAreFinished(t *testing.T) {
	w := worker(t)
	c := anyPort(t)
	c.Workers = []string{w.Endpoint()}
	n := start(t, c)
	testkit.Eventually(t, 10*time.Second, func() bool { return n.deps.outbox.Workers() == 1 }, "the worker is connected")
	body, more := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.deps.Addr()+"/api/events/batch", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", n.bearer)
	answered := make(chan int, 1)
	go func() {
		res, err := n.client.Do(req)
		if err != nil {
			answered <- 0
			return
		}
		_ = res.Body.Close()
		answered <- res.StatusCode
	}()
	if _, err := io.WriteString(more, `[{"id":"1","type":"a"}`); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, func() bool { return len(n.deps.api.batches) == 1 }, "the request is being served")
	n.cancel()
	testkit.Eventually(t, 10*time.Second, func() bool {
		conn, err := http.Get("http://" + n.deps.Addr() + "/docs")
		if err == nil {
			_ = conn.Body.Close()
		}
		return err != nil
	}, "no new connection is taken")
	if _, err := io.WriteString(more, `]`); err != nil {
		t.Fatal(err)
	}
	if err := more.Close(); err != nil {
		t.Fatal(err)
	}
	if status := <-answered; status != 202 {
		t.Errorf("the request in hand was answered %d", status)
	}
	take(t, w, 1)
	if err := n.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestPing(t *testing.T) {
	n := start(t, anyPort(t))
	s := zmq.New(zmq.Req, zmq.Options{})
	if err := s.Connect(n.deps.Health()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := s.Send(ctx, zmq.Msg{[]byte("PING")}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(ctx); err != nil || string(m[0]) != "PONG" {
		t.Errorf("answered %q, %v", m, err)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}
