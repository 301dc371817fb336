package socketio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/client"
	"eventspine/internal/socketio/hub"
)

func TestEventReachesItsUserOnly(t *testing.T) {
	r := start(t, nil)
	ana, desk, bob := r.dial(t, "ana"), r.dial(t, "ana"), r.dial(t, "bob")
	r.connected(t, 3)
	if n := r.hub.ToUser("ana", "notification", []byte(`{"text":"für dich 😀"}`), hub.Position{}); n != 2 {
		t.Errorf("queued for %d connections, want 2", n)
	}
	r.hub.ToAll("alert", []byte(`{"all":true}`), hub.Position{})
	want(t, ana, `notification {"text":"f\u00fcr dich \ud83d\ude00"}`, `alert {"all":true}`)
	want(t, desk, `notification {"text":"f\u00fcr dich \ud83d\ude00"}`, `alert {"all":true}`)
	want(t, bob, `alert {"all":true}`)
	if ana.ID() == desk.ID() || len(ana.ID()) != 22 { // 128 bits
		t.Errorf("session ids %q and %q", ana.ID(), desk.ID())
	}
}

func want(t *testing.T, c *client.Client, events ...string) {
	t.Helper()
	for _, want := range events {
		name, payload, err := c.Recv(short(t))
		if got := name + " " + string(payload); err != nil || got != want {
			t.Fatalf("received %s, %v; want %s", got, err, want)
		}
	}
}

func TestManyEventsKeepTheirOrder(t *testing.T) {
	r := start(t, func(o *Options) { o.QueueMessages = 10_000 })
	c := r.dial(t, "ana")
	p := r.poller(t, "ana")
	p.open()
	r.connected(t, 2)
	const n = 3000
	for i := range n {
		r.hub.ToUser("ana", "status", fmt.Append(nil, i), hub.Position{})
	}
	for i := range n {
		want(t, c, fmt.Sprint("status ", i))
	}
	for i := 0; i < n; {
		for _, got := range p.packets(p.must(200, http.MethodGet, "")) {
			if got != fmt.Sprintf(`42["status",%d]`, i) {
				t.Fatalf("packet %d is %s", i, got)
			}
			i++
		}
	}
}

func TestPollingDeliversInASCII(t *testing.T) {
	r := start(t, nil)
	p := r.poller(t, "ana")
	if got := p.open(); len(got) != 2 || got[1] != "40" {
		t.Fatalf("the handshake brought %q", got)
	}
	r.hub.ToUser("ana", "notification", []byte(`{"text":"für 😀"}`), hub.Position{})
	got := p.packets(p.must(200, http.MethodGet, ""))
	if len(got) != 1 || got[0] != `42["notification",{"text":"f\u00fcr \ud83d\ude00"}]` {
		t.Errorf("got %q", got)
	}
	if answer := p.must(200, http.MethodPost, "1:2"); answer != "ok" {
		t.Errorf("POST answered %q", answer)
	}
	if got := p.packets(p.must(200, http.MethodGet, "")); len(got) != 1 || got[0] != "3" {
		t.Errorf("the ping brought %q", got)
	}
	p.must(200, http.MethodPost, "1:1")
	r.ended(t, endClient)
	r.connected(t, 0)
	p.must(400, http.MethodGet, "")
}

func TestSyncHasTwoAnswers(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Sync = func(_ context.Context, user string, arg json.RawMessage) Synced {
			return Synced{Events: [][]byte{fmt.Appendf(nil, `{"user":%q,"arg":%s}`, user, arg), []byte(`{"ä":2}`)},
				Info: []byte(`{"complete":true,"last":{"user":7}}`)}
		}
	})
	c := r.dial(t, "ana")
	events, info, err := c.SyncSince(short(t), map[string]int{"user": 5})
	if err != nil || len(events) != 2 || string(events[0]) != `{"user":"ana","arg":{"user":5}}` || string(events[1]) != `{"\u00e4":2}` {
		t.Errorf("sync: %s, %v", events, err)
	}
	if !info.Complete || string(info.Last) != `{"user":7}` {
		t.Errorf("info: %+v", info)
	}
	p := r.poller(t, "bob")
	p.open()
	p.must(200, http.MethodPost, `14:420["sync",12]`)
	got := p.packets(p.must(200, http.MethodGet, ""))
	if len(got) != 1 || got[0] != `430[[{"user":"bob","arg":12},{"\u00e4":2}],{"complete":true,"last":{"user":7}}]` {
		t.Errorf("over polling: %q", got)
	}
}

