package engine

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"eventspine/internal/socketio/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notes is an Observer that remembers.
type notes struct {
	mu       sync.Mutex
	refused  map[string]int
	violated map[string]int
	closed   map[string]int
	open     int
	lost     int
}

func (n *notes) note(m *map[string]int, key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[key]++
}

func (n *notes) Refused(kind string)              { n.note(&n.refused, kind) }
func (n *notes) Violated(_ *Session, rule string) { n.note(&n.violated, rule) }
func (n *notes) Moved(*Session)                   {}
func (n *notes) Delivered(int)                    {}
func (n *notes) Opened(*Session)                  { n.mu.Lock(); n.open++; n.mu.Unlock() }
func (n *notes) Closed(_ *Session, reason string, lost int) {
	n.note(&n.closed, reason)
	n.mu.Lock()
	n.open--
	n.lost += lost
	n.mu.Unlock()
}

func (n *notes) count(m *map[string]int, key string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return (*m)[key]
}

// echo sends back what it receives.
type echo struct {
	s      *Session
	closed *atomic.Int64
}

func (e echo) Text(b []byte)   { e.s.Send(hub.Message{Text: append([]byte("4"), b...)}) }
func (e echo) Binary(b []byte) { e.s.Send(hub.Message{Text: b, Binary: true}) }
func (e echo) Closed(string)   { e.closed.Add(1) }

// rig is an echo server on a loopback port.
type rig struct {
	*Server
	t      *testing.T
	url    string
	n      *notes
	closed atomic.Int64
	http   *http.Client
}

func start(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, n: &notes{}}
	o := Options{Observer: r.n, InboundRate: 1000, Open: func(s *Session, _ *http.Request) Handler { return echo{s, &r.closed} }}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(r.Server)
	web.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if tcp, ok := c.(*net.TCPConn); ok && state == http.StateNew {
			_ = tcp.SetWriteBuffer(16 << 10) // a client that stalls is felt soon
		}
	}
	web.Start()
	r.url = web.URL + "/engine.io/"
	tr := &http.Transport{}
	r.http = &http.Client{Transport: tr, Timeout: 10 * time.Second}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		r.Close(ctx)
		tr.CloseIdleConnections()
		web.Close()
	})
	return r
}

func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s; %+v", what, r.n)
		}
	}
}

func (r *rig) ended(reason string) {
	r.t.Helper()
	r.until("ended: "+reason, func() bool { return r.n.count(&r.n.closed, reason) > 0 })
}

// do sends a request and returns its status and body.
func (r *rig) do(method, query, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+"?EIO=4&transport=polling"+query, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (r *rig) want(status int, text, method, query, body string) {
	r.t.Helper()
	if got, said := r.do(method, query, body); got != status || text != "" && said != text {
		r.t.Fatalf("%s %s answered %d %q, want %d %q", method, query, got, said, status, text)
	}
}

// poll opens a polling session and returns the query that names it.
func (r *rig) poll() string {
	r.t.Helper()
	_, said := r.do(http.MethodGet, "", "")
	var p struct{ SID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(said, "0")), &p); err != nil || len(p.SID) != 22 {
		r.t.Fatalf("opened with %q: %v", said, err)
	}
	return "&sid=" + p.SID
}

type socketClient struct {
	t  *testing.T
	ws *websocket.Conn
}

