package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"eventspine/internal/auth"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/socketio/client"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

const secret = "0123456789abcdef"

// node is a bridge that runs, with the proxy's side of its subscription.
type node struct {
	*Deps
	xpub  *zmq.Socket
	end   func() error
	count int // events stored
}

func testConfig(redisURL string) Config {
	c := DefaultConfig()
	c.JWTSecret, c.RedisURL = secret, redisURL
	c.Addr, c.Health, c.Metrics = "127.0.0.1:0", "tcp://127.0.0.1:0", "127.0.0.1:0"
	return c
}

func startNode(t *testing.T, c Config) *node {
	t.Helper()
	xpub := zmq.New(zmq.XPub, zmq.Options{})
	endpoint, err := xpub.Bind(context.Background(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.XPub = []string{endpoint}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c, d) }()
	n := &node{Deps: d, xpub: xpub}
	var result error
	done := false
	n.end = func() error {
		if !done {
			cancel()
			result, done = <-ended, true
		}
		return result
	}
	t.Cleanup(func() {
		if err := n.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		_ = xpub.Close(short(t))
	})
	subscribed := n.answerProbes(t)
	for range c.topics() { // the subscriptions arrive one by one
		select {
		case <-subscribed:
		case <-short(t).Done():
			t.Fatal("the bridge does not subscribe")
		}
	}
	return n
}