func TestSyncWithoutABridgeOrAnArgument(t *testing.T) {
	r := start(t, nil)
	if events, complete, err := r.dial(t, "ana").Sync(short(t), 3); err != nil || len(events) != 0 || complete {
		t.Errorf("%v %v %v", events, complete, err)
	}
	p := r.poller(t, "ana")
	p.open()
	p.must(200, http.MethodPost, `11:421["sync"]`)
	if got := p.must(200, http.MethodGet, ""); !strings.Contains(got, `431[[],{"complete":false}]`) {
		t.Errorf("got %s", got)
	}
}

func TestLongReplayDoesNotPushOutTheClient(t *testing.T) {
	big := []byte(`"` + strings.Repeat("x", 3<<20) + `"`)
	r := start(t, func(o *Options) {
		o.Sync = func(context.Context, string, json.RawMessage) Synced { return Synced{Events: [][]byte{big}} }
	})
	c := r.dial(t, "ana")
	events, _, err := c.Sync(short(t), 0)
	if err != nil || len(events) != 1 || len(events[0]) != len(big) {
		t.Fatalf("%d events, %v", len(events), err)
	}
	r.hub.ToUser("ana", "status", []byte("1"), hub.Position{})
	want(t, c, "status 1")
}

func TestRefusals(t *testing.T) {
	r := start(t, func(o *Options) { o.Origins = []string{"https://app.example.com"} })
	owner := r.poller(t, "ana")
	owner.open()
	const base = "/socket.io/?EIO=3&transport="
	for name, tt := range map[string]struct {
		method, path string
		head         map[string]string
		status       int
		code         string
	}{
		"no token":                  {"GET", base + "polling", nil, 401, "unauthorized"},
		"wrong token":               {"GET", base + "polling&token=bad", nil, 401, "unauthorized"},
		"wrong bearer":              {"GET", base + "polling", map[string]string{"Authorization": "Bearer bad"}, 401, "unauthorized"},
		"no token but a session":    {"GET", base + "polling&sid=" + owner.sid, nil, 401, "unauthorized"},
		"session of somebody else":  {"GET", base + "polling&token=eve&sid=" + owner.sid, nil, 400, "not_found"},
		"POST to somebody else's":   {"POST", base + "polling&token=eve&sid=" + owner.sid, nil, 400, "not_found"},
		"upgrade of a session":      {"GET", base + "websocket&token=ana&sid=" + owner.sid, nil, 400, "not_found"},
		"guessed session":           {"GET", base + "polling&token=ana&sid=2", nil, 400, "not_found"},
		"token for everybody":       {"GET", base + "polling&token=*", nil, 403, "forbidden"},
		"foreign origin, polling":   {"GET", base + "polling&token=ana", map[string]string{"Origin": "https://evil.example"}, 403, "forbidden"},
		"foreign origin, websocket": {"GET", base + "websocket&token=ana", map[string]string{"Origin": "https://evil.example", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, 403, "forbidden"},
		"foreign origin, preflight": {"OPTIONS", base + "polling", map[string]string{"Origin": "https://evil.example"}, 403, "forbidden"},
		"no such transport":         {"GET", base + "pigeon&token=ana", nil, 400, "invalid"},
		"JSONP":                     {"GET", base + "polling&token=ana&j=alert(1)", nil, 400, "invalid"},
		"POST without a session":    {"POST", base + "polling&token=ana", nil, 400, "invalid"},
		"no upgrade":                {"GET", base + "websocket&token=ana", nil, 400, "invalid"},
		"bad upgrade":               {"GET", base + "websocket&token=ana", map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "7"}, 400, "invalid"},
		"wrong method":              {"PUT", base + "polling&token=ana&sid=" + owner.sid, nil, 405, "invalid"},
	} {
		req, err := http.NewRequestWithContext(short(t), tt.method, r.url+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range tt.head {
			req.Header.Set(k, v)
		}
		resp, err := owner.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var said refusal
		err = json.NewDecoder(resp.Body).Decode(&said)
		_ = resp.Body.Close()
		if resp.StatusCode != tt.status || err != nil || said.Code != tt.code || said.Message == "" {
			t.Errorf("%s: %d %+v, want %d %s", name, resp.StatusCode, said, tt.status, tt.code)
		}
	}
	if r.hub.Len() != 1 {
		t.Errorf("%d connections, want 1", r.hub.Len())
	}
	if _, err := client.Dial(short(t), r.url, "bad", client.Options{}); fault.KindOf(err) != fault.Unauthorized || !strings.Contains(err.Error(), "the token is wrong") {
		t.Errorf("a wrong token over websocket: %v", err)
	}
}

func TestTokenInTheHeader(t *testing.T) {
	r := start(t, nil)
	p := r.poller(t, "")
	p.head.Set("Authorization", "Bearer ana")
	p.open()
	r.hub.ToUser("ana", "status", []byte("1"), hub.Position{})
	p.must(200, http.MethodGet, "")
	p.head.Del("Authorization")
	p.must(401, http.MethodGet, "")
}

func TestCORS(t *testing.T) {
	r := start(t, func(o *Options) { o.Origins = []string{"https://app.example.com"} })
	p := r.poller(t, "ana")
	p.head.Set("Origin", "https://app.example.com")
	status, head, _, err := p.do(http.MethodOptions, "")
	if err != nil || status != 204 || !strings.Contains(head.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %d %v %v", status, head, err)
	}
	status, head, _, err = p.do(http.MethodGet, "")
	if err != nil || status != 200 || head.Get("Access-Control-Allow-Origin") != "https://app.example.com" || head.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("handshake: %d %v %v", status, head, err)
	}
}