// dial opens a websocket, whatever the server says first.
func (r *rig) dial(query string) *socketClient {
	r.t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial(strings.Replace(r.url, "http", "ws", 1)+"?EIO=4&transport=websocket"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	return &socketClient{r.t, ws}
}

func (c *socketClient) send(text string) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// read is the next message; empty: the connection ended.
func (c *socketClient) read() string {
	_, b, err := c.ws.ReadMessage()
	if err != nil {
		return ""
	}
	return string(b)
}

func (c *socketClient) want(text string) {
	c.t.Helper()
	if got := c.read(); got != text {
		c.t.Fatalf("received %q, want %q", got, text)
	}
}

func (r *rig) opened() *socketClient {
	r.t.Helper()
	c := r.dial("")
	if got := c.read(); !strings.HasPrefix(got, `0{"sid":"`) {
		r.t.Fatalf("opened with %q", got)
	}
	return c
}

func TestHandshakeNamesItsParameters(t *testing.T) {
	r := start(t, func(o *Options) {
		o.PingInterval, o.PingTimeout, o.MaxPayload = 300*time.Millisecond, 200*time.Millisecond, 12345
	})
	_, polled := r.do(http.MethodGet, "", "")
	for upgrades, said := range map[string]string{`["websocket"]`: polled, `[]`: r.dial("").read()} {
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(said[1:]), &got); err != nil || said[0] != '0' || len(got) != 5 {
			t.Fatalf("opened with %q: %v", said, err)
		}
		if string(got["upgrades"]) != upgrades || string(got["pingInterval"]) != "300" || string(got["pingTimeout"]) != "200" || string(got["maxPayload"]) != "12345" || len(got["sid"]) != 24 {
			t.Errorf("parameters %s", said)
		}
	}
}

func TestBadHandshakesAreRefused(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	for name, tt := range map[string]struct{ method, query, want string }{
		"no version":          {"GET", "?transport=polling", `{"code":5,"message":"Unsupported protocol version"}`},
		"bad version":         {"GET", "?EIO=abc&transport=polling", `{"code":5,"message":"Unsupported protocol version"}`},
		"no transport":        {"GET", "?EIO=4", `{"code":0,"message":"Transport unknown"}`},
		"unknown transport":   {"GET", "?EIO=4&transport=pigeon", `{"code":0,"message":"Transport unknown"}`},
		"POST":                {"POST", "?EIO=4&transport=polling", `{"code":2,"message":"Bad handshake method"}`},
		"PUT":                 {"PUT", "?EIO=4&transport=polling", `{"code":2,"message":"Bad handshake method"}`},
		"unknown session":     {"GET", "?EIO=4&transport=polling&sid=2", `{"code":1,"message":"Session ID unknown"}`},
		"PUT in a session":    {"PUT", "?EIO=4&transport=polling" + sid, `{"code":3,"message":"Bad request"}`},
		"JSONP":               {"GET", "?EIO=4&transport=polling&j=0", `{"code":3,"message":"Bad request"}`},
		"no upgrade":          {"GET", "?EIO=4&transport=websocket", `{"code":3,"message":"Bad request"}`},
		"no upgrade of a sid": {"GET", "?EIO=4&transport=websocket" + sid, `{"code":3,"message":"Bad request"}`},
	} {
		req, err := http.NewRequest(tt.method, r.url+tt.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || strings.TrimSpace(string(b)) != tt.want {
			t.Errorf("%s: %d %s", name, resp.StatusCode, b)
		}
	}
	if n := r.n.count(&r.n.refused, "unknown transport"); n != 2 {
		t.Errorf("%d unknown transports counted", n)
	}
}

func TestWhoMayBeginAndWhoOwns(t *testing.T) {
	released := atomic.Int64{}
	r := start(t, func(o *Options) {
		o.Begin = func(r *http.Request) (func(), *Refusal) {
			if r.URL.Query().Has("no") {
				return nil, &Refusal{http.StatusTooManyRequests, 4, "full", "overloaded"}
			}
			return func() { released.Add(1) }, nil
		}
		o.Owns = func(_ *Session, r *http.Request) bool { return r.URL.Query().Has("mine") }
	})
	r.want(429, `{"code":4,"message":"full"}`+"\n", "GET", "&no", "")
	sid := r.poll()
	r.want(400, `{"code":1,"message":"Session ID unknown"}`+"\n", "POST", sid, "4hello")
	r.want(200, "ok", "POST", sid+"&mine", "1")
	r.until("released", func() bool { return released.Load() == 1 })
}

func TestPollingPayloads(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	for _, body := range []string{"4hello", "4", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4für 😀"} {
		r.want(200, "ok", "POST", sid, body)
		r.want(200, body, "GET", sid, "")
	}
}

func TestWebsocketMessages(t *testing.T) {
	r := start(t, nil)
	c := r.opened()
	for _, size := range []int{1, 124, 125, 126, 65535, 65536, 70000} {
		text := "4" + strings.Repeat("x", size)
		c.send(text)
		c.want(text)
	}
	if err := c.ws.WriteMessage(websocket.BinaryMessage, []byte{1, 2, 3, 4}); err != nil {
		t.Fatal(err)
	}
	if kind, b, err := c.ws.ReadMessage(); kind != websocket.BinaryMessage || !bytes.Equal(b, []byte{1, 2, 3, 4}) {
		t.Errorf("received %d %v %v", kind, b, err)
	}
	pongs := ""
	c.ws.SetPongHandler(func(s string) error { pongs += s; return nil })
	_ = c.ws.WriteControl(websocket.PingMessage, []byte("hi"), time.Now().Add(time.Second))
	c.send("4x")
	c.want("4x")
	if pongs != "hi" {
		t.Errorf("pong %q", pongs)
	}
}

func TestInvalidPacketsEndASession(t *testing.T) {
	for name, tt := range map[string]struct{ packet, rule string }{
		"letters":          {"abc", badPacket},
		"empty":            {"", badPacket},
		"a client's ping":  {"2", badPacket},
		"a probe too late": {"2probe", badPacket},
		"open":             {"0", badPacket},
		"close with data":  {"1x", badPacket},
		"not UTF-8":        {"4\xff", badText},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, nil)
			if tt.rule != badText { // gorilla's client, and the server's library, would let it pass
				c := r.opened()
				c.send(tt.packet)
				c.want("")
			}
			sid := r.poll()
			r.want(400, "", "POST", sid, tt.packet)
			r.want(400, `{"code":1,"message":"Session ID unknown"}`+"\n", "GET", sid, "")
			r.ended(EndProtocol)
			if r.n.count(&r.n.violated, tt.rule) == 0 {
				t.Errorf("violations %v", r.n.violated)
			}
		})
	}
	r := start(t, nil)
	sid := r.poll()
	r.want(400, "", "POST", sid, "b!!")
	r.want(400, "", "POST", r.poll(), strings.Repeat("4\x1e", maxPackets))
	if r.n.count(&r.n.violated, badPayload) != 2 {
		t.Errorf("violations %v", r.n.violated)
	}
}

