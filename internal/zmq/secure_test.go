package zmq

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/curve"
	"eventspine/internal/zmq/zmtp"
)

func keys(t testing.TB) curve.Pair {
	t.Helper()
	p, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// curves are the options of a server and a client that know each other.
func curves(t testing.TB) (server, client Options) {
	t.Helper()
	s, c := keys(t), keys(t)
	return Options{Curve: &CurveOptions{Server: true, Public: s.Public, Secret: s.Secret, Authorize: AllowKeys(c.Public)}},
		Options{Curve: &CurveOptions{Public: c.Public, Secret: c.Secret, ServerKey: s.Public}}
}

func TestCurveCarriesEverything(t *testing.T) {
	for _, serverBinds := range []bool{true, false} {
		binds, connects := curves(t)
		if !serverBinds {
			binds, connects = connects, binds
		}
		dealer, ep := bound(t, Dealer, binds)
		other := connected(t, Dealer, connects, ep)
		for _, n := range []int{0, 1, 200, 221, 222, 223, 255, 256, 8191, 8192, 70_000, 1 << 20} {
			body := strings.Repeat("x", n)
			send(t, dealer, "a", "", body)
			expect(t, other, "a", "", body)
			send(t, other, body)
			expect(t, dealer, body)
		}
	}
}

func TestCurvePublishes(t *testing.T) {
	server, client := curves(t)
	pub, ep := bound(t, XPub, server)
	sub := connected(t, Sub, client, ep)
	if err := sub.Subscribe("a"); err != nil {
		t.Fatal(err)
	}
	expect(t, pub, "\x01a")
	send(t, pub, "b", "unwanted")
	send(t, pub, "ab", "x")
	expect(t, sub, "ab", "x")
}

// Whoever lacks the right key gets nothing and gives nothing, not even a subscription.
func TestWhoIsRefused(t *testing.T) {
	server, client := curves(t)
	stranger, other := keys(t), keys(t)
	wrongServer := *client.Curve
	wrongServer.ServerKey = other.Public
	notListed := *client.Curve
	notListed.Public, notListed.Secret = stranger.Public, stranger.Secret
	for _, c := range []struct {
		name   string
		server Options
		client Options
		kind   fault.Kind
		said   string
	}{
		{"a client with another server's key", server, Options{Curve: &wrongServer}, fault.Corrupt, "HELLO does not open"},
		{"a client that is not on the list", server, Options{Curve: &notListed}, fault.Unauthorized, "not on the list"},
		{"a plain client", server, Options{}, fault.Corrupt, "mechanism is \"NULL\", ours is CURVE"},
		{"a CURVE client at a plain socket", Options{}, client, fault.Corrupt, "mechanism is \"CURVE\", ours is NULL"},
		{"two servers", server, server, fault.Corrupt, "both ends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var seen journal
			c.server.Monitor = seen.note
			pub, ep := bound(t, XPub, c.server)
			sub := connected(t, Sub, c.client, ep)
			if err := sub.Subscribe(""); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the refusal", func() bool { return len(seen.find(HandshakeFailed)) > 1 })
			if e := seen.find(HandshakeFailed)[0]; fault.KindOf(errors.Unwrap(e.Err)) != c.kind && fault.KindOf(e.Err) != c.kind || !strings.Contains(e.Err.Error(), c.said) {
				t.Errorf("event %v", e.Err)
			}
			send(t, pub, "secret")
			if st := pub.Stats(); st.Connects+st.Received+sub.Stats().Received+sub.Stats().Connects != 0 {
				t.Errorf("something got through: %+v", st)
			}
		})
	}
}

// A client that is denied learns that it is, and no more.
func TestTheDeniedAreTold(t *testing.T) {
	server, client := curves(t)
	var asked atomic.Value
	server.Curve.Domain = "tests"
	server.Curve.Authorize = func(p Peer) error {
		asked.Store(p)
		return errors.New("a reason that is ours alone")
	}
	_, ep := bound(t, Pull, server)
	var seen journal
	client.Monitor, client.Identity = seen.note, "ana"
	connected(t, Push, client, ep)
	eventually(t, "the refusal", func() bool { return len(seen.find(HandshakeFailed)) > 0 })
	err := seen.find(HandshakeFailed)[0].Err
	if !errors.Is(err, ErrRefused) || fault.KindOf(err) != fault.Unauthorized || !strings.Contains(err.Error(), `"400"`) || strings.Contains(err.Error(), "ours alone") {
		t.Errorf("the client learned: %v", err)
	}
	p := asked.Load().(Peer)
	if p.Domain != "tests" || p.Identity != "ana" || p.Key != client.Curve.Public || !strings.HasPrefix(p.Remote, "127.0.0.1:") {
		t.Errorf("Authorize was asked about %+v", p)
	}
}

