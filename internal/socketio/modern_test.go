package socketio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"eventspine/internal/socketio/hub"
)

// browser is a client of Engine.IO 4 over websocket that does everything by hand.
type browser struct {
	t  *testing.T
	ws *websocket.Conn
}

// engine4 opens a session; query begins with & or is empty.
func (r *rig) engine4(t *testing.T, query string) *browser {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(strings.Replace(r.url, "http", "ws", 1)+"/socket.io/?EIO=4&transport=websocket"+query, nil)
	if err != nil {
		t.Fatal(err, resp)
	}
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := &browser{t, ws}
	if got := b.read(); !strings.HasPrefix(got, `0{"sid":"`) {
		t.Fatalf("opened with %s", got)
	}
	return b
}

// browser connects a user.
func (r *rig) browser(t *testing.T, user string) *browser {
	t.Helper()
	b := r.engine4(t, "")
	b.send(`40{"token":"` + user + `"}`)
	if got := b.read(); !strings.HasPrefix(got, `40{"sid":"`) {
		t.Fatalf("connected with %s", got)
	}
	return b
}

func (b *browser) send(packet string) {
	b.t.Helper()
	if err := b.ws.WriteMessage(websocket.TextMessage, []byte(packet)); err != nil {
		b.t.Fatal(err)
	}
}

// read is the next packet that is no ping; empty: the connection ended.
func (b *browser) read() string {
	for {
		_, p, err := b.ws.ReadMessage()
		if err != nil {
			return ""
		}
		if string(p) == "2" {
			_ = b.ws.WriteMessage(websocket.TextMessage, []byte("3"))
			continue
		}
		return string(p)
	}
}

func (b *browser) want(packets ...string) {
	b.t.Helper()
	for _, want := range packets {
		if got := b.read(); got != want {
			b.t.Fatalf("received %s, want %s", got, want)
		}
	}
}

func at(seq uint64) hub.Position { return hub.Position{Partition: 3, Seq: seq, Epoch: 1} }

func TestOldAndNewClientsGetTheSameEvent(t *testing.T) {
	r := start(t, nil)
	old, modern := r.dial(t, "ana"), r.browser(t, "ana")
	r.connected(t, 2)
	if n := r.hub.ToUser("ana", "notification", []byte(`{"text":"für 😀"}`), at(7)); n != 2 {
		t.Errorf("queued for %d connections", n)
	}
	want(t, old, `notification {"text":"f\u00fcr \ud83d\ude00"}`)
	modern.want(`42["notification",{"text":"für 😀"},"7"]`)
	r.hub.ToAll("alert", []byte(`1`), hub.Position{})
	modern.want(`42["alert",1]`)
}

func TestTokenOfModernClients(t *testing.T) {
	r := start(t, nil)
	b := r.engine4(t, "&token=ana")
	b.send("40")
	if got := b.read(); !strings.HasPrefix(got, `40{"sid":"`) {
		t.Errorf("token in the query: %s", got)
	}
	for name, tt := range map[string]struct{ packet, want string }{
		"none":      {`40`, `44{"message":"the token is missing: give it as auth.token, as the query parameter token or as Authorization: Bearer","data":{"kind":"unauthorized"}}`},
		"wrong":     {`40{"token":"bad"}`, `44{"message":"the token is wrong","data":{"kind":"unauthorized"}}`},
		"no string": {`40{"token":7}`, `44{"message":"the token is missing: give it as auth.token, as the query parameter token or as Authorization: Bearer","data":{"kind":"unauthorized"}}`},
		"everybody": {`40{"token":"*"}`, `44{"message":"the token names no single user","data":{"kind":"forbidden"}}`},
	} {
		b := r.engine4(t, "")
		b.send(tt.packet)
		if got := b.read(); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
		b.send(`40{"token":"ana"}`) // it may try again
		if got := b.read(); !strings.HasPrefix(got, `40{"sid":"`) {
			t.Errorf("%s, then a good one: %s", name, got)
		}
	}
}

func TestModernSyncAndUnknownEvents(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Sync = func(_ context.Context, user string, arg json.RawMessage) Synced {
			return Synced{Events: [][]byte{fmt.Appendf(nil, `{"user":%q,"arg":%s}`, user, arg)}, Info: []byte(`{"complete":true}`)}
		}
	})
	b := r.browser(t, "ana")
	b.send(`42["what",1]`)
	b.send(`4212["sync",{"user":5}]`)
	b.want(`4312[[{"user":"ana","arg":{"user":5}}],{"complete":true}]`)
	if n := r.total(t, "eventspine_socketio_ignored_events_total", ""); n != 1 {
		t.Errorf("%v ignored events counted", n)
	}
}

