// Package socketio_test connects real socket.io-client programs to the bridge's Socket.IO server:
// the last of the 1 and of the 2 series, over websocket and over polling.
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
	if _, err := os.Stat("node_modules/sio2"); err == nil {
		return
	}
	out, err := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund").CombinedOutput()
	if err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
}

const anyPort = "127.0.0.1:0"

// server is a Socket.IO server whose tokens are user names; "bad" is refused.
type server struct {
	hub  *hub.Hub
	sio  *socketio.Server
	web  *http.Server
	addr string
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
	Status    int             `json:"status"`
}

func start(t *testing.T, alias, addr, transport string) *browser {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "client.js", alias, "http://"+addr, transport)
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

func everyClient(t *testing.T, fn func(t *testing.T, alias, transport string)) {
	install(t)
	for _, alias := range []string{"sio1", "sio2"} {
		for _, transport := range []string{"websocket", "polling"} {
			t.Run(alias+" "+transport, func(t *testing.T) { fn(t, alias, transport) })
		}
	}
}

func TestClients(t *testing.T) {
	everyClient(t, func(t *testing.T, alias, transport string) {
		s := serve(t, anyPort)
		b := start(t, alias, s.addr, transport)
		b.do(`{"do":"connect","token":"ana"}`)
		if got := b.await("connect"); got.Transport != transport {
			t.Errorf("connected over %s", got.Transport)
		}

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
	everyClient(t, func(t *testing.T, alias, transport string) {
		s := serve(t, anyPort)
		b := start(t, alias, s.addr, transport)
		b.do(`{"do":"connect","token":"bad","times":0}`)
		got := b.await("connect_error")
		if got.Status != 401 {
			t.Errorf("refused with %d %s", got.Status, got.Message)
		}
		if s.hub.Len() != 0 {
			t.Error("connected all the same")
		}
	})
}

func TestClientsReconnect(t *testing.T) {
	everyClient(t, func(t *testing.T, alias, transport string) {
		s := serve(t, anyPort)
		b := start(t, alias, s.addr, transport)
		b.do(`{"do":"connect","token":"ana"}`)
		b.await("connect")
		s.close()
		b.await("disconnect")
		again := serve(t, s.addr)
		b.await("reconnect")
		again.hub.ToUser("ana", "status", []byte(`1`), hub.Position{})
		if got := b.await("event"); string(got.Payload) != "1" {
			t.Errorf("received %s", got.Payload)
		}
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