func TestCurveOptionsThatDoNotWork(t *testing.T) {
	server, client := curves(t)
	for name, c := range map[string]CurveOptions{
		"no keys": {Server: true}, "no server key": {Public: server.Curve.Public, Secret: server.Curve.Secret},
		"keys of two pairs": {Server: true, Public: server.Curve.Public, Secret: client.Curve.Secret},
	} {
		if err := open(t, Push, Options{Curve: &c}).Connect("tcp://127.0.0.1:1"); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := open(t, Push, Options{Curve: &c}).Bind(t.Context(), "tcp://127.0.0.1:0"); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// tap passes bytes between a client and a server and may change what the client says.
func tap(t *testing.T, server string, change func(after int, b []byte)) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", strings.TrimPrefix(server, "tcp://"))
			if err != nil {
				_ = c.Close()
				return
			}
			go func() { _, _ = io.Copy(c, s); _ = c.Close() }()
			go func() {
				defer func() { _ = s.Close() }()
				b := make([]byte, 64<<10)
				for after := 0; ; {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					change(after, b[:n])
					after += n
					if _, err := s.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "tcp://" + l.Addr().String()
}

func TestNothingReadableOnTheWire(t *testing.T) {
	server, client := curves(t)
	pull, ep := bound(t, Pull, server)
	var leaked atomic.Bool
	through := tap(t, ep, func(_ int, b []byte) {
		if strings.Contains(string(b), "secret") {
			leaked.Store(true)
		}
	})
	push := connected(t, Push, client, through)
	for range 10 {
		send(t, push, "secret words")
		expect(t, pull, "secret words")
	}
	if leaked.Load() {
		t.Error("plain text on the wire")
	}
	_ = push.Close(t.Context())
	_ = pull.Close(t.Context())
}

func TestOneChangedByteEndsTheConnection(t *testing.T) {
	server, client := curves(t)
	pull, ep := bound(t, Pull, server)
	var armed atomic.Bool
	through := tap(t, ep, func(_ int, b []byte) {
		if armed.CompareAndSwap(true, false) {
			b[len(b)-1] ^= 1
		}
	})
	push := connected(t, Push, client, through)
	peersOf(t, 1, push, pull)
	armed.Store(true)
	send(t, push, "changed")
	eventually(t, "the protocol error", func() bool { return pull.Stats().ProtocolErrors == 1 })
	silent(t, pull, 20*time.Millisecond)
	_ = push.Close(t.Context())
	_ = pull.Close(t.Context())
}

func TestRubbishInTheCurveHandshake(t *testing.T) {
	server, _ := curves(t)
	server.HandshakeTimeout = 300 * time.Millisecond
	pull, ep := bound(t, Pull, server)
	greeting := hello("x")[:64]
	copy(greeting[12:], "CURVE\x00")
	for i, said := range [][]byte{
		zmtp.EncodeCommand("READY", []byte("\x0bSocket-Type\x00\x00\x00\x04PUSH")),
		zmtp.EncodeCommand("HELLO", make([]byte, 194)), zmtp.EncodeCommand("HELLO", nil), zmtp.EncodeCommand("INITIATE", make([]byte, 300)),
		zmtp.EncodeCommand("ERROR", []byte("\x03400")), zmtp.EncodeCommand("ERROR", nil), {0, 1, 'x'}, nil,
	} {
		c := raw(t, ep)
		say(t, c, greeting, said)
		hangsUp(t, c)
		eventually(t, fmt.Sprintf("refusal %d", i), func() bool { return pull.Stats().HandshakeFailures == uint64(i+1) })
	}
}

// A socket that connects to several servers finds the key of each by its endpoint.
func TestEachServerHasItsKey(t *testing.T) {
	first, client := curves(t)
	second, third := *first.Curve, keys(t)
	second.Public, second.Secret = third.Public, third.Secret
	one, at1 := bound(t, Pull, first)
	two, at2 := bound(t, Pull, Options{Curve: &second})
	known := map[string]curve.Key{at1: first.Curve.Public, at2: second.Public}
	c := *client.Curve
	c.ServerKey, c.FindServer = curve.Key{}, func(endpoint string) (curve.Key, error) {
		if k, ok := known[endpoint]; ok {
			return k, nil
		}
		return curve.Key{}, errors.New("never heard of it")
	}
	push := open(t, Push, Options{Curve: &c})
	for _, at := range []string{at1, at2} {
		if err := push.Connect(at); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "two servers", func() bool { return push.Stats().Peers == 2 })
	send(t, push, "a")
	send(t, push, "b")
	eventually(t, "a message at each", func() bool { return one.Stats().Received == 1 && two.Stats().Received == 1 })
	if err := push.Connect("tcp://127.0.0.1:1"); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "never heard of it") {
		t.Errorf("an unknown server: %v", err)
	}
	if _, err := push.Bind(t.Context(), "tcp://127.0.0.1:0"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a client that binds knows no endpoint to look up: %v", err)
	}
}
