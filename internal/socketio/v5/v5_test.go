package v5

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Packet
	}{
		{`0`, Packet{Kind: Connect, Namespace: "/"}},
		{`0{"token":"x"}`, Packet{Kind: Connect, Namespace: "/", Data: json.RawMessage(`{"token":"x"}`)}},
		{`0/admin`, Packet{Kind: Connect, Namespace: "/admin"}},
		{`0/admin,{"a":1}`, Packet{Kind: Connect, Namespace: "/admin", Data: json.RawMessage(`{"a":1}`)}},
		{`1/admin,`, Packet{Kind: Disconnect, Namespace: "/admin"}},
		{`2["a",1]`, Packet{Kind: Event, Namespace: "/", Data: json.RawMessage(`["a",1]`)}},
		{`212["a"]`, Packet{Kind: Event, Namespace: "/", HasID: true, ID: 12, Data: json.RawMessage(`["a"]`)}},
		{`3/admin,456[]`, Packet{Kind: Ack, Namespace: "/admin", HasID: true, ID: 456, Data: json.RawMessage(`[]`)}},
		{`52-/x,7["b",{"_placeholder":true,"num":1}]`, Packet{Kind: BinaryEvent, Namespace: "/x", HasID: true, ID: 7, Attachments: 2, Data: json.RawMessage(`["b",{"_placeholder":true,"num":1}]`)}},
		{`61-0[{"_placeholder":true,"num":0}]`, Packet{Kind: BinaryAck, Namespace: "/", HasID: true, Attachments: 1, Data: json.RawMessage(`[{"_placeholder":true,"num":0}]`)}},
		{`2["a",{"_placeholder":true,"num":9}]`, Packet{Kind: Event, Namespace: "/", Data: json.RawMessage(`["a",{"_placeholder":true,"num":9}]`)}},
	} {
		got, err := Parse([]byte(tt.in))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("Parse(%s) = %+v, %v", tt.in, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, rule := range map[string]wire.Violation{
		"":                                       wire.BadPacket,
		"7":                                      wire.BadPacket,
		"abc":                                    wire.BadPacket,
		`0[]`:                                    wire.BadJSON,
		`0 {}`:                                   wire.BadJSON,
		`012`:                                    wire.BadJSON,
		`1{}`:                                    wire.BadJSON,
		`2`:                                      wire.BadJSON,
		`2{}`:                                    wire.BadJSON,
		`2[]`:                                    wire.BadJSON,
		`2[1]`:                                   wire.BadJSON,
		`2["a"`:                                  wire.BadJSON,
		`2abc["a"]`:                              wire.BadJSON,
		`2["connect"]`:                           wire.BadJSON,
		`2["disconnecting"]`:                     wire.BadJSON,
		`2[""]`:                                  wire.BadJSON,
		`21234567890123456["a"]`:                 wire.BadPacket,
		`3["a"]`:                                 wire.BadJSON,
		`4{"message":"x"}`:                       wire.BadPacket,
		`5["a"]`:                                 wire.BadBinary,
		`5-["a"]`:                                wire.BadBinary,
		`5999999-["a"]`:                          wire.BadBinary,
		`599999999999999999999-["a"]`:            wire.BadBinary,
		`51-["a",{"_placeholder":true,"num":1}]`: wire.BadJSON,
		`51-["a",{"_placeholder":true,"num":-1}]`:          wire.BadJSON,
		`51-["a",{"_placeholder":true,"num":0.5}]`:         wire.BadJSON,
		`51-["a",{"_placeholder":true}]`:                   wire.BadJSON,
		`51-["a",[{"x":{"_placeholder":true,"num":"0"}}]]`: wire.BadJSON,
		"2" + strings.Repeat("[", 100_000):                 wire.BadJSON,
	} {
		if _, err := Parse([]byte(in)); !errors.Is(err, rule) {
			t.Errorf("Parse(%.60s): %v, want %v", in, err, rule)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, in := range []string{`0{"token":"x"}`, `0/admin,`, `1`, `212["a",1]`, `3/x,4[]`, `52-/x,7["b",{"_placeholder":true,"num":1}]`, `61-0[]`, `4`, `2["a"`} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := Parse(in)
		if err != nil {
			if rule := wire.Violation(""); !errors.As(err, &rule) {
				t.Fatalf("%q: %v is no violation", in, err)
			}
			return
		}
		out := p.Append(nil)
		again, err := Parse(out[1:])
		if err != nil || again.Kind != p.Kind || again.Namespace != p.Namespace || again.ID != p.ID || again.HasID != p.HasID ||
			again.Attachments != p.Attachments || !bytes.Equal(again.Data, p.Data) {
			t.Fatalf("%q was read as %+v, written as %q, and read as %+v, %v", in, p, out, again, err)
		}
	})
}

func TestAppendEvent(t *testing.T) {
	if got := string(AppendEvent(nil, `a"b`, []byte(`{"x":1}`), []byte("7.3"))); got != `42["a\"b",{"x":1},"7.3"]` {
		t.Errorf("%s", got)
	}
	if got := string(AppendEvent(nil, "a", []byte(`1`), nil)); got != `42["a",1]` {
		t.Errorf("%s", got)
	}
}

// ignored is an Observer that remembers the last violation.
type ignored struct {
	mu   sync.Mutex
	rule string
}

func (i *ignored) Refused(string)                       {}
func (i *ignored) Violated(_ *engine.Session, r string) { i.mu.Lock(); i.rule = r; i.mu.Unlock() }
func (i *ignored) Opened(*engine.Session)               {}
func (i *ignored) Moved(*engine.Session)                {}
func (i *ignored) Closed(*engine.Session, string, int)  {}
func (i *ignored) Delivered(int)                        {}

type rig struct {
	t    *testing.T
	url  string
	seen *ignored
	left chan string
	mu   sync.Mutex
	last *Socket
}

// start serves namespaces that accept everybody but who says no, and send back what they get.
func start(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, seen: &ignored{}, left: make(chan string, 10)}
	n := Namespace{
		Connect: func(s *Socket, auth json.RawMessage) {
			if strings.Contains(string(auth), "no") {
				s.Refuse([]byte(`{"message":"no"}`))
				return
			}
			s.SetData(string(auth))
			r.mu.Lock()
			r.last = s
			r.mu.Unlock()
			s.Accept([]byte(`{"sid":"x"}`), hub.Message{Text: []byte(`42["hello"]`)})
		},
		Event: func(s *Socket, e Received) {
			args, _ := json.Marshal(e.Args)
			if e.WantsReply() {
				e.Reply(args, e.Attachments...)
				e.Reply(args) // the second is not sent
				return
			}
			s.Emit([]byte(`["back",`+string(args)+`]`), e.Attachments...)
		},
		Disconnect: func(_ *Socket, reason string) { r.left <- reason },
	}
	o := Options{Namespaces: map[string]Namespace{"/": n, "/admin": n}, ConnectTimeout: 300 * time.Millisecond}
	e, err := engine.New(engine.Options{Observer: r.seen, MaxPayload: 10_000, Open: o.Handler(func(r *http.Request) any { return r.URL.Path })})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(e)
	r.url = strings.Replace(web.URL, "http", "ws", 1) + "/?EIO=4&transport=websocket"
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.Close(ctx)
		web.Close()
	})
	return r
}