func TestConnectionEndsWithItsToken(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t, "brief-ana")
	r.connected(t, 1)
	if name, _, err := c.Recv(short(t)); err != nil || name != tokenExpiring {
		t.Errorf("received %s, %v", name, err)
	}
	want(t, c, `closing {"reason":"token expired"}`)
	if _, _, err := c.Recv(short(t)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("received %v", err)
	}
	r.ended(t, endExpired)
	r.connected(t, 0)
}

func TestDisconnectSaysWhy(t *testing.T) {
	r := start(t, func(o *Options) {
		verify := o.Verify
		o.Verify = func(ctx context.Context, token string) (User, error) {
			u, err := verify(ctx, token)
			u.TokenID = "t-" + u.ID
			return u, err
		}
	})
	ana, bob, p := r.dial(t, "ana"), r.dial(t, "bob"), r.poller(t, "ana")
	p.open()
	r.connected(t, 3)
	if n := r.Disconnect(func(u User) bool { return u.TokenID == "t-ana" }, "token revoked"); n != 2 {
		t.Errorf("%d connections matched, want 2", n)
	}
	want(t, ana, `closing {"reason":"token revoked"}`)
	if _, _, err := ana.Recv(short(t)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after the disconnect: %v", err)
	}
	if got := p.must(200, http.MethodGet, ""); got != `40:42["closing",{"reason":"token revoked"}]` {
		t.Errorf("over polling: %s", got)
	}
	r.connected(t, 1)
	r.ended(t, "token revoked")
	r.hub.ToAll("status", []byte("1"), hub.Position{})
	want(t, bob, "status 1")
}

func TestDrainSpreadsTheEnd(t *testing.T) {
	r := start(t, nil)
	const n = 20
	for range n {
		r.dial(t, "ana")
	}
	r.connected(t, n)
	began := time.Now()
	var half time.Duration
	done := make(chan struct{})
	go func() { defer close(done); r.Drain(short(t), 400*time.Millisecond) }()
	until(t, "half of them gone", func() bool { return r.hub.Len() <= n/2 })
	half = time.Since(began)
	<-done
	r.connected(t, 0)
	if half < 150*time.Millisecond {
		t.Errorf("half of the connections were gone after %v of 400ms", half)
	}
	r.poller(t, "ana").must(503, http.MethodGet, "")
}

func TestConnectionsOfAUserAreCapped(t *testing.T) {
	r := start(t, func(o *Options) { o.Hub = hub.New(2, 10, hub.Options{}) })
	first, _ := r.dial(t, "ana"), r.dial(t, "ana")
	if _, err := client.Dial(short(t), r.url, "ana", client.Options{}); fault.KindOf(err) != fault.Overloaded {
		t.Errorf("third connection: %v", err)
	}
	r.poller(t, "ana").must(429, http.MethodGet, "")
	_ = first.Close()
	r.connected(t, 1)
	r.dial(t, "ana")
}

