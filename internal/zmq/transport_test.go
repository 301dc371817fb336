package zmq

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"eventspine/internal/fault"
)

// eachTransport runs fn on a free endpoint of every transport.
func eachTransport(t *testing.T, fn func(t *testing.T, endpoint string, o Options)) {
	t.Helper()
	for scheme, ep := range map[string]string{
		"tcp": "tcp://127.0.0.1:0", "ipc": "ipc://" + filepath.Join(t.TempDir(), "s"),
		"abstract": "ipc://@eventspine-" + strconv.FormatUint(rand.Uint64(), 36), "inproc": "inproc://here",
	} {
		t.Run(scheme, func(t *testing.T) { fn(t, ep, Options{Inproc: &InprocNetwork{}}) })
	}
}

func bind(t *testing.T, s *Socket, endpoint string) string {
	t.Helper()
	actual, err := s.Bind(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(endpoint, ":0") && actual != endpoint {
		t.Errorf("bound %q as %q", endpoint, actual)
	}
	return actual
}

func TestEveryTransportCarries(t *testing.T) {
	eachTransport(t, func(t *testing.T, endpoint string, o Options) {
		pull := open(t, Pull, o)
		ep := bind(t, pull, endpoint)
		push := connected(t, Push, o, ep)
		big := strings.Repeat("0123456789abcdef", 1<<16)
		for range 3 {
			send(t, push, "a", "", big)
			send(t, push, "b")
		}
		for range 3 {
			expect(t, pull, "a", "", big)
			expect(t, pull, "b")
		}
		rep := open(t, Rep, o)
		_ = pull.Close(t.Context())
		eventually(t, "the endpoint to be free", func() bool { _, err := rep.Bind(t.Context(), ep); return err == nil })
		req := connected(t, Req, o, ep)
		send(t, req, "ping")
		expect(t, rep, "ping")
		send(t, rep, "pong")
		expect(t, req, "pong")
	})
}

func TestHighWaterMarksOfEveryTransport(t *testing.T) {
	eachTransport(t, func(t *testing.T, endpoint string, o Options) {
		o.SndHWM, o.RcvHWM = 10, 10
		pull := open(t, Pull, o)
		push := connected(t, Push, o, bind(t, pull, endpoint))
		peersOf(t, 1, push, pull)
		n := fill(t, func() error { return push.TrySend(Msg{make([]byte, kib64)}) })
		if q, u := push.Stats().Queued, pull.Stats().Unread; q != 10 || u > 10 {
			t.Errorf("%d queued and %d unread at marks of 10", q, u)
		}
		for range n {
			recv(t, pull)
		}
		if d := push.Stats().Dropped; d != 0 {
			t.Errorf("%d dropped", d)
		}
	})
}

// Peers without an address of their own are still told apart, so that keys spread over them.
func TestKeysSpreadOverEveryTransport(t *testing.T) {
	eachTransport(t, func(t *testing.T, endpoint string, o Options) {
		push := open(t, Push, o)
		ep := bind(t, push, endpoint)
		one, two := connected(t, Pull, o, ep), connected(t, Pull, o, ep)
		peersOf(t, 2, push)
		for key := range uint64(64) {
			if err := push.TrySendKey(key, msg("x")); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all messages", func() bool { return one.Stats().Received+two.Stats().Received == 64 })
		if n := one.Stats().Received; n < 8 || n > 56 {
			t.Errorf("%d of 64 keys went to one of two peers", n)
		}
	})
}

func TestConnectBeforeBind(t *testing.T) {
	eachTransport(t, func(t *testing.T, endpoint string, o Options) {
		if strings.HasPrefix(endpoint, "tcp") { // a port that was free a moment ago
			gone := open(t, Pull, o)
			endpoint = bind(t, gone, endpoint)
			_ = gone.Close(t.Context())
		}
		push := connected(t, Push, o, endpoint)
		send(t, push, "early")
		pull := open(t, Pull, o)
		bind(t, pull, endpoint)
		expect(t, pull, "early")
	})
}

func TestSocketFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if _, err := open(t, Pull, Options{}).Bind(t.Context(), "ipc://"+path); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a file in use: %v", err)
	}
	_ = l.Close() // leaves its file, as a killed process does
	pull := open(t, Pull, Options{})
	bind(t, pull, "ipc://"+path)
	push := connected(t, Push, Options{}, "ipc://"+path)
	send(t, push, "x")
	expect(t, pull, "x")
	_ = pull.Close(t.Context())
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, Pull, Options{}).Bind(t.Context(), "ipc://"+plain); err == nil {
		t.Error("bound over a file that is no socket")
	}
	if b, err := os.ReadFile(plain); err != nil || string(b) != "precious" {
		t.Errorf("the plain file: %q %v", b, err)
	}
	any := open(t, Pull, Options{})
	ep, err := any.Bind(t.Context(), "ipc://*")
	if err != nil {
		t.Fatal(err)
	}
	connected(t, Push, Options{}, ep)
	peersOf(t, 1, any)
}

func TestEndpointsOfOtherTransports(t *testing.T) {
	in := &InprocNetwork{}
	for _, c := range []struct {
		endpoint string
		o        Options
		bindable bool
	}{
		{"ipc://", Options{}, false}, {"ipc://@", Options{}, false}, {"ipc://a\x00b", Options{}, false},
		{"ipc://" + strings.Repeat("x", 108), Options{}, false}, {"ipc://*", Options{}, true},
		{"inproc://a", Options{}, false}, {"inproc://", Options{Inproc: in}, false},
	} {
		if err := open(t, Pull, c.o).Connect(c.endpoint); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("Connect(%q): %v", c.endpoint, err)
		}
		if _, err := open(t, Pull, c.o).Bind(t.Context(), c.endpoint); (err == nil) != c.bindable {
			t.Errorf("Bind(%q): %v", c.endpoint, err)
		}
	}
	first := open(t, Pull, Options{Inproc: in})
	bind(t, first, "inproc://a")
	if _, err := open(t, Pull, Options{Inproc: in}).Bind(t.Context(), "inproc://a"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a taken name: %v", err)
	}
	bind(t, open(t, Pull, Options{Inproc: &InprocNetwork{}}), "inproc://a") // another network
}
