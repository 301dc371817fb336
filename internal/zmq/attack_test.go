package zmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/zmtp"
)

// raw dials a socket without any manners.
func raw(t testing.TB, ep string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(ep, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func say(t *testing.T, c net.Conn, b ...[]byte) {
	t.Helper()
	if _, err := c.Write(bytes.Join(b, nil)); err != nil {
		t.Fatal(err)
	}
}

// hello is a proper greeting and READY.
func hello(typ string) []byte {
	g := make([]byte, 64)
	g[0], g[9], g[10] = 0xff, 0x7f, 3
	copy(g[12:], "NULL")
	ready := append([]byte("\x0bSocket-Type\x00\x00\x00"), byte(len(typ)))
	return append(g, zmtp.EncodeCommand("READY", append(ready, typ...))...)
}

// hangsUp waits until the socket has closed c.
func hangsUp(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, syscall.EAGAIN) || isTimeout(err) {
		t.Fatal("the connection was not closed")
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func long(flags byte, size uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{flags}, size)
}

func TestAttackersLoseOnlyTheirOwnConnection(t *testing.T) {
	for _, a := range []struct {
		name string
		said [][]byte
		kind EventKind
		err  fault.Kind
	}{
		{"rubbish greeting", [][]byte{[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")}, HandshakeFailed, fault.Corrupt},
		{"short READY", [][]byte{hello("PUSH")[:64], zmtp.EncodeCommand("READY", []byte{9, 'a'})}, HandshakeFailed, fault.Corrupt},
		{"wrong type", [][]byte{hello("SUB")}, HandshakeFailed, fault.Corrupt},
		{"frame of 2^62 bytes", [][]byte{hello("PUSH"), long(2, 1<<62)}, ProtocolError, fault.TooLarge},
		{"frame of 17 MiB", [][]byte{hello("PUSH"), long(2, 17<<20), make([]byte, 1000)}, ProtocolError, fault.TooLarge},
		{"reserved flag", [][]byte{hello("PUSH"), {0x10, 0}}, ProtocolError, fault.Corrupt},
		{"endless message", [][]byte{hello("PUSH"), bytes.Repeat([]byte{1, 0}, 9000)}, ProtocolError, fault.TooLarge},
		{"long PING", [][]byte{hello("PUSH"), zmtp.EncodeCommand("PING", make([]byte, 100))}, ProtocolError, fault.Corrupt},
	} {
		t.Run(a.name, func(t *testing.T) {
			var seen journal
			pull, ep := bound(t, Pull, Options{Monitor: seen.note})
			good := connected(t, Push, Options{}, ep)
			peersOf(t, 1, pull)
			c := raw(t, ep)
			for _, b := range a.said {
				_, _ = c.Write(b)
			}
			hangsUp(t, c)
			eventually(t, "the event", func() bool { return len(seen.find(a.kind)) == 1 })
			e := seen.find(a.kind)[0]
			if fault.KindOf(errors.Unwrap(e.Err)) != a.err && fault.KindOf(e.Err) != a.err || !errors.Is(e.Err, ErrProtocol) || e.Remote == "" {
				t.Errorf("event %+v", e)
			}
			if n := pull.Stats().ProtocolErrors; n != 1 {
				t.Errorf("%d protocol errors counted", n)
			}
			send(t, good, "still here")
			expect(t, pull, "still here")
		})
	}
}

func TestAnAnnouncedFrameTakesNoMemory(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 50 {
		say(t, raw(t, ep), hello("PUSH"), long(2, 16<<20), make([]byte, 100))
	}
	peersOf(t, 50, pull)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 50*600<<10 {
		t.Errorf("%d KiB taken by 50 connections that announced 16 MiB each", took>>10)
	}
}

func TestPingIsAnsweredAndNotDelivered(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	c := raw(t, ep)
	say(t, c, hello("PUSH"), zmtp.EncodeCommand("PING", []byte("\x00\x01context")),
		zmtp.EncodeCommand("NEWS", []byte("ignored")), []byte{0, 1, 'x'})
	expect(t, pull, "x")
	want := zmtp.EncodeCommand("PONG", []byte("context"))
	got := make([]byte, len(hello("PULL"))+len("\x08Identity\x00\x00\x00\x00")+len(want))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.HasSuffix(got, want) {
		t.Errorf("got %q (%v), want a PONG at the end", got, err)
	}
}

func TestSubscribeCommandsOfNewerPeers(t *testing.T) {
	pub, ep := bound(t, XPub, Options{})
	c := raw(t, ep)
	say(t, c, hello("SUB"), zmtp.EncodeCommand("SUBSCRIBE", []byte("a")), zmtp.EncodeCommand("SUBSCRIBE", []byte("a")),
		zmtp.EncodeCommand("CANCEL", []byte("a")), zmtp.EncodeCommand("SUBSCRIBE", []byte("b")))
	expect(t, pub, "\x01a")
	expect(t, pub, "\x01b")
	subscriptions(t, pub, 2)
	say(t, c, zmtp.EncodeCommand("CANCEL", []byte("a")))
	expect(t, pub, "\x00a")
}

func TestSubscriptionsAreBounded(t *testing.T) {
	pub, ep := bound(t, Pub, Options{RcvBytes: 1000})
	c := raw(t, ep)
	say(t, c, hello("SUB"))
	for i := range 20 {
		_, _ = c.Write(zmtp.EncodeSubscription(strings.Repeat("x", i), true))
	}
	hangsUp(t, c)
	eventually(t, "the protocol error", func() bool { return pub.Stats().ProtocolErrors == 1 })
}

func TestMessagesWithoutADelimiter(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	c := raw(t, ep)
	say(t, c, hello("REQ"), []byte{0, 1, 'x'})
	hangsUp(t, c)
	eventually(t, "the protocol error", func() bool { return rep.Stats().ProtocolErrors == 1 })
}

// flaky is a listener whose first accepts fail as when files run out.
type flaky struct {
	net.Listener
	left int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.left > 0 {
		f.left--
		return nil, syscall.EMFILE
	}
	return f.Listener.Accept()
}

func TestAcceptOutlivesErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pull := open(t, Pull, Options{})
	pull.mu.Lock()
	pull.listeners = append(pull.listeners, listener{l, "test"})
	pull.wg.Add(1)
	pull.mu.Unlock()
	go func() {
		defer pull.wg.Done()
		pull.accept(&flaky{Listener: l, left: 3}, "test")
	}()
	push := connected(t, Push, Options{}, "tcp://"+l.Addr().String())
	send(t, push, "x")
	expect(t, pull, "x")
}

func TestEndpoints(t *testing.T) {
	for _, ep := range []string{"", "127.0.0.1:1", "udp://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:http", "tcp://127.0.0.1:70000"} {
		s := open(t, Pull, Options{})
		if _, err := s.Bind(t.Context(), ep); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("Bind(%q): %v", ep, err)
		}
		if err := s.Connect(ep); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("Connect(%q): %v", ep, err)
		}
	}
	if err := open(t, Pull, Options{}).Connect("tcp://127.0.0.1:0"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("Connect to port 0: %v", err)
	}
	long := open(t, Pull, Options{Identity: strings.Repeat("x", 256)})
	if err := long.Connect("tcp://127.0.0.1:1"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("identity of 256 bytes: %v", err)
	}
	_, taken := bound(t, Pull, Options{})
	if _, err := open(t, Pull, Options{}).Bind(t.Context(), taken); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Bind to a taken port: %v", err)
	}
	if ep, err := open(t, Pull, Options{}).Bind(t.Context(), "tcp://*:*"); err != nil || strings.HasSuffix(ep, ":0") {
		t.Errorf("Bind to any: %q %v", ep, err)
	}
}

func TestMonitorLines(t *testing.T) {
	var b bytes.Buffer
	note := LogMonitor(slog.New(slog.NewJSONHandler(&b, nil)))
	note(Event{Kind: Connected, Socket: Push, Endpoint: "tcp://a:1", Remote: "b:2", PeerType: "PULL", Identity: "ana"})
	note(Event{Kind: Retrying, Socket: Push, Endpoint: "tcp://a:1", Err: errors.New("refused"), Wait: time.Second})
	note(Event{Kind: ProtocolError, Socket: Pull, Err: context.Canceled})
	for _, want := range []string{`"level":"INFO","msg":"zmq_connect","socket":"PUSH","endpoint":"tcp://a:1","remote":"b:2","peer_type":"PULL","identity":"ana"`,
		`"msg":"zmq_retry","socket":"PUSH","endpoint":"tcp://a:1","error":"refused","wait":1000000000`, `"level":"WARN","msg":"zmq_protocol_error"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s\nlacks %s", b.String(), want)
		}
	}
	if got := EventKind(99).String() + Type(99).String(); got != "zmq_unknownunknown" {
		t.Error(got)
	}
}
