// Package socketio_test connects real socket.io-client programs to the bridge's Socket.IO server:
// the last of each series, over websocket, over polling, and from polling to websocket.
package socketio_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/fault"
	"eventspine/internal/socketio"
	"eventspine/internal/socketio/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// install makes sure that the clients are there; it skips or fails the test without Node.
func install(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
			t.Skip("node is not installed")
		}
		t.Fatal(err)
	}
	if _, err := os.Stat("node_modules/sio4"); err == nil {
		return
	}
	out, err := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund").CombinedOutput()
	if err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

const anyPort = "127.0.0.1:0"

// server is a Socket.IO server whose tokens are user names; "bad" is refused. A session is
// recovered by the events in missed, when it says that it saw the event number 7 last.
type server struct {
	hub  *hub.Hub
	sio  *socketio.Server
	web  *http.Server
	addr string
}

var missed = []hub.Event{{Name: "status", Payload: []byte(`8`), Position: hub.Position{Seq: 8}}, {Name: "alert", Payload: []byte(`9`), Position: hub.Position{Seq: 9}}}

func recovered(_ context.Context, user string, r socketio.Recovery) socketio.Recovered {
	if pid := "session of " + user; r.PID != pid || r.Offset != "7" {
		return socketio.Recovered{PID: pid}
	}
	return socketio.Recovered{PID: r.PID, Ok: true, Events: missed}
}

func serve(t *testing.T, addr string) *server {
	t.Helper()
	s := &server{hub: hub.New(100, 1000, hub.Options{})}
	var err error
	s.sio, err = socketio.New(socketio.Options{Hub: s.hub, Origins: []string{"*"},
		Verify: func(_ context.Context, token string) (socketio.User, error) {
			if token == "bad" {
				return socketio.User{}, fault.Errorf("", fault.Unauthorized, "the token is wrong")
			}
			return socketio.User{ID: token}, nil
		},
		Sync: func(_ context.Context, user string, arg json.RawMessage) socketio.Synced {
			return socketio.Synced{Events: [][]byte{[]byte(`{"user":"` + user + `"}`), arg}, Info: []byte(`{"complete":true}`)}
		},
		Recover: recovered,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	s.web = &http.Server{Handler: s.sio, ReadHeaderTimeout: time.Second}
	go func() { _ = s.web.Serve(listener) }()
	t.Cleanup(s.close)
	return s
}

func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	s.sio.Close(ctx)
	_ = s.web.Close()
}

// browser is one client in a Node process.
type browser struct {
	t     *testing.T
	stdin io.Writer
	said  chan said
}

type said struct {
	What      string          `json:"what"`
	Name      string          `json:"name"`
	Transport string          `json:"transport"`
	Payload   json.RawMessage `json:"payload"`
	Events    json.RawMessage `json:"events"`
	Info      json.RawMessage `json:"info"`
	Message   string          `json:"message"`
	Kind      string          `json:"kind"`
	Status    int             `json:"status"`
	Recovered bool            `json:"recovered"`
}

func start(t *testing.T, alias, addr, transports string) *browser {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "client.js", alias, "http://"+addr, transports)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, stdin: stdin, said: make(chan said, 100_000)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			var s said
			if json.Unmarshal(lines.Bytes(), &s) == nil {
				b.said <- s
			}
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		<-ended
		_ = cmd.Wait()
	})
	return b
}

func (b *browser) do(command string) {
	b.t.Helper()
	if _, err := io.WriteString(b.stdin, command+"\n"); err != nil {
		b.t.Fatal(err)
	}
}

// await skips what is said until it is about what.
func (b *browser) await(what string) said {
	b.t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		select {
		case s := <-b.said:
			if s.What == what {
				return s
			}
		case <-limit.C:
			b.t.Fatalf("never: %s", what)
		}
	}
}

// kind is one client with the transports it may use.
type kind struct {
	alias, transports string
}

// old says that it speaks Engine.IO 3.
func (k kind) old() bool { return k.alias < "sio3" }

// upgrades says that it begins with polling and goes over to a websocket. The server offers that to
// Engine.IO 4 only.
func (k kind) upgrades() bool { return k.transports == "polling,websocket" && !k.old() }

func everyClient(t *testing.T, fn func(t *testing.T, k kind)) {
	install(t)
	for _, alias := range []string{"sio1", "sio2", "sio3", "sio4"} {
		for _, transports := range []string{"websocket", "polling", "polling,websocket"} {
			t.Run(alias+" "+transports, func(t *testing.T) {
				t.Parallel()
				fn(t, kind{alias, transports})
			})
		}
	}
}

// connected waits for a connection over the transports it is to have.
func (b *browser) connected(k kind) {
	b.t.Helper()
	got := b.await("connect")
	if k.upgrades() && got.Transport == "polling" { // it may have gone over before it was let in
		got = b.await("upgrade")
	}
	want := "websocket"
	if k.transports == "polling" || k.old() && k.transports != "websocket" {
		want = "polling"
	}
	if got.Transport != want {
		b.t.Errorf("connected over %s", got.Transport)
	}
}