func TestASecondGETClosesTheSession(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	first := make(chan string, 1)
	go func() {
		resp, err := r.http.Get(r.url + "?EIO=4&transport=polling" + sid)
		if err != nil {
			first <- err.Error()
			return
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		first <- fmt.Sprint(resp.StatusCode, " ", string(b))
	}()
	r.until("the first waits", func() bool {
		all := r.Sessions()
		return len(all) == 1 && all[0].poll.getting.Load()
	})
	r.want(400, "", "GET", sid, "")
	if got := <-first; got != "200 1" {
		t.Errorf("the first got %q", got)
	}
	r.want(400, "", "GET", sid, "")
	if r.n.count(&r.n.violated, badOverlap) != 1 {
		t.Errorf("violations %v", r.n.violated)
	}
}

func TestASecondPOSTClosesTheSession(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	body, feed := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err := r.http.Post(r.url+"?EIO=4&transport=polling"+sid, "text/plain", body)
		if err == nil {
			_ = resp.Body.Close()
		}
	}()
	_, _ = feed.Write([]byte("4"))
	r.until("the first is under way", func() bool {
		all := r.Sessions()
		return len(all) == 1 && all[0].poll.posting.Load()
	})
	r.want(400, "", "POST", sid, "4x")
	r.ended(EndProtocol)
	_ = feed.Close()
	<-done
}

func TestACancelledGETClosesTheSession(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"?EIO=4&transport=polling"+sid, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := r.http.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	r.until("it waits", func() bool {
		all := r.Sessions()
		return len(all) == 1 && all[0].poll.getting.Load()
	})
	cancel()
	<-done
	r.ended(endTransport)
	r.want(400, "", "GET", sid, "")
}