func TestHandshakesOfAnAddressAreCapped(t *testing.T) {
	r := start(t, func(o *Options) { o.HandshakeRate = 1 })
	for range hub.Burst {
		r.poller(t, "ana").must(200, http.MethodGet, "")
	}
	r.poller(t, "ana").must(429, http.MethodGet, "")
}

// rawWS does a websocket handshake by hand and returns the bare connection.
func (r *rig) rawWS(t *testing.T, token string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = fmt.Fprintf(c, "GET /socket.io/?EIO=3&transport=websocket&token=%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", token)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
		t.Fatalf("upgrade: %+v %v", resp, err)
	}
	_ = resp.Body.Close()
	return c
}

// A ping of the websocket itself is answered in its turn: the answer comes neither in the middle of an
// event nor does it change how long that may take.
func TestAPingIsAnswered(t *testing.T) {
	r := start(t, nil)
	c, _, err := websocket.DefaultDialer.Dial(strings.Replace(r.url, "http", "ws", 1)+"/socket.io/?EIO=3&transport=websocket&token=ana", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r.connected(t, 1)
	pongs, events := 0, 0
	c.SetPongHandler(func(data string) error {
		if pongs++; data != "hi" {
			t.Errorf("the answer to a ping has %q", data)
		}
		return nil
	})
	payload := `"` + strings.Repeat("x", 1000) + `"`
	const n = 20
	for range n {
		if err := c.WriteControl(websocket.PingMessage, []byte("hi"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		r.hub.ToUser("ana", "status", []byte(payload), hub.Position{})
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	until := func(packet string) {
		t.Helper()
		for {
			_, b, err := c.ReadMessage()
			if err != nil {
				t.Fatalf("after %d answers and %d events: %v", pongs, events, err)
			}
			if string(b) == `42["status",`+payload+`]` {
				events++
			}
			if string(b) == packet {
				return
			}
		}
	}
	for pongs < n || events < n {
		if err := c.WriteMessage(websocket.TextMessage, []byte("2")); err != nil { // the engine's own, which is seen
			t.Fatal(err)
		}
		until("3")
	}
}

func TestGuardStandsInFrontOfTheEngine(t *testing.T) {
	r := start(t, nil)
	good := r.dial(t, "bob")
	for name, bytes := range map[string]string{
		"the 27 bytes": wsFrame(0x81, `4599999999999999-["sync",1]`),
		"binary":       wsFrame(0x82, "\x04"),
		"fragmented":   wsFrame(0x01, `42["sync"`),
		"compressed":   wsFrame(0xc1, "\xca\xc9\x04"),
		"50 MB":        "\x81\xff\x00\x00\x00\x00\x02\xfa\xf0\x80abcd",
		"too fast":     strings.Repeat(wsFrame(0x81, "2"), 1000),
		"pings":        strings.Repeat(wsFrame(0x89, "hi"), 1000),
	} {
		before := r.total(t, "eventspine_socketio_violations_total", "")
		c := r.rawWS(t, "ana")
		_, _ = c.Write([]byte(bytes)) // may be cut off by the close
		until(t, name+": closed", func() bool {
			return r.hub.Len() == 1 && r.total(t, "eventspine_socketio_violations_total", "") == before+1
		})
	}
	r.hub.ToAll("status", []byte("1"), hub.Position{})
	want(t, good, "status 1")
}

func TestGuardStandsInFrontOfPOST(t *testing.T) {
	r := start(t, nil)
	for name, body := range map[string]string{
		"the 27 bytes":     `27:4599999999999999-["sync",1]`,
		"too large":        "70000:" + strings.Repeat("2", 70_000),
		"wrong length":     `99:42["sync"]`,
		"binary in base64": "6:b4AQID",
		"one bad of two":   "1:2" + "1:5",
	} {
		p := r.poller(t, "ana")
		p.open()
		if status, _, _, err := p.do(http.MethodPost, body); err == nil && status != 400 {
			t.Errorf("%s: answered %d", name, status)
		}
		until(t, name+": closed", func() bool { return r.hub.Len() == 0 })
	}
	p := r.poller(t, "ana")
	p.open()
	p.must(200, http.MethodPost, "1:2")
}

func TestOneGETAndOnePOSTAtATime(t *testing.T) {
	block := make(chan struct{})
	r := start(t, func(o *Options) {
		o.Sync = func(context.Context, string, json.RawMessage) Synced { <-block; return Synced{} }
	})
	p := r.poller(t, "ana")
	p.open()
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{}
	try := func(method, body string) {
		wg.Go(func() {
			status, _, _, err := p.do(method, body)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
		})
	}
	for range 300 {
		try(http.MethodPost, `13:420["sync",1]1:2`) // the ping waits behind the sync
	}
	for range 20 {
		try(http.MethodGet, "")
	}
	until(t, "all but two are refused", func() bool { mu.Lock(); defer mu.Unlock(); return answers[400] == 318 })
	close(block)
	wg.Wait()
	if answers[200] != 2 || answers[400] != 318 {
		t.Errorf("answers: %v", answers)
	}
	p.must(200, http.MethodPost, "1:2")
}

func TestStalledClientHindersNobody(t *testing.T) {
	r := start(t, func(o *Options) { o.QueueBytes = 32 << 10 })
	stalled := r.rawWS(t, "ana") // never reads
	if err := stalled.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	var live []*client.Client
	for range 50 {
		live = append(live, r.dial(t, "ana"))
	}
	r.connected(t, 51)
	payload := []byte(`"` + strings.Repeat("x", 1<<10) + `"`)
	const n = 160
	var wg sync.WaitGroup
	took := make([]time.Duration, len(live))
	pace := make(chan struct{}, 8) // the live ones keep up: so many may be under way to any of them
	got := make([]atomic.Int64, n)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, c := range live {
		wg.Go(func() {
			began := time.Now()
			for k := range n {
				if _, _, err := c.Recv(ctx); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if got[k].Add(1) == int64(len(live)) {
					<-pace
				}
			}
			took[i] = time.Since(began)
		})
	}
	slowest := time.Duration(0)
	for range n { // 160 KiB in all, more than the stalled one's buffers hold
		select {
		case pace <- struct{}{}:
		case <-ctx.Done():
			t.Fatal("the live clients did not get everything")
		}
		began := time.Now()
		r.hub.ToUser("ana", "status", payload, hub.Position{})
		slowest = max(slowest, time.Since(began))
	}
	wg.Wait()
	r.ended(t, endSlow)
	r.connected(t, 50)
	if got := r.total(t, "eventspine_socketio_ended_connections_total", ""); got != 1 {
		t.Errorf("%v connections ended, want 1", got)
	}
	t.Logf("%d × 1 KiB to 50 live clients and a stalled one: slowest send %v, last client through after %v", n, slowest, took[49])
	if slowest > 2*time.Second {
		t.Errorf("a send took %v", slowest)
	}
}

func TestStalledPollingClientIsDropped(t *testing.T) {
	r := start(t, func(o *Options) { o.QueueMessages = 10 })
	p := r.poller(t, "ana")
	p.open()
	for range 11 {
		r.hub.ToUser("ana", "status", []byte("1"), hub.Position{})
	}
	r.ended(t, endSlow)
	if lost := r.total(t, "eventspine_socketio_unsent_events_total", ""); lost != 10 {
		t.Errorf("%v unsent events counted, want 10", lost)
	}
	p.must(400, http.MethodGet, "")
}

func TestAbandonedHandshakesDoNotPileUp(t *testing.T) {
	r := start(t, func(o *Options) { o.HandshakeTimeout = 300 * time.Millisecond; o.PendingPolls = 100 })
	p := r.poller(t, "ana")
	before := runtime.NumGoroutine()
	statuses := map[int]int{}
	for range 500 {
		status, _, _, err := p.do(http.MethodGet, "")
		if err != nil {
			t.Fatal(err)
		}
		statuses[status]++
	}
	peak := runtime.NumGoroutine()
	until(t, "goroutines back to base", func() bool { return runtime.NumGoroutine() <= before+4 })
	t.Logf("500 handshakes: %v, %d goroutines before, %d after the last, %d at the end", statuses, before, peak, runtime.NumGoroutine())
	if statuses[429] == 0 && peak > before+500 {
		t.Errorf("no cap: %v, %d goroutines", statuses, peak)
	}
	until(t, "nothing is kept of them", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.engine.Count() == 0 && len(r.polls) == 0 && len(r.sessions) == 0
	})
	p.must(200, http.MethodGet, "") // the places are free again
}

func TestAPollingClientThatComesBackIsKept(t *testing.T) {
	r := start(t, func(o *Options) { o.HandshakeTimeout = 50 * time.Millisecond })
	p := r.poller(t, "ana")
	p.open()
	p.must(200, http.MethodPost, "1:2")
	other := r.poller(t, "bob")
	other.open()
	r.ended(t, endAbandoned)
	p.must(200, http.MethodGet, "")
}

func TestSilentClientIsClosed(t *testing.T) {
	r := start(t, func(o *Options) { o.PingInterval = 20 * time.Millisecond; o.PingTimeout = 300 * time.Millisecond })
	alive := r.dial(t, "bob") // pings
	r.rawWS(t, "ana")
	p := r.poller(t, "ana")
	p.open()
	p.must(200, http.MethodPost, "1:2")
	until(t, "both silent ones closed", func() bool {
		return r.total(t, "eventspine_socketio_ended_connections_total", endPing) == 2
	})
	r.hub.ToAll("status", []byte("1"), hub.Position{})
	want(t, alive, "status 1")
}

func TestClientThatVanishesInAPollLosesNothing(t *testing.T) {
	r := start(t, nil)
	p := r.poller(t, "ana")
	p.open()
	ctx, cancel := context.WithCancel(short(t))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/socket.io/?EIO=3&transport=polling&token=ana&sid="+p.sid, nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error)
	go func() {
		resp, err := p.http.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		gone <- err
	}()
	c := r.polls[p.sid]
	until(t, "the poll waits", func() bool { return c.getting.Load() })
	cancel()
	if err := <-gone; err == nil {
		t.Error("the poll was answered")
	}
	until(t, "the server noticed", func() bool { return !c.getting.Load() })
	r.hub.ToUser("ana", "status", []byte("1"), hub.Position{})
	if got := p.must(200, http.MethodGet, ""); got != `14:42["status",1]` {
		t.Errorf("got %q", got)
	}
}

func TestCloseWhileClientsArrive(t *testing.T) {
	for range 5 {
		r := start(t, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		var wg sync.WaitGroup
		for i := range 40 {
			p := r.poller(t, "ana")
			wg.Go(func() {
				for ctx.Err() == nil {
					if i%2 == 0 {
						_, _, _, _ = p.do(http.MethodGet, "")
						continue
					}
					c, err := client.Dial(ctx, r.url, "bob", client.Options{})
					if err == nil {
						_ = c.Close()
					}
				}
			})
		}
		until(t, "clients arrive", func() bool { return r.hub.Len() > 5 })
		closing, stop := context.WithTimeout(context.Background(), 20*time.Millisecond)
		r.Close(closing)
		stop()
		if r.hub.Len() != 0 || r.engine.Count() != 0 {
			t.Errorf("%d connections left, %d in the engine", r.hub.Len(), r.engine.Count())
		}
		r.poller(t, "ana").must(503, http.MethodGet, "")
		cancel()
		wg.Wait()
	}
}

func TestCloseLetsQueuesDrain(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t, "ana")
	r.connected(t, 1)
	for i := range 500 {
		r.hub.ToUser("ana", "status", fmt.Append(nil, i), hub.Position{})
	}
	r.Close(short(t))
	for i := range 500 {
		want(t, c, fmt.Sprint("status ", i))
	}
	if _, _, err := c.Recv(short(t)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after the close: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"nothing":    {},
		"no hub":     {Verify: func(context.Context, string) (User, error) { return User{}, nil }},
		"ping":       {Hub: hub.New(1, 1, hub.Options{}), Verify: func(context.Context, string) (User, error) { return User{}, nil }, PingInterval: time.Second, PingTimeout: time.Second},
		"no verify ": {Hub: hub.New(1, 1, hub.Options{})},
	} {
		if _, err := New(o); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPacketIsASCIIOnTheWire(t *testing.T) {
	m := encode(hub.NewPacket("stätus", []byte(`{"text":"grüß 😀"}`), hub.Position{}))
	if want := `42["st\u00e4tus",{"text":"gr\u00fc\u00df \ud83d\ude00"}]`; string(m.Text) != want || !m.Event || !bytes.HasSuffix(m.Wire, m.Text) {
		t.Errorf("encoded as %s, want %s", m.Text, want)
	}
}
