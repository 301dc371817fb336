package socketio

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/googollee/go-socket.io/engineio"
	"github.com/googollee/go-socket.io/engineio/transport"
	"github.com/googollee/go-socket.io/engineio/transport/polling"
	"github.com/googollee/go-socket.io/engineio/transport/websocket"

	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/v5"
	"eventspine/internal/socketio/wire"
)

// suitesVar names the folder of a checkout of github.com/socketio/socket.io, whose protocol
// suites are then run: test/socketio/suites.sh.
const suitesVar = "EVENTSPINE_SOCKETIO_CHECKOUT"

// What the suites expect of the server.
const (
	suitePing    = 300 * time.Millisecond
	suiteTimeout = 200 * time.Millisecond
)

// TestPublicSuites runs the public conformance suites against the server. Without a checkout it
// has nothing to run.
func TestPublicSuites(t *testing.T) {
	checkout := os.Getenv(suitesVar)
	if checkout == "" {
		t.Skip(suitesVar + " is not set")
	}
	for _, tt := range []struct {
		name, suite string
		serve       func(t *testing.T) http.Handler
		least       int
		times       int
	}{
		{"Engine.IO 4", "docs/engine.io-protocol/v4-test-suite", echoEngine, 24, 1},
		{"Engine.IO 3", "docs/engine.io-protocol/v3-test-suite", echoOld, 14, 1},
		{"Engine.IO 3 of go-socket.io alone", "docs/engine.io-protocol/v3-test-suite", echoAlone, 0, 1}, // to compare with
		{"Socket.IO 5", "docs/socket.io-protocol/v5-test-suite", echoSockets, 32, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := prepare(t, filepath.Join(checkout, tt.suite))
			for range tt.times {
				web := httptest.NewServer(tt.serve(t))
				passed, failed := runSuite(t, dir, strings.TrimPrefix(web.URL, "http://"))
				web.Close()
				t.Logf("%d passed, %d failed: %s", passed, len(failed), strings.Join(failed, "; "))
				if passed < tt.least {
					t.Errorf("%d passed, want at least %d", passed, tt.least)
				}
			}
		})
	}
}

// prepare copies the suite and installs what it needs.
func prepare(t *testing.T, suite string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(suite)); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return dir
}

// runSuite runs the suite against the server and returns what failed.
func runSuite(t *testing.T, dir, addr string) (passed int, failed []string) {
	t.Helper()
	source, err := fs.ReadFile(os.DirFS(dir), "test-suite.js")
	if err != nil {
		t.Fatal(err)
	}
	const run = "suite-here.js"
	source = []byte(strings.ReplaceAll(string(source), "localhost:3000", addr))
	if err := os.WriteFile(filepath.Join(dir, run), source, 0o600); err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(dir, "report.json")
	cmd := exec.CommandContext(t.Context(), "npx", "mocha", "--exit", "--reporter", "json", "--reporter-option", "output="+report, run)
	cmd.Dir = dir
	out, _ := cmd.CombinedOutput() // its exit code is the number of failures
	b, err := os.ReadFile(report)
	if err != nil {
		b = out[max(0, strings.Index(string(out), "{")):]
	}
	var said struct {
		Stats    struct{ Passes int }
		Failures []struct {
			FullTitle string
			Err       struct{ Message string }
		}
	}
	if err := json.Unmarshal(b, &said); err != nil {
		t.Fatalf("mocha said %v: %s", err, out)
	}
	for _, f := range said.Failures {
		failed = append(failed, f.FullTitle+" ("+f.Err.Message+")")
	}
	return said.Stats.Passes, failed
}

// ignored is an Observer that does nothing.
type ignored struct{}

func (ignored) Refused(string)                      {}
func (ignored) Violated(*engine.Session, string)    {}
func (ignored) Opened(*engine.Session)              {}
func (ignored) Moved(*engine.Session)               {}
func (ignored) Closed(*engine.Session, string, int) {}
func (ignored) Delivered(int)                       {}

func suiteEngine(t *testing.T, open func(*engine.Session, *http.Request) engine.Handler) http.Handler {
	e, err := engine.New(engine.Options{Open: open, Observer: ignored{}, PingInterval: suitePing, PingTimeout: suiteTimeout, MaxPayload: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.Close(ctx)
	})
	return e
}

type echo struct{ s *engine.Session }

func (e echo) Text(b []byte)   { e.s.Send(hub.Message{Text: append([]byte("4"), b...)}) }
func (e echo) Binary(b []byte) { e.s.Send(hub.Message{Text: b, Binary: true}) }
func (e echo) Closed(string)   {}