func TestHeartbeat(t *testing.T) {
	r := start(t, func(o *Options) { o.PingInterval, o.PingTimeout = 30*time.Millisecond, 2*time.Second })
	sid, c := r.poll(), r.opened()
	for range 3 {
		r.want(200, "2", "GET", sid, "")
		r.want(200, "ok", "POST", sid, "3")
		c.want("2")
		c.send("3")
	}
}

func TestSilentClientsAreClosed(t *testing.T) {
	r := start(t, func(o *Options) { o.PingInterval, o.PingTimeout = 20*time.Millisecond, 50*time.Millisecond })
	sid, c := r.poll(), r.opened()
	c.want("2")
	c.want("") // a peer behind a dead link does not answer either
	r.until("both closed", func() bool { return r.n.count(&r.n.closed, endPing) == 2 })
	r.want(400, "", "GET", sid, "")
}

func TestClientCloses(t *testing.T) {
	r := start(t, nil)
	c := r.opened()
	c.send("1")
	c.want("")
	sid := r.poll()
	got := make(chan string, 1)
	go func() { _, said := r.do(http.MethodGet, sid, ""); got <- said }()
	r.until("the GET waits", func() bool {
		all := r.Sessions()
		return len(all) == 1 && all[0].poll.getting.Load()
	})
	r.want(200, "ok", "POST", sid, "1")
	if said := <-got; said != "6" {
		t.Errorf("the GET got %q", said)
	}
	r.want(400, "", "GET", sid, "")
	late := r.poll() // the GET crosses the close
	r.want(200, "ok", "POST", late, "1")
	r.want(200, "6", "GET", late, "")
	r.want(400, "", "GET", late, "")
}

func (r *rig) upgrade(sid string) *socketClient {
	c := r.dial(sid)
	c.send("2probe")
	c.want("3probe")
	return c
}

func TestUpgrade(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	got := make(chan string, 1)
	go func() { _, said := r.do(http.MethodGet, sid, ""); got <- said }()
	r.until("the GET waits", func() bool {
		all := r.Sessions()
		return len(all) == 1 && all[0].poll.getting.Load()
	})
	c := r.upgrade(sid)
	if said := <-got; said != "6" {
		t.Errorf("the GET that waited got %q", said)
	}
	r.want(200, "6", "GET", sid, "") // one that comes during the upgrade
	r.want(200, "ok", "POST", sid, "4over polling")
	c.send("5")
	c.want("4over polling") // queued before, sent after
	c.send("4hello")
	c.want("4hello")
	r.want(400, "", "GET", sid, "")
	r.want(400, "", "POST", sid, "4x")
	r.dial(sid).want("") // a second websocket is closed
	c.send("4still here")
	c.want("4still here")
	if all := r.Sessions(); len(all) != 1 || all[0].Transport() != webSocket {
		t.Errorf("%d sessions", len(all))
	}
}

func TestUpgradeKeepsOrderUnderTraffic(t *testing.T) {
	r := start(t, func(o *Options) { o.QueueMessages = 100_000 })
	sid := r.poll()
	s := r.Sessions()[0]
	const n = 5000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range n {
			s.Send(hub.Message{Text: fmt.Appendf(nil, "4%d", i), Event: true})
		}
	}()
	next := 0
	take := func(packet string) {
		t.Helper()
		if want := fmt.Sprint("4", next); packet != want {
			t.Fatalf("received %q, want %q", packet, want)
		}
		next++
	}
	c := r.upgrade(sid)
	for range 3 {
		_, said := r.do(http.MethodGet, sid, "")
		for packet := range strings.SplitSeq(said, "\x1e") {
			if packet != "6" {
				take(packet)
			}
		}
	}
	c.send("5")
	for next < n {
		take(c.read())
	}
	<-sent
}