func (r *rig) socket() *Socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

type client struct {
	t  *testing.T
	ws *websocket.Conn
}

func (r *rig) dial() *client {
	r.t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial(r.url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	c := &client{r.t, ws}
	c.read()
	return c
}

func (r *rig) connected() *client {
	c := r.dial()
	c.send("40")
	c.want(`40{"sid":"x"}`, `42["hello"]`)
	return c
}

func (c *client) send(packets ...string) {
	c.t.Helper()
	for _, p := range packets {
		kind := websocket.TextMessage
		if strings.HasPrefix(p, "b:") {
			kind, p = websocket.BinaryMessage, p[2:]
		}
		if err := c.ws.WriteMessage(kind, []byte(p)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *client) read() string {
	kind, b, err := c.ws.ReadMessage()
	if err != nil {
		return ""
	}
	if kind == websocket.BinaryMessage {
		return "b:" + string(b)
	}
	return string(b)
}

func (c *client) want(packets ...string) {
	c.t.Helper()
	for _, p := range packets {
		if got := c.read(); got != p {
			c.t.Fatalf("received %q, want %q", got, p)
		}
	}
}

func TestNamespaces(t *testing.T) {
	r := start(t)
	c := r.connected()
	c.send("40/random,")
	c.want(`44/random,{"message":"Invalid namespace"}`)
	c.send(`40/admin,{"a":"no"}`)
	c.want(`44/admin,{"message":"no"}`)
	c.send("40/admin")
	c.want(`40/admin,{"sid":"x"}`, `42["hello"]`)
	c.send(`42/admin,["e",1]`)
	c.want(`42/admin,["back",[1]]`)
	c.send("41/admin", `42["e"]`)
	c.want(`42["back",[]]`)
	if reason := <-r.left; reason != "client left" {
		t.Errorf("left: %s", reason)
	}
	if r.socket().Attached() != "/" || r.socket().Data() != "" {
		t.Errorf("attached %v, data %v", r.socket().Attached(), r.socket().Data())
	}
	r.socket().Disconnect("") // of /admin, which has gone
}

func TestAcksBothWays(t *testing.T) {
	r := start(t)
	c := r.connected()
	c.send(`4212["e",1,{"a":2}]`)
	c.want(`4312[1,{"a":2}]`)
	type answer struct {
		args []json.RawMessage
		err  error
	}
	got := make(chan answer, 3)
	ask := func(within time.Duration) {
		r.socket().Ask(within, func(args []json.RawMessage, _ [][]byte, err error) { got <- answer{args, err} }, []byte(`["question"]`))
	}
	ask(10 * time.Second)
	c.want(`420["question"]`)
	c.send(`430["yes"]`)
	if a := <-got; a.err != nil || len(a.args) != 1 || string(a.args[0]) != `"yes"` {
		t.Errorf("answered %v", a)
	}
	c.send(`430["again"]`, `4399["nobody asked"]`) // too late, and harmless
	ask(10 * time.Millisecond)
	c.want(`421["question"]`)
	if a := <-got; a.err == nil {
		t.Error("no time-out")
	}
	ask(10 * time.Second)
	c.want(`422["question"]`)
	_ = c.ws.Close()
	if a := <-got; !errors.Is(a.err, ErrGone) {
		t.Errorf("after the end: %v", a.err)
	}
	<-r.left
	ask(time.Second)
	if a := <-got; !errors.Is(a.err, ErrGone) {
		t.Errorf("asked after the end: %v", a.err)
	}
}

func TestBinaryBothWays(t *testing.T) {
	r := start(t)
	c := r.connected()
	c.send(`452-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`, "b:123", "b:45")
	c.want(`452-["back",[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]]`, "b:123", "b:45")
	c.send(`451-7["e",{"_placeholder":true,"num":0}]`, "b:\x00\xff")
	c.want(`461-7[{"_placeholder":true,"num":0}]`, "b:\x00\xff")
	got := make(chan string, 1)
	r.socket().Ask(time.Minute, func(args []json.RawMessage, parts [][]byte, _ error) { got <- fmt.Sprintf("%s %q", args, parts) }, []byte(`["q",{"_placeholder":true,"num":0}]`), []byte("abc"))
	c.want(`451-0["q",{"_placeholder":true,"num":0}]`, "b:abc")
	c.send(`461-0[{"_placeholder":true,"num":0}]`, "b:xyz")
	if said := <-got; said != `[{"_placeholder":true,"num":0}] ["xyz"]` {
		t.Errorf("acked with %s", said)
	}
}

func TestServerDisconnects(t *testing.T) {
	r := start(t)
	c := r.connected()
	r.socket().Disconnect("enough")
	c.want("41")
	if reason := <-r.left; reason != "enough" {
		t.Errorf("left: %s", reason)
	}
	c.want("") // nobody connects again
}

func TestASessionWithoutANamespaceEnds(t *testing.T) {
	r := start(t)
	r.dial().want("")
	c := r.connected()
	c.send("41")
	c.want("")
}

func TestWhatBreaksTheProtocolEndsTheSession(t *testing.T) {
	for name, tt := range map[string]struct {
		packets []string
		rule    wire.Violation
	}{
		"unknown kind":            {[]string{"4abc"}, wire.BadPacket},
		"no array":                {[]string{"42{}"}, wire.BadJSON},
		"bad id":                  {[]string{`42abc["e"]`}, wire.BadJSON},
		"twice connected":         {[]string{"40"}, wire.BadNamespace},
		"a foreign namespace":     {[]string{`42/admin,["e"]`}, wire.BadNamespace},
		"text between the parts":  {[]string{`452-["e"]`, "b:1", `42["e"]`}, wire.BadBinary},
		"binary from nowhere":     {[]string{"b:1"}, wire.BadBinary},
		"parts that are too much": {[]string{`453-["e"]`, "b:" + strings.Repeat("x", 6000), "b:" + strings.Repeat("x", 6000)}, wire.BadSize},
		"a connect error":         {[]string{`44{"message":"x"}`}, wire.BadPacket},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			c := r.connected()
			c.send(tt.packets...)
			c.want("")
			<-r.left
			if r.seen.mu.Lock(); r.seen.rule != string(tt.rule) {
				t.Errorf("counted as %q, want %q", r.seen.rule, tt.rule)
			}
			r.seen.mu.Unlock()
		})
	}
}