func echoEngine(t *testing.T) http.Handler {
	return suiteEngine(t, func(s *engine.Session, _ *http.Request) engine.Handler { return echo{s} })
}

func echoSockets(t *testing.T) http.Handler {
	n := v5.Namespace{
		Connect: func(s *v5.Socket, auth json.RawMessage) {
			s.Accept([]byte(`{"sid":"` + s.Session().ID() + `"}`))
			if len(auth) == 0 {
				auth = json.RawMessage("{}")
			}
			s.Emit([]byte(`["auth",` + string(auth) + `]`))
		},
		Event: func(s *v5.Socket, e v5.Received) {
			args, err := json.Marshal(e.Args)
			if err != nil {
				t.Error(err)
			}
			if e.Name == "message-with-ack" {
				e.Reply(args, e.Attachments...)
				return
			}
			s.Emit([]byte(`["message-back",`+strings.TrimPrefix(string(args), "[")), e.Attachments...)
		},
		Disconnect: func(*v5.Socket, string) {},
	}
	o := v5.Options{Namespaces: map[string]v5.Namespace{"/": n, "/custom": n}, ConnectTimeout: time.Second}
	return suiteEngine(t, o.Handler(nil))
}

// echoOld is the way for old clients without its Socket.IO: the transports and the guard, which
// lets the suite's packets through.
func echoOld(t *testing.T) http.Handler {
	s, err := New(Options{Hub: hub.New(10_000, 10_000, hub.Options{}), PingInterval: suitePing, PingTimeout: suitePing + suiteTimeout, MaxPayload: 1_000_000,
		Verify: func(context.Context, string) (User, error) { return User{ID: "ana"}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	s.vet = func(b []byte) (wire.Verdict, error) {
		return wire.Pass, map[bool]error{false: wire.BadPacket}[len(b) > 0 && b[0] >= '0' && b[0] <= '6']
	}
	e := engineio.NewServer(&engineio.Options{PingInterval: suitePing, PingTimeout: suiteTimeout, SessionIDGenerator: randomID{},
		Transports: []transport.Transport{patient{newWSTransport(s)}, patient{&pollTransport{s}}}})
	s.old = e
	var loops sync.WaitGroup
	loops.Go(func() {
		for {
			c, err := e.Accept()
			if err != nil {
				return
			}
			a, _ := c.RemoteAddr().(sessionAddr)
			a.s.connected(c.ID())
			loops.Go(func() { echoPackets(c) })
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Close(ctx)
		_ = e.Close()
		loops.Wait()
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		q.Set("token", "ana")
		r.URL.RawQuery = q.Encode()
		s.ServeHTTP(w, r)
	})
}

// echoAlone is go-socket.io's own Engine.IO server.
func echoAlone(t *testing.T) http.Handler {
	e := engineio.NewServer(&engineio.Options{PingInterval: suitePing, PingTimeout: suiteTimeout,
		Transports: []transport.Transport{websocket.Default, polling.Default}})
	var loops sync.WaitGroup
	loops.Go(func() {
		for c, err := e.Accept(); err == nil; c, err = e.Accept() {
			loops.Go(func() { echoPackets(c) })
		}
	})
	t.Cleanup(func() { _ = e.Close(); loops.Wait() })
	return e
}

func echoPackets(c engineio.Conn) {
	defer func() { _ = c.Close() }()
	for {
		kind, r, err := c.NextReader()
		if err != nil {
			return
		}
		w, err := c.NextWriter(kind)
		if err != nil {
			return
		}
		if _, err := io.Copy(w, r); err != nil {
			return
		}
		_, _ = r.Close(), w.Close()
	}
}

// patient are transports whose clients may be silent for the interval and the time-out, as the
// suite has it; go-socket.io closes them after the time-out alone, for which the bridge tells it the
// sum of both.
type patient struct{ transport.Transport }

func (p patient) Accept(w http.ResponseWriter, r *http.Request) (transport.Conn, error) {
	c, err := p.Transport.Accept(w, r)
	if h, ok := c.(http.Handler); ok && err == nil {
		return patientPoll{patientConn{c}, h}, nil
	}
	return patientConn{c}, err
}

type patientConn struct{ transport.Conn }

func (c patientConn) SetReadDeadline(t time.Time) error {
	return c.Conn.SetReadDeadline(t.Add(suitePing))
}

type patientPoll struct {
	patientConn
	http.Handler
}