func TestClients(t *testing.T) {
	everyClient(t, func(t *testing.T, k kind) {
		s := serve(t, anyPort)
		b := start(t, k.alias, s.addr, k.transports)
		b.do(`{"do":"connect","token":"ana"}`)
		b.connected(k)

		payload := `{"text":"für dich: 你好 😀 \u2028 end","n":[1,2.5,null]}`
		s.hub.ToUser("ana", "notification", []byte(payload), hub.Position{})
		if got := b.await("event"); got.Name != "notification" || !equal(t, got.Payload, payload) {
			t.Errorf("received %s %s", got.Name, got.Payload)
		}
		s.hub.ToUser("bob", "status", []byte(`"not for you"`), hub.Position{})
		s.hub.ToAll("alert", []byte(`"for all"`), hub.Position{})
		if got := b.await("event"); got.Name != "alert" || string(got.Payload) != `"for all"` {
			t.Errorf("received %s %s", got.Name, got.Payload)
		}

		b.do(`{"do":"sync","since":1700000000000}`)
		if got := b.await("sync"); !equal(t, got.Events, `[{"user":"ana"},1700000000000]`) || !equal(t, got.Info, `{"complete":true}`) {
			t.Errorf("sync: %s %s", got.Events, got.Info)
		}
		b.do(`{"do":"sync","since":{"user":5,"all":7,"epoch":1,"note":"ünïcode 😀"},"one":true}`)
		if got := b.await("sync"); !strings.Contains(string(got.Events), `"all":7`) {
			t.Errorf("sync of an old client: %s", got.Events)
		}
		b.do(`{"do":"emit","name":"nobody listens","args":[1,{"a":[]}]}`)
		b.do(`{"do":"sync","since":1}`)
		b.await("sync")

		const many = 2000 // within the queue's bounds when it goes in parts
		for i := range many {
			s.hub.ToUser("ana", "status", []byte(`{"n":`+strings.Repeat("1", 1+i%9)+`}`), hub.Position{})
			if i%500 == 499 {
				for range 500 {
					b.await("event")
				}
			}
		}
		b.do(`{"do":"close"}`)
		b.await("disconnect")
		gone(t, s)
	})
}

func TestRefusedTokenIsSeen(t *testing.T) {
	everyClient(t, func(t *testing.T, k kind) {
		s := serve(t, anyPort)
		b := start(t, k.alias, s.addr, k.transports)
		b.do(`{"do":"connect","token":"bad","times":0}`)
		got := b.await("connect_error")
		if k.old() && got.Status != http.StatusUnauthorized {
			t.Errorf("refused with %d %s", got.Status, got.Message)
		}
		if !k.old() && (got.Kind != "unauthorized" || got.Message != "the token is wrong") {
			t.Errorf("refused with %s %s", got.Kind, got.Message)
		}
		if s.hub.Len() != 0 {
			t.Error("connected all the same")
		}
	})
}

func TestNewClientsMayHaveTheTokenInTheQuery(t *testing.T) {
	install(t)
	for _, alias := range []string{"sio3", "sio4"} {
		s := serve(t, anyPort)
		b := start(t, alias, s.addr, "polling,websocket")
		b.do(`{"do":"connect","token":"ana","query":true}`)
		b.await("connect")
		s.hub.ToUser("ana", "status", []byte(`1`), hub.Position{})
		b.await("event")
	}
}

func TestClientsReconnect(t *testing.T) {
	everyClient(t, func(t *testing.T, k kind) {
		s := serve(t, anyPort)
		b := start(t, k.alias, s.addr, k.transports)
		b.do(`{"do":"connect","token":"ana"}`)
		b.connected(k)
		s.close()
		b.await("disconnect")
		again := serve(t, s.addr)
		b.await("connect")
		again.hub.ToUser("ana", "status", []byte(`1`), hub.Position{})
		if got := b.await("event"); string(got.Payload) != "1" {
			t.Errorf("received %s", got.Payload)
		}
	})
}

func TestNewestClientRecovers(t *testing.T) {
	everyClient(t, func(t *testing.T, k kind) {
		if k.alias != "sio4" {
			return // recovery came with 4.6
		}
		s := serve(t, anyPort)
		b := start(t, k.alias, s.addr, k.transports)
		b.do(`{"do":"connect","token":"ana"}`)
		b.connected(k)
		s.hub.ToUser("ana", "status", []byte(`7`), hub.Position{Seq: 7})
		b.await("event")
		b.do(`{"do":"drop"}`)
		b.await("disconnect")
		if got := b.await("connect"); !got.Recovered {
			t.Error("the client does not think that it is recovered")
		}
		for _, want := range missed {
			if got := b.await("event"); got.Name != want.Name || string(got.Payload) != string(want.Payload) {
				t.Errorf("received %s %s", got.Name, got.Payload)
			}
		}
	})
}

func TestClientsRefreshTheirTokens(t *testing.T) {
	everyClient(t, func(t *testing.T, k kind) {
		s := serve(t, anyPort)
		b := start(t, k.alias, s.addr, k.transports)
		b.do(`{"do":"connect","token":"ana"}`)
		b.connected(k)
		b.do(`{"do":"refresh","token":"ana"}`)
		if got := b.await("refreshed"); !strings.Contains(string(got.Info), `"ok":true`) {
			t.Errorf("refreshed: %s", got.Info)
		}
		for _, token := range []string{"bob", "bad"} {
			b.do(`{"do":"refresh","token":"` + token + `"}`)
			if got := b.await("refreshed"); !strings.Contains(string(got.Info), `"ok":false`) {
				t.Errorf("refreshed by %s: %s", token, got.Info)
			}
		}
		s.sio.Disconnect(func(u socketio.User) bool { return u.ID == "ana" }, "token revoked")
		if got := b.await("closing"); !equal(t, got.Info, `{"reason":"token revoked"}`) {
			t.Errorf("closing: %s", got.Info)
		}
		b.await("disconnect")
	})
}

func equal(t *testing.T, got json.RawMessage, want string) bool {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if json.Unmarshal(got, &a) != nil {
		return false
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func gone(t *testing.T, s *server) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		if s.hub.Len() == 0 {
			return
		}
		<-tick.C
	}
	t.Error("the server still knows the client")
}