func TestBadUpgradesLeaveTheSessionAlone(t *testing.T) {
	r := start(t, func(o *Options) { o.UpgradeTimeout = 50 * time.Millisecond })
	sid := r.poll()
	wrong := r.dial(sid)
	wrong.send("2nonsense")
	wrong.want("")
	r.dial(sid).want("") // says nothing
	late := r.upgrade(sid)
	late.want("") // does not go on
	r.want(200, "ok", "POST", sid, "4hello")
	r.want(200, "4hello", "GET", sid, "")
	if r.n.count(&r.n.violated, badUpgrade) != 1 {
		t.Errorf("violations %v", r.n.violated)
	}
}

func TestPayloadsAreBounded(t *testing.T) {
	r := start(t, func(o *Options) { o.MaxPayload = 1000 })
	c := r.opened()
	c.send("4" + strings.Repeat("x", 999))
	if got := c.read(); len(got) != 1000 {
		t.Errorf("received %d bytes", len(got))
	}
	_ = c.ws.WriteMessage(websocket.TextMessage, []byte("4"+strings.Repeat("x", 1<<20))) // may be cut off by the close
	c.want("")
	sid := r.poll()
	r.want(413, "", "POST", sid, "4"+strings.Repeat("x", 1<<20))
	r.want(400, "", "GET", sid, "")
	if r.n.count(&r.n.violated, badSize) != 2 {
		t.Errorf("violations %v", r.n.violated)
	}
}

func TestFloodsEndASession(t *testing.T) {
	r := start(t, func(o *Options) { o.InboundRate = 10 })
	sid := r.poll()
	r.want(400, "", "POST", sid, strings.Repeat("4\x1e", 60)+"4")
	c := r.opened()
	for range 60 {
		if c.ws.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second)) != nil {
			break
		}
	}
	r.until("both counted", func() bool { return r.n.count(&r.n.violated, badRate) == 2 })
}

// raw does a websocket handshake by hand and returns the bare connection.
func (r *rig) raw() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(r.url, "http://"), "/engine.io/"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, "GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
		r.t.Fatalf("upgrade: %+v %v", resp, err)
	}
	_ = resp.Body.Close()
	return c
}

func TestGarbageFramesEndASession(t *testing.T) {
	for name, bytes := range map[string]string{
		"a length below zero":    "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffabcd", // kills a server on another library
		"half an exabyte":        "\x82\xff\x07\xff\xff\xff\xff\xff\xff\xffabcd",
		"compressed":             "\xc1\x83abcdxyz",
		"reserved":               "\xa1\x81abcdx",
		"unmasked":               "\x81\x01x",
		"unknown kind":           "\x83\x80abcd",
		"a fragmented ping":      "\x09\x80abcd",
		"a long ping":            "\x89\xfe\x00\x7eabcd" + strings.Repeat("x", 126),
		"continued from nothing": "\x80\x81abcdx",
		"a message in a message": "\x01\x81abcdx\x81\x81abcdx",
		"a bomb of fragments":    "\x01\xfe\xff\xffabcd" + strings.Repeat("x", 65535) + strings.Repeat("\x00\xfe\xff\xffabcd"+strings.Repeat("x", 65535), 20),
		"no websocket":           "GET / HTTP/1.1\r\n\r\n",
		"only zeros":             strings.Repeat("\x00", 4096),
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, nil)
			good, c := r.opened(), r.raw()
			_, _ = c.Write([]byte(bytes)) // may be cut off by the close
			r.ended(EndProtocol)
			good.send("4alive")
			good.want("4alive")
			r.until("it is gone", func() bool { return len(r.Sessions()) == 1 })
		})
	}
}

func TestCompressedBodiesAreRefused(t *testing.T) {
	r := start(t, nil)
	sid := r.poll()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 8 {
		_, _ = z.Write(make([]byte, 1<<20))
	}
	_ = z.Close()
	req, err := http.NewRequest(http.MethodPost, r.url+"?EIO=4&transport=polling"+sid, &bomb)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || r.n.count(&r.n.violated, badPayload) != 1 {
		t.Errorf("answered %d, %v", resp.StatusCode, r.n.violated)
	}
}