func TestModernClientsAreRecovered(t *testing.T) {
	asked, answer := make(chan Recovery, 1), make(chan Recovered)
	r := start(t, func(o *Options) {
		o.Recover = func(ctx context.Context, user string, from Recovery) Recovered {
			asked <- from
			select {
			case got := <-answer:
				return got
			case <-ctx.Done():
				return Recovered{}
			}
		}
	})
	b := r.engine4(t, "")
	b.send(`40{"token":"ana","pid":"p1","offset":"4","cursor":{"user":4}}`)
	if from := <-asked; from.PID != "p1" || from.Offset != "4" || string(from.Cursor) != `{"user":4}` {
		t.Errorf("asked for %+v", from)
	}
	r.connected(t, 1) // and held
	for seq := uint64(5); seq < 9; seq++ {
		r.hub.ToUser("ana", "status", fmt.Append(nil, seq), at(seq))
	}
	answer <- Recovered{PID: "p1", Ok: true, Info: []byte(`{"complete":true}`), At: at(6),
		Events: []hub.Event{{Name: "status", Payload: []byte("5"), Position: at(5)}, {Name: "status", Payload: []byte("6"), Position: at(6)}},
		Skip:   func(p *hub.Packet) bool { return p.Seq <= 6 || p.Seq == 10 }}
	if got := b.read(); !strings.HasSuffix(got, `","pid":"p1"}`) {
		t.Errorf("connected with %s", got)
	}
	b.want(`42["status",5,"5"]`, `42["status",6,"6"]`, `42["synced",{"complete":true},"6"]`, `42["status",7,"7"]`, `42["status",8,"8"]`)
	for seq := uint64(9); seq < 12; seq++ {
		r.hub.ToUser("ana", "status", fmt.Append(nil, seq), at(seq))
	}
	b.want(`42["status",9,"9"]`, `42["status",11,"11"]`) // 10 is skipped still
}

func TestOldClientsAreRecovered(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Recover = func(_ context.Context, user string, from Recovery) Recovered {
			return Recovered{PID: "x", Info: append([]byte(`{"from":`), append(from.Cursor, '}')...),
				Events: []hub.Event{{Name: "status", Payload: []byte(`"` + user + `"`), Position: at(5)}}}
		}
	})
	p := r.poller(t, "ana&cursor=%7B%22user%22:4%7D")
	got := p.open()
	for len(got) < 4 {
		got = append(got, p.packets(p.must(200, http.MethodGet, ""))...)
	}
	if fmt.Sprint(got[1:]) != `[40 42["status","ana"] 42["synced",{"from":{"user":4}}]]` {
		t.Errorf("got %q", got)
	}
	r.hub.ToUser("ana", "status", []byte("7"), at(7))
	if got := p.must(200, http.MethodGet, ""); got != `14:42["status",7]` {
		t.Errorf("live: %s", got)
	}
}

func TestRecoveryEndsWithItsClient(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := start(t, func(o *Options) {
		o.Recover = func(ctx context.Context, _ string, _ Recovery) Recovered {
			close(begun)
			<-ctx.Done()
			close(ended)
			return Recovered{}
		}
	})
	b := r.engine4(t, "")
	b.send(`40{"token":"ana"}`)
	<-begun
	_ = b.ws.Close()
	<-ended
	r.connected(t, 0)
}

func TestHeldEventsAreBounded(t *testing.T) {
	r := start(t, func(o *Options) {
		o.QueueMessages = 3
		o.Recover = func(ctx context.Context, _ string, _ Recovery) Recovered { <-ctx.Done(); return Recovered{} }
	})
	b := r.engine4(t, "")
	b.send(`40{"token":"ana"}`)
	r.connected(t, 1)
	for range 4 {
		r.hub.ToUser("ana", "status", []byte("1"), at(1))
	}
	r.ended(t, endSlow)
	r.connected(t, 0)
}