// answerProbes does what the proxy does with subscriptions, and tells of the others.
func (n *node) answerProbes(t *testing.T) <-chan struct{} {
	t.Helper()
	others, ended := make(chan struct{}, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		for m, err := n.xpub.Recv(ctx); err == nil; m, err = n.xpub.Recv(ctx) {
			answer, probe := fanout.Welcome(m)
			if answer != nil {
				_ = n.xpub.TrySend(answer) // only a closed socket does not take it
			}
			if !probe {
				others <- struct{}{}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return others
}

func (n *node) publish(t *testing.T, raw []byte) {
	t.Helper()
	e, err := event.ParseStored(raw)
	if err != nil {
		t.Fatal(err)
	}
	n.publishAs(t, event.Topic(e.Type, e.UserID), raw)
}

func (n *node) publishAs(t *testing.T, topic string, raw []byte) {
	t.Helper()
	if err := n.xpub.Send(short(t), zmq.Msg{append([]byte(topic+" "), raw...)}); err != nil {
		t.Fatal(err)
	}
}

// post stores an event as a worker does and publishes it.
func (n *node) post(t *testing.T, user, typ string) []byte {
	t.Helper()
	n.count++
	id := fmt.Sprint(user, "-", n.count)
	raw := fmt.Appendf(nil, `{"id":%q,"type":%q,"userId":%q,"timestamp":%d}`, id, typ, user, noon)
	got, err := n.journal.Append(short(t), []journal.Entry{{Event: event.Event{ID: id, UserID: user, Raw: raw}, Deliverable: true}})
	if err != nil {
		t.Fatal(err)
	}
	n.publish(t, got[0].Raw)
	return got[0].Raw
}

// awaitReady waits until nothing is missed any more.
func (n *node) awaitReady(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, 15*time.Second, func() bool { status, _ := n.ready(t); return status == 200 }, "ready")
}

func (n *node) dial(t *testing.T, user string) *client.Client {
	t.Helper()
	return n.dialWith(t, sign(t, auth.Claims{Subject: user}))
}

func sign(t *testing.T, c auth.Claims) string {
	t.Helper()
	token, err := auth.Sign(secret, c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (n *node) dialWith(t *testing.T, token string) *client.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := client.Dial(short(t), "http://"+n.Addr(), token, client.Options{HTTP: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (n *node) ready(t *testing.T) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + n.Metrics() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func wantEvent(t *testing.T, c *client.Client, name string, raw []byte) {
	t.Helper()
	got, payload, err := c.Recv(short(t))
	if err != nil || got != name || string(payload) != string(raw) {
		t.Fatalf("received %s %s, %v; want %s %s", got, payload, err, name, raw)
	}
}

func TestEventsReachBrowsers(t *testing.T) {
	n := startNode(t, testConfig(testkit.Miniredis(t)))
	ana, phone, bob := n.dial(t, "ana"), n.dial(t, "ana"), n.dial(t, "bob")
	testkit.Eventually(t, 10*time.Second, func() bool { return n.hub.Len() == 3 }, "three browsers connected")
	n.awaitReady(t)
	one, two := n.post(t, "ana", "notification.order"), n.post(t, "bob", "status")
	n.publish(t, one)
	all := n.post(t, "*", "alert.fire")
	for _, c := range []*client.Client{ana, phone} {
		wantEvent(t, c, "notification", one)
		wantEvent(t, c, "alert", all)
	}
	wantEvent(t, bob, "status", two)
	wantEvent(t, bob, "alert", all)
	if err := n.end(); err != nil {
		t.Fatal(err)
	}
	if name, notice, err := ana.Recv(short(t)); name != "closing" || !strings.Contains(string(notice), `"retryAfter":`) {
		t.Errorf("at the end: %s %s %v", name, notice, err)
	}
	if _, _, err := ana.Recv(short(t)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// openJournal is another's way to the journal.
func openJournal(t *testing.T, url string) *journal.Journal {
	t.Helper()
	redis, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Close() })
	j := journal.New(redis, journal.Options{})
	if err := j.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	return j
}

// TestSyncFromTheJournal runs on both Redis servers: what was missed comes back, in order.
func TestSyncFromTheJournal(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		j := openJournal(t, url)
		seqs := map[string]uint64{}
		for i, user := range []string{"ana", "*", "bob", "ana", "*", "ana"} {
			raw := fmt.Appendf(nil, `{"id":"e%d","type":"status","userId":%q,"processedAt":%d}`, i, user, time.Now().UnixMilli()+int64(i))
			got, err := j.Append(short(t), []journal.Entry{{Event: event.Event{ID: fmt.Sprint("e", i), UserID: user, Raw: raw}, Deliverable: true}})
			if err != nil {
				t.Fatal(err)
			}
			seqs[fmt.Sprint("e", i)] = got[0].Seq
		}
		n := startNode(t, testConfig(url))
		c := n.dial(t, "ana")
		for since, want := range map[any]string{
			0:                          "e0 e1 e3 e4 e5",
			seqs["e5"]:                 "e1 e4", // broadcasts of the last seconds come again
			struct{}{}:                 "e0 e1 e3 e4 e5",
			at{seqs["e0"], 0}:          "e1 e3 e4 e5",
			at{seqs["e3"], seqs["e1"]}: "e4 e5",
		} {
			events, info, err := c.SyncSince(short(t), since)
			if got := idsOf(t, events); err != nil || got != want || !info.Complete || info.More {
				t.Errorf("sync(%v) = %s, %+v, %v; want %s", since, got, info, err, want)
			}
			again, info, err := c.SyncSince(short(t), info.Last)
			if err != nil || len(again) != 0 || !info.Complete {
				t.Errorf("sync(last of %v) = %s, %+v, %v", since, again, info, err)
			}
		}
		if _, complete, err := c.Sync(short(t), 1); err != nil || complete {
			t.Errorf("a number of no event: complete %v, %v", complete, err)
		}
	})
}

type at struct {
	User uint64 `json:"user"`
	All  uint64 `json:"all"`
}

func idsOf(t *testing.T, events []json.RawMessage) string {
	t.Helper()
	ids := make([]string, len(events))
	for i, raw := range events {
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		ids[i] = e.ID
	}
	return strings.Join(ids, " ")
}

// TestLostEventsAreMadeUpFor: what the proxy drops comes from the journal, in order, also when
// nothing follows but a mark; what was stored again after a loss of Redis is for sync only.
func TestLostEventsAreMadeUpFor(t *testing.T) {
	n := startNode(t, testConfig(testkit.Redis(t)))
	c := n.dial(t, "ana")
	testkit.Eventually(t, 10*time.Second, func() bool { return n.hub.Len() == 1 }, "connected")
	n.awaitReady(t)
	store := func(id, extra string) journal.Stored {
		t.Helper()
		raw := fmt.Appendf(nil, `{"id":%q,"type":"status","userId":"ana","timestamp":%d%s}`, id, noon, extra)
		got, err := n.journal.Append(short(t), []journal.Entry{{Event: event.Event{ID: id, UserID: "ana", Raw: raw}, Deliverable: true}})
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	first, second, third := store("a1", ""), store("a2", ""), store("a3", "")
	n.publish(t, third.Raw)
	for _, s := range []journal.Stored{first, second, third} {
		wantEvent(t, c, "status", s.Raw)
	}
	again, last := store("a4", `,"redelivered":true`), store("a5", "")
	mark := fmt.Appendf(nil, "_mark.%d {\"seq\":%d,\"epoch\":%d,\"feed\":%d}", last.Partition, last.Seq, last.Epoch, last.Seq)
	if err := n.xpub.Send(short(t), zmq.Msg{mark}); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, c, "status", last.Raw)
	events, info, err := c.SyncSince(short(t), at{third.Seq, 0})
	if got := idsOf(t, events); err != nil || got != "a4 a5" || !info.Complete {
		t.Errorf("sync: %s %+v %v; %s was stored again", got, info, err, again.Raw)
	}
}

func TestRedisAwayAtTheStart(t *testing.T) {
	server := testkit.StartRedis(t)
	server.Kill()
	n := startNode(t, testConfig(server.URL()))
	// Which tokens were revoked nobody knows yet, so nobody is let in.
	if _, err := client.Dial(short(t), "http://"+n.Addr(), sign(t, auth.Claims{Subject: "ana"}), client.Options{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("connected before the revocations are known: %v", err)
	}
	if status, text := n.ready(t); status != 503 || !strings.Contains(text, "redis") {
		t.Errorf("/readyz: %d %s", status, text)
	}
	server.Restart()
	n.awaitReady(t)
	c := n.dial(t, "ana")
	if _, complete, err := c.Sync(short(t), 0); err != nil || !complete {
		t.Errorf("sync with redis: complete %v, %v", complete, err)
	}
	first, err := event.ParseStored(n.post(t, "ana", "status"))
	if err != nil {
		t.Fatal(err)
	}
	wantEvent(t, c, "status", first.Raw)
	server.Kill() // once they are known, who comes is let in, and live events flow
	phone := n.dial(t, "ana")
	testkit.Eventually(t, 10*time.Second, func() bool { return n.hub.Connections("ana") == 2 }, "connected")
	raw := fmt.Appendf(nil, `{"id":"live","type":"status","userId":"ana","timestamp":%d}`, noon)
	live := event.Splice(raw, event.AppendPosition(nil, event.Position{Partition: first.Partition, Seq: first.Seq + 1, Epoch: first.Epoch, Prev: event.Prev{User: first.Seq, Feed: first.Seq}}))
	n.publish(t, live)
	wantEvent(t, c, "status", live)
	wantEvent(t, phone, "status", live)
	if events, info, err := c.SyncSince(short(t), 3); err != nil || len(events) != 0 || info.Complete || info.Error == "" {
		t.Errorf("sync without redis: %s %+v %v", events, info, err)
	}
}

func TestOpenRefusesWrongSettings(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"secret": func(c *Config) { c.JWTSecret = "short" },
		"redis":  func(c *Config) { c.RedisURL = "nonsense" },
		"proxy":  func(c *Config) { c.XPub = []string{"nonsense"} },
		"origin": func(c *Config) { c.Origins = []string{"nonsense"} },
	} {
		c := testConfig("redis://127.0.0.1:1")
		change(&c)
		if _, err := Open(short(t), c); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	taken := startNode(t, testConfig(testkit.Miniredis(t)))
	for name, change := range map[string]func(*Config){
		"address": func(c *Config) { c.Addr = taken.Addr() },
		"metrics": func(c *Config) { c.Metrics = taken.Metrics() },
	} {
		c := testConfig("redis://127.0.0.1:1")
		change(&c)
		if _, err := Open(short(t), c); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s taken: %v", name, err)
		}
	}
}

func TestWrongPartitionCountEndsTheBridge(t *testing.T) {
	url := testkit.Miniredis(t)
	redis, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Close() })
	if err := journal.New(redis, journal.Options{Partitions: 4}).Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	c := testConfig(url)
	c.XPub = []string{"tcp://127.0.0.1:1"}
	d, err := Open(short(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(short(t), c, d); fault.KindOf(err) != fault.Invalid {
		t.Errorf("Run: %v", err)
	}
}

func TestDrainDeliversWhatWasSent(t *testing.T) {
	n := startNode(t, testConfig(testkit.Miniredis(t)))
	c := n.dial(t, "ana")
	testkit.Eventually(t, 10*time.Second, func() bool { return n.hub.Len() == 1 }, "connected")
	n.awaitReady(t)
	const count = 500
	var sent [][]byte
	for range count {
		sent = append(sent, n.post(t, "ana", "status"))
	}
	began := time.Now()
	if err := n.end(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("the end took %v", took)
	}
	for _, raw := range sent {
		wantEvent(t, c, "status", raw)
	}
}