func TestASlowPOSTIsCutOff(t *testing.T) {
	r := start(t, func(o *Options) { o.BodyTimeout = 50 * time.Millisecond })
	sid := r.poll()
	c, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(r.url, "http://"), "/engine.io/"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = fmt.Fprintf(c, "POST /engine.io/?EIO=4&transport=polling%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n4", sid)
	r.ended(EndProtocol)
	if r.n.count(&r.n.violated, badBody) != 1 {
		t.Errorf("violations %v", r.n.violated)
	}
}

func TestAStalledClientIsDropped(t *testing.T) {
	r := start(t, func(o *Options) { o.QueueMessages = 100 })
	stalled, good := r.raw(), r.opened()
	_ = stalled.(*net.TCPConn).SetReadBuffer(4096)
	big := strings.Repeat("x", 8<<10)
	slowest := time.Duration(0)
	for i := 0; r.n.count(&r.n.closed, endSlow) == 0; i++ {
		if i > 50_000 {
			t.Fatal("never dropped")
		}
		for _, s := range r.Sessions() {
			began := time.Now()
			if s.Send(hub.Message{Text: []byte("4" + big), Event: true}) {
				slowest = max(slowest, time.Since(began))
			}
		}
		if got := good.read(); len(got) != len(big)+1 {
			t.Fatalf("the other received %d bytes", len(got))
		}
	}
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	if r.n.lost != 100 {
		t.Errorf("%d unsent events counted, want 100", r.n.lost)
	}
	t.Logf("slowest send %v", slowest)
}

func TestLeaveSendsWhatIsQueued(t *testing.T) {
	r := start(t, nil)
	c, sid := r.opened(), r.poll()
	for _, s := range r.Sessions() {
		s.Send(hub.Message{Text: []byte("4last"), Event: true})
		s.Leave("moved away")
	}
	c.want("4last")
	c.want("")
	r.want(200, "4last", "GET", sid, "")
	r.want(400, "", "GET", sid, "")
	r.until("both left", func() bool { return r.n.count(&r.n.closed, "moved away") == 2 })
}

func TestCloseEndsEverything(t *testing.T) {
	r := start(t, nil)
	c, sid := r.opened(), r.poll()
	got := make(chan string, 1)
	go func() { _, said := r.do(http.MethodGet, sid, ""); got <- said }()
	r.until("the GET waits", func() bool {
		for _, s := range r.Sessions() {
			if s.poll != nil && s.poll.getting.Load() {
				return true
			}
		}
		return false
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.Close(ctx)
	c.want("")
	if said := <-got; said != "1" {
		t.Errorf("the GET got %q", said)
	}
	if r.n.open != 0 || len(r.Sessions()) != 0 || r.closed.Load() != 2 {
		t.Errorf("%d open, %d sessions, %d handlers closed", r.n.open, len(r.Sessions()), r.closed.Load())
	}
	r.want(503, "", "GET", "", "")
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no error")
	}
}

func FuzzPOST(f *testing.F) {
	for _, body := range []string{"4hello", "4a\x1e4b", "bAQID", "1", "3", "2probe", "", "\x1e", "4\xff", "b!"} {
		f.Add([]byte(body))
	}
	n := &notes{}
	closed := &atomic.Int64{}
	e, err := New(Options{Observer: n, InboundRate: 1 << 20, Open: func(s *Session, _ *http.Request) Handler { return echo{s, closed} }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?EIO=4&transport=polling", nil))
		s := e.Sessions()[0]
		w = httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/?EIO=4&transport=polling&sid="+s.ID(), bytes.NewReader(body)))
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest || w.Code == http.StatusBadRequest && !s.gone.Load() {
			t.Errorf("%q: answered %d, the session has ended: %v", body, w.Code, s.gone.Load())
		}
		s.End(EndShutdown)
		e.forget(s) // one that its client closed is kept for a moment
	})
}