// A client hears nothing before it is let in: socket.io-client would see neither a connection nor an error.
func TestTokenThatEndsAtOnce(t *testing.T) {
	ends := make(chan time.Time, 1)
	r := start(t, func(o *Options) {
		o.Verify = func(context.Context, string) (User, error) { return User{ID: "ana", Expires: <-ends}, nil }
		o.Recover = func(context.Context, string, Recovery) Recovered {
			<-time.After(5 * time.Millisecond) // the token ends meanwhile
			return Recovered{Events: []hub.Event{{Name: "status", Payload: []byte("1")}}, Info: []byte(`{}`)}
		}
	})
	for range 5 {
		ends <- time.Now().Add(3 * time.Millisecond)
		b := r.engine4(t, "")
		b.send(`40{"token":"x"}`)
		if got := b.read(); strings.HasPrefix(got, `44{"message":"the token has expired"`) {
			continue // the machine was slow
		} else if !strings.HasPrefix(got, `40{"sid":"`) {
			t.Fatalf("received %s", got)
		}
		b.want(`42["status",1]`, `42["synced",{}]`)
		if got := b.read(); !strings.HasPrefix(got, `42["token_expiring"`) {
			t.Fatalf("received %s", got)
		}
		b.want(`42["closing",{"reason":"token expired"}]`, "")
	}
	ends <- time.Now().Add(-time.Second)
	b := r.engine4(t, "")
	b.send(`40{"token":"x"}`)
	b.want(`44{"message":"the token has expired","data":{"kind":"unauthorized"}}`)
}

func TestTokenIsRefreshed(t *testing.T) {
	until := time.Now().Add(time.Hour)
	r := start(t, func(o *Options) {
		o.ExpiryWarning = time.Minute
		verify := o.Verify
		o.Verify = func(ctx context.Context, token string) (User, error) {
			u, err := verify(ctx, strings.TrimSuffix(token, "+"))
			if strings.HasSuffix(token, "+") {
				u.Expires = until
			}
			return u, err
		}
	})
	b := r.browser(t, "brief-ana")
	if got := b.read(); !strings.HasPrefix(got, `42["token_expiring",{"expiresAt":`) {
		t.Fatalf("warned with %s", got)
	}
	b.send(`421["refresh","bad"]`)
	b.send(`422["refresh","bob+"]`)
	b.send(`423["refresh",{}]`)
	b.send(`424["refresh","ana+"]`)
	b.want(`431[{"ok":false,"error":"the token is wrong"}]`, `432[{"ok":false,"error":"the token is of another user"}]`,
		`433[{"ok":false,"error":"the token must be a string"}]`, fmt.Sprintf(`434[{"ok":true,"expiresAt":%d}]`, until.UnixMilli()))
	old := r.browser(t, "brief-ana") // its end comes after the first one's would have come
	if got := old.read(); !strings.HasPrefix(got, `42["token_expiring"`) {
		t.Fatalf("warned with %s", got)
	}
	old.want(`42["closing",{"reason":"token expired"}]`, "")
	r.hub.ToUser("ana", "status", []byte("1"), hub.Position{})
	b.want(`42["status",1]`)
	r.connected(t, 1)
}

func TestOldClientsRefreshToo(t *testing.T) {
	r := start(t, nil)
	p := r.poller(t, "ana")
	p.open()
	p.must(200, http.MethodPost, `22:420["refresh","brief"]1:2`)
	if got := p.must(200, http.MethodGet, ""); !strings.Contains(got, `430[{"ok":false,"error":"the token is of another user"}]`) {
		t.Errorf("got %s", got)
	}
}

func TestModernClientsAreDisconnected(t *testing.T) {
	r := start(t, nil)
	ana, bob := r.browser(t, "ana"), r.browser(t, "bob")
	r.connected(t, 2)
	if n := r.Disconnect(func(u User) bool { return u.ID == "ana" }, "token revoked"); n != 1 {
		t.Errorf("%d connections matched", n)
	}
	ana.want(`42["closing",{"reason":"token revoked"}]`, "")
	r.ended(t, "token revoked")
	done := make(chan struct{})
	go func() { defer close(done); r.Drain(short(t), 20*time.Millisecond) }()
	if got := bob.read(); !strings.HasPrefix(got, `42["closing",{"reason":"shutdown","retryAfter":`) {
		t.Errorf("drained with %s", got)
	}
	bob.want("")
	<-done
	r.connected(t, 0)
	if _, resp, err := websocket.DefaultDialer.Dial(strings.Replace(r.url, "http", "ws", 1)+"/socket.io/?EIO=4&transport=websocket", nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new client: %v", err)
	}
}

func TestModernConnectionsAreCapped(t *testing.T) {
	r := start(t, func(o *Options) { o.Hub = hub.New(2, 10, hub.Options{}); o.HandshakeRate = 2 })
	for range 2 {
		r.browser(t, "ana")
	}
	b := r.engine4(t, "")
	b.send(`40{"token":"ana"}`)
	b.want(`44{"message":"this user has 2 connections already","data":{"kind":"overloaded"}}`)
	for {
		resp, err := http.Get(r.url + "/socket.io/?EIO=4&transport=polling")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			return
		}
	}
}

