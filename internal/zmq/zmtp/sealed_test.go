package zmtp

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/zmq/curve"
)

// secured opens both ends of a CURVE connection.
func secured(t testing.TB) (client, server *Conn) {
	t.Helper()
	c, s := newKeys(t), newKeys(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	opened := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			server, err = Open(conn, Config{Type: "PULL", Server: true, Timeout: 5 * time.Second, Limits: small, Curve: &Curve{Server: true, Keys: s}})
		}
		opened <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, err = Open(conn, Config{Type: "PUSH", Identity: "ana", Timeout: 5 * time.Second, Limits: small, Curve: &Curve{Keys: c, ServerKey: s.Public}})
	if other := <-opened; err != nil || other != nil {
		t.Fatal(err, other)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	if server.PeerKey != c.Public || client.PeerKey != s.Public || server.PeerIdentity != "ana" || !server.Modern || !client.Modern {
		t.Errorf("the ends know each other as %+v and %+v", server.Meta, client.Meta)
	}
	return client, server
}

func newKeys(t testing.TB) curve.Pair {
	t.Helper()
	p, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// onto makes c write to w and gives a Reader of what it wrote for the other end.
func onto(c, other *Conn, wire *bytes.Buffer, lim Limits) *Reader {
	c.Writer = NewWriter(wire)
	c.Writer.session = c.session
	r := NewReader(bufio.NewReaderSize(wire, readBufferSize), lim)
	r.session = other.session
	return r
}

func TestWhatIsSealedIsRead(t *testing.T) {
	client, server := secured(t)
	rapid.Check(t, func(t *rapid.T) {
		frame := rapid.Custom(func(t *rapid.T) []byte {
			n := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(220, 257), rapid.IntRange(growStep-50, growStep+1)).Draw(t, "size")
			return bytes.Repeat([]byte{byte(n)}, n)
		})
		msgs := rapid.SliceOfN(rapid.SliceOfN(frame, 1, 4), 1, 8).Draw(t, "messages")
		var wire bytes.Buffer
		r := onto(client, server, &wire, small)
		size := client.AppendRaw(append(EncodePing(7), EncodeSubscription("topic", true)...))
		for _, m := range msgs {
			client.Append(m)
			size += client.WireSize(m)
		}
		if n, err := client.Flush(); err != nil || n != size || int64(wire.Len()) != size {
			t.Fatalf("%d bytes written, counted as %d (%v)", n, size, err)
		}
		if _, cmd, err := r.Next(); err != nil || cmd == nil || cmd.Name != Ping || TTL(cmd) != 7 {
			t.Fatalf("command %+v %v", cmd, err)
		}
		msgs = append([][][]byte{{[]byte("\x01topic")}}, msgs...)
		for i, want := range msgs {
			got, _, err := r.Next()
			if err != nil || len(got) != len(want) || !bytes.Equal(bytes.Join(got, []byte{0}), bytes.Join(want, []byte{0})) {
				t.Fatalf("message %d: %d frames, want %d (%v)", i, len(got), len(want), err)
			}
		}
	})
}

func TestSealedFramesHaveLimitsToo(t *testing.T) {
	client, server := secured(t)
	tiny := Limits{Frame: maxCommand, Frames: 2, Message: maxCommand + 10}
	for name, m := range map[string][][]byte{"frame": {make([]byte, maxCommand+1)}, "frames": {nil, nil, nil}, "message": {make([]byte, 20), make([]byte, maxCommand)}} {
		var wire bytes.Buffer
		r := onto(client, server, &wire, tiny)
		client.Append(m)
		_, _ = client.Flush()
		if _, _, err := r.Next(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"plain text": {0, 5, 'h', 'e', 'l', 'l', 'o'}, "MORE outside": {flagMore, 0}, "2^62 bytes": long(0, 1<<62, nil)} {
		r := onto(client, server, bytes.NewBuffer(b), tiny)
		if _, _, err := r.Next(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