func TestModernSessionsBelongToTheirUser(t *testing.T) {
	r := start(t, nil)
	get := func(query string) (int, string) {
		t.Helper()
		resp, err := http.Get(r.url + "/socket.io/?EIO=4&transport=polling" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	_, opened := get("&token=ana")
	var p struct{ SID string }
	if err := json.Unmarshal([]byte(opened[1:]), &p); err != nil {
		t.Fatal(err)
	}
	post := func(query, body string) int {
		t.Helper()
		resp, err := http.Post(r.url+"/socket.io/?EIO=4&transport=polling&sid="+p.SID+query, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for _, query := range []string{"", "&token=eve", "&token=bad"} {
		if status := post(query, "40"); status != 400 {
			t.Errorf("with %q: %d", query, status)
		}
	}
	if status := post("&token=ana", "40"); status != 200 {
		t.Errorf("its own: %d", status)
	}
	r.connected(t, 1)
	if status, body := get("&sid=" + p.SID + "&token=eve"); status != 400 || !strings.Contains(body, "Session ID unknown") {
		t.Errorf("somebody else's GET: %d %s", status, body)
	}
	if status, body := get("&sid=" + p.SID + "&token=ana"); status != 200 || !strings.HasPrefix(body, `40{"sid"`) {
		t.Errorf("its own GET: %d %s", status, body)
	}
}

func TestNobodyIsLeftAfterManyComeAndGo(t *testing.T) {
	r := start(t, func(o *Options) { o.HandshakeRate = 1_000_000; o.PendingPolls = 1000 })
	before := runtime.NumGoroutine()
	const n, atOnce = visits, 8
	var work sync.WaitGroup
	for lane := range atOnce {
		work.Go(func() {
			for i := lane; i < n; i += atOnce {
				r.comeAndGo(t, (i%10+1)/5) // every tenth is old
			}
		})
	}
	work.Wait()
	r.connected(t, 0)
	until(t, "nothing is kept of them", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.peers)+len(r.sessions)+len(r.polls) == 0 && len(r.modern.Sessions()) == 0
	})
	until(t, "goroutines back to where they were", func() bool { return runtime.NumGoroutine() <= before+3 })
	if n := r.total(t, "eventspine_socketio_connections", ""); n != 0 {
		t.Errorf("the gauge says %v", n)
	}
	if n := r.total(t, "eventspine_socketio_ended_connections_total", ""); n != visits {
		t.Errorf("%v ends counted", n)
	}
}

// comeAndGo is one short visit: of a new client that says good-bye, of a new one that vanishes, or
// of an old one.
func (r *rig) comeAndGo(t *testing.T, how int) {
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	eio, hello := 4, wsFrame(0x81, `40{"token":"ana"}`)
	if how == 2 {
		eio, hello = 3, ""
	}
	_, err = fmt.Fprintf(c, "GET /socket.io/?EIO=%d&transport=websocket&token=ana HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", eio)
	in := bufio.NewReader(c)
	resp, err2 := http.ReadResponse(in, nil)
	if err != nil || err2 != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Error("not connected", err, err2)
		return
	}
	_ = resp.Body.Close()
	_, _ = io.WriteString(c, hello)
	for got := []byte{}; !bytes.Contains(got, []byte("40")); { // until it is connected
		b, err := in.ReadByte()
		if err != nil {
			t.Error(err)
			return
		}
		got = append(got, b)
	}
	switch how {
	case 0:
		_, _ = io.WriteString(c, wsFrame(0x81, "41")+wsFrame(0x81, "1"))
	case 1:
		_ = c.(*net.TCPConn).SetLinger(0)
	}
}

func TestPreflightOfModernClients(t *testing.T) {
	r := start(t, func(o *Options) { o.Origins = []string{"https://app.example.com"} })
	for origin, status := range map[string]int{"https://app.example.com": 204, "https://evil.example": 403} {
		for _, method := range []string{http.MethodOptions, http.MethodGet} {
			req, err := http.NewRequest(method, r.url+"/socket.io/?EIO=4&transport=polling", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Origin", origin)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			want := status
			if method == http.MethodGet && status == 204 {
				want = 200
			}
			if resp.StatusCode != want || want < 300 && resp.Header.Get("Access-Control-Allow-Origin") != origin {
				t.Errorf("%s from %s: %d %v", method, origin, resp.StatusCode, resp.Header)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
