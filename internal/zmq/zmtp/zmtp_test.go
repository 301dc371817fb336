package zmtp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"eventspine/internal/fault"
	"eventspine/internal/testkit/allocs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var small = Limits{Frame: 1 << 20, Frames: 8, Message: 2 << 20}

func greeting(mechanism string) []byte {
	g := make([]byte, greetingSize)
	g[0], g[9], g[10] = 0xff, 0x7f, 3
	copy(g[12:], mechanism)
	return g
}

func property(name, value string) []byte {
	b := append([]byte{byte(len(name))}, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func long(flags byte, size uint64, body []byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{flags | flagLong}, size), body...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// handshake lets a peer say exactly said (and then close) and gives Open's result.
func handshake(t testing.TB, said []byte, closes bool) (*Conn, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		heard := make(chan struct{})
		go func() { defer close(heard); _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = theirs.Write(said)
		if closes {
			_ = theirs.Close()
		}
		<-heard
		_ = theirs.Close()
	}()
	c, err := Open(ours, Config{Type: "PULL", Server: true, Timeout: 200 * time.Millisecond, Limits: small,
		Compatible: func(peer string) error {
			if peer != "PUSH" {
				return fault.Errorf("test", fault.Invalid, "%q is no PUSH", peer)
			}
			return nil
		}})
	_ = ours.Close()
	<-done
	return c, err
}

func TestOpen(t *testing.T) {
	ready := func(props ...[]byte) []byte { return EncodeCommand("READY", join(props...)) }
	push := property("Socket-Type", "PUSH")
	for _, c := range []struct {
		name     string
		said     []byte
		closes   bool
		protocol bool   // the peer broke the protocol
		want     string // in the error; empty: the handshake succeeds
	}{
		{"a proper peer", join(greeting("NULL"), ready(push, property("Identity", "ana"))), false, false, ""},
		{"names in lower case", join(greeting("NULL"), ready(property("socket-type", "PUSH"), property("identity", "ana"))), false, false, ""},
		{"unknown metadata", join(greeting("NULL"), ready(push, property("Identity", "ana"), property("X-Long", strings.Repeat("x", 500)))), false, false, ""},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), false, true, "no ZMTP peer"},
		{"64 bytes of rubbish", bytes.Repeat([]byte{0xff}, 64), true, true, ""},
		{"ZMTP 2", func() []byte { g := greeting("NULL"); g[10] = 1; return g }(), true, true, "version"},
		{"another mechanism", greeting("CURVE"), true, true, "security"},
		{"silence", nil, false, false, "in time"},
		{"half a greeting", greeting("NULL")[:30], false, false, "in time"},
		{"a greeting and silence", greeting("NULL"), false, false, "in time"},
		{"a greeting and the end", greeting("NULL"), true, false, "handshake"},
		{"an empty command", join(greeting("NULL"), []byte{flagCommand, 0}), false, true, ""},
		{"a READY that ends in a name", join(greeting("NULL"), EncodeCommand("READY", []byte{5, 'a'})), false, true, ""},
		{"a READY that ends in a size", join(greeting("NULL"), EncodeCommand("READY", []byte{1, 'a', 0})), false, true, ""},
		{"a READY with a value of 4 GiB", join(greeting("NULL"), EncodeCommand("READY", []byte{1, 'a', 255, 255, 255, 255})), false, true, ""},
		{"another command", join(greeting("NULL"), EncodeCommand("HELLO", nil)), false, true, ""},
		{"a message", join(greeting("NULL"), []byte{0, 1, 'x'}), false, true, "flags 0x00"},
		{"a READY with MORE", join(greeting("NULL"), []byte{flagCommand | flagMore, 1, 'x'}), false, true, "flags 0x05"},
		{"a READY of 2^62 bytes", join(greeting("NULL"), long(flagCommand, 1<<62, nil)), false, true, "limit"},
		{"a READY over 64 KiB", join(greeting("NULL"), long(flagCommand, maxCommand+1, nil)), false, true, "limit"},
		{"the wrong type", join(greeting("NULL"), ready(property("Socket-Type", "SUB"))), false, true, "no PUSH"},
		{"no type", join(greeting("NULL"), ready()), false, true, "no PUSH"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn, err := handshake(t, c.said, c.closes)
			good := !c.protocol && c.want == ""
			switch {
			case good && err != nil:
				t.Fatal(err)
			case good && (conn.PeerType != "PUSH" || conn.PeerIdentity != "ana"):
				t.Errorf("peer is %q %q", conn.PeerType, conn.PeerIdentity)
			case !good && err == nil:
				t.Fatal("Open succeeded")
			case errors.Is(err, ErrProtocol) != c.protocol:
				t.Errorf("protocol error is %v: %v", !c.protocol, err)
			case err != nil && !strings.Contains(err.Error(), c.want):
				t.Errorf("error %q lacks %q", err, c.want)
			}
			if c.name == "the wrong type" && conn.PeerType != "SUB" {
				t.Errorf("a refused peer's type is %q", conn.PeerType)
			}
		})
	}
}

func TestOpenHoldsItsDeadlineAgainstADrip(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		for _, b := range greeting("NULL") {
			select {
			case <-tick.C:
				_, _ = theirs.Write([]byte{b})
			case <-stop:
				return
			}
		}
	}()
	_, err := Open(ours, Config{Type: "PULL", Timeout: 100 * time.Millisecond, Limits: small})
	close(stop)
	<-done
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestTwoOfUs(t *testing.T) {
	ours, theirs := net.Pipe()
	type opened struct {
		c   *Conn
		err error
	}
	other := make(chan opened, 1)
	// A pipe has no buffer, so both sides would write first for ever; this end is buffered.
	go func() {
		c, err := Open(&buffered{Conn: theirs}, Config{Type: "PUSH", Identity: "ana", Timeout: time.Second, Limits: small})
		other <- opened{c, err}
	}()
	c, err := Open(ours, Config{Type: "PULL", Server: true, Timeout: time.Second, Limits: small})
	o := <-other
	if err != nil || o.err != nil {
		t.Fatal(err, o.err)
	}
	defer func() { _, _ = c.Close(), o.c.Close() }()
	if c.PeerType != "PUSH" || c.PeerIdentity != "ana" || o.c.PeerType != "PULL" {
		t.Errorf("%q %q %q", c.PeerType, c.PeerIdentity, o.c.PeerType)
	}
}

// buffered writes in the background, one after the other.
type buffered struct {
	net.Conn
	last chan struct{}
}

func (b *buffered) Write(p []byte) (int, error) {
	before, done := b.last, make(chan struct{})
	b.last = done
	own := bytes.Clone(p)
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		_, _ = b.Conn.Write(own)
	}()
	return len(p), nil
}

func read(b []byte) *Reader { return NewReader(bufio.NewReaderSize(bytes.NewReader(b), 4096), small) }

func TestReaderRefuses(t *testing.T) {
	frame := []byte{flagMore, 0}
	for _, c := range []struct {
		name string
		in   []byte
		kind fault.Kind
	}{
		{"reserved flags", []byte{8, 0}, fault.Corrupt},
		{"a reserved high flag", []byte{0x80, 0}, fault.Corrupt},
		{"2^62 bytes", long(0, 1<<62, nil), fault.TooLarge},
		{"2^64-1 bytes", long(0, 1<<64-1, nil), fault.TooLarge},
		{"one byte over the limit", long(0, uint64(small.Frame)+1, nil), fault.TooLarge},
		{"a long command", long(flagCommand, maxCommand+1, nil), fault.TooLarge},
		{"a command with MORE", []byte{flagCommand | flagMore, 0}, fault.Corrupt},
		{"an empty command", []byte{flagCommand, 0}, fault.Corrupt},
		{"a command without a name", []byte{flagCommand, 1, 0}, fault.Corrupt},
		{"a command with a cut name", []byte{flagCommand, 2, 4, 'P'}, fault.Corrupt},
		{"nine frames", bytes.Repeat(frame, 9), fault.TooLarge},
		{"three MiB in frames of one", bytes.Repeat(long(flagMore, 1<<20, make([]byte, 1<<20)), 3), fault.TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := read(c.in).Next()
			if !errors.Is(err, ErrProtocol) || fault.KindOf(err) != c.kind {
				t.Errorf("got %v (%v), want %v", err, fault.KindOf(err), c.kind)
			}
		})
	}
}

func TestReaderTellsAnEndFromACut(t *testing.T) {
	whole := []byte{flagMore, 1, 'a', 0, 1, 'b'}
	for n := range whole {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, _, err := read(whole[:n]).Next(); !errors.Is(err, want) {
			t.Errorf("after %d bytes: %v, want %v", n, err, want)
		}
	}
}

func TestCommandsBetweenFramesOfOneMessage(t *testing.T) {
	r := read(join([]byte{flagMore, 1, 'a'}, EncodeCommand(Ping, []byte("\x00\x0acontext")), []byte{0, 1, 'b'}))
	_, cmd, err := r.Next()
	if err != nil || cmd == nil || cmd.Name != Ping {
		t.Fatalf("%v %v", cmd, err)
	}
	pong, err := PongFor(cmd)
	if err != nil || !bytes.Equal(pong, []byte("\x04\x0c\x04PONGcontext")) {
		t.Errorf("%q %v", pong, err)
	}
	msg, _, err := r.Next()
	if err != nil || len(msg) != 2 {
		t.Errorf("%q %v", msg, err)
	}
}

func TestPingLimits(t *testing.T) {
	for _, n := range []int{0, 1, 19, 300} {
		if _, err := PongFor(&Command{Name: Ping, Body: make([]byte, n)}); !errors.Is(err, ErrProtocol) {
			t.Errorf("PING of %d bytes: %v", n, err)
		}
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame := rapid.Custom(func(t *rapid.T) []byte {
			n := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(254, 257), rapid.IntRange(copyBelow-1, copyBelow+1),
				rapid.IntRange(growStep-1, 3*growStep)).Draw(t, "size")
			return bytes.Repeat([]byte{byte(n)}, n)
		})
		msgs := rapid.SliceOfN(rapid.SliceOfN(frame, 1, 4), 1, 20).Draw(t, "messages")
		var wire bytes.Buffer
		w := NewWriter(&wire)
		size := int64(0)
		for _, m := range msgs {
			w.Append(m)
			size += Size(m)
			if rapid.Bool().Draw(t, "flush") {
				if _, err := w.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if int64(wire.Len()) != size {
			t.Fatalf("%d bytes, Size says %d", wire.Len(), size)
		}
		r := read(wire.Bytes())
		for i, want := range msgs {
			got, _, err := r.Next()
			if err != nil || !bytes.Equal(bytes.Join(got, []byte{0}), bytes.Join(want, []byte{0})) || len(got) != len(want) {
				t.Fatalf("message %d: %d frames, want %d (%v)", i, len(got), len(want), err)
			}
		}
	})
}

func TestPending(t *testing.T) {
	b := join([]byte{0, 2, 'a', 'b'}, long(0, 3, []byte("cde")), []byte{0, 5, 'x'})
	r := read(b)
	if r.Pending() {
		t.Error("pending before anything was read")
	}
	for i, want := range []bool{true, false} {
		if _, _, err := r.Next(); err != nil || r.Pending() != want {
			t.Errorf("after message %d: pending %v (%v)", i, r.Pending(), err)
		}
	}
}

// Many short properties would take twenty times their size, from a peer nobody knows yet.
func TestPropertiesAreFew(t *testing.T) {
	var many []byte
	for i := range 8000 {
		many = append(many, property(string([]byte{byte('a' + i%26), byte('a' + i/26%26), byte('a' + i/676)}), "")...)
	}
	said := join(greeting("NULL"), EncodeCommand("READY", many))
	allocs.AtMost(t, len(said)+allocs.Slack+handshakeCost, func() {
		if _, err := Open(script{r: bytes.NewReader(said)}, Config{Type: "PULL", Timeout: time.Second, Limits: small}); !errors.Is(err, ErrProtocol) {
			t.Errorf("8,000 properties: %v", err)
		}
	})
}

// handshakeCost is what an honest peer's handshake takes besides a read buffer, with room.
const handshakeCost = 8 << 10

// A long frame holds what came of it and one piece more, however much was announced.
func TestLongFramesHoldWhatCame(t *testing.T) {
	const came = 1 << 20
	b := long(0, 1<<30, make([]byte, came))
	lim := Limits{Frame: 1 << 30, Frames: 1, Message: 1 << 30}
	allocs.AtMost(t, came+allocs.Slack+8<<10, func() { // 8 KiB are the buffer, the list of pieces and the error
		if _, _, err := NewReader(bufio.NewReader(bytes.NewReader(b)), lim).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a frame cut short: %v", err)
		}
	})
}

// FuzzReader reads frames, plain ones (sealed is false) or what is inside the boxes of a peer that
// holds the keys. What it gives must be on the wire again as it came, and cost no more than came,
// 64 KiB, and the slices that hold the frames.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 'a'}, false)
	f.Add(long(flagMore, 300, make([]byte, 300)), false)
	f.Add(long(0, 1<<62, nil), false)
	f.Add(join([]byte{flagMore, 0}, EncodeCommand(Ping, []byte{0, 1, 2}), []byte{0, 0}), true)
	f.Add([]byte{flagCommand, 5, 4, 'P', 'I', 'N', 'G'}, true)
	client, server := secured(f)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			var wire bytes.Buffer
			r := onto(client, server, &wire, small)
			if appendFrames(client.Writer, b) {
				_, _ = client.Flush()
				readAll(t, r, wire.Len())
			}
			return
		}
		frames := readAll(t, read(b), len(b))
		allocs.AtMost(t, len(b)+allocs.Slack+frames*frameCost+5<<10, func() { // 4 KiB are the test's own buffer, one for the error
			for r := read(b); ; {
				if _, _, err := r.Next(); err != nil {
					return
				}
			}
		})
	})
}

// frameCost is what a frame takes besides its bytes: a slice in a message's list that doubles
// when it is full, and rounding up.
const frameCost = 3*24 + 16

// appendFrames seals whole frames and reports whether b is made of such.
func appendFrames(w *Writer, b []byte) bool {
	for rest := b; len(rest) > 0; {
		header, size := 2, uint64(0)
		switch {
		case len(rest) < 2:
			return false
		case rest[0]&flagLong == 0:
			size = uint64(rest[1])
		case len(rest) < 9:
			return false
		default:
			header, size = 9, binary.BigEndian.Uint64(rest[1:])
		}
		if size > uint64(len(rest)-header) {
			return false
		}
		rest = rest[header+int(size):]
	}
	w.AppendRaw(b)
	return true
}

// readAll reads n bytes to their end, checks what it is given and counts the frames.
func readAll(t *testing.T, r *Reader, n int) (frames int) {
	t.Helper()
	for taken := 0; ; {
		pending := r.Pending()
		msg, cmd, err := r.Next()
		if pending && errors.Is(err, io.EOF) {
			t.Fatal("a pending frame was not there")
		}
		if err != nil {
			return frames + len(r.frames) + 1
		}
		frames += max(len(msg), 1)
		if (msg == nil) == (cmd == nil) {
			t.Fatal("neither or both")
		}
		if cmd != nil && cmd.Name == Ping {
			_, _ = PongFor(cmd)
		}
		for _, frame := range msg {
			taken += 2 + len(frame)
		}
		if taken > n {
			t.Fatal("more read than there was")
		}
		if len(msg) > small.Frames {
			t.Fatal("too many frames")
		}
		if msg != nil {
			rewrite(t, msg)
		}
	}
}

// rewrite writes a message and reads it again.
func rewrite(t *testing.T, msg [][]byte) {
	t.Helper()
	var wire bytes.Buffer
	w := NewWriter(&wire)
	w.Append(msg)
	if n, err := w.Flush(); err != nil || n != Size(msg) {
		t.Fatalf("%d bytes written, %d counted: %v", n, Size(msg), err)
	}
	again, _, err := read(wire.Bytes()).Next()
	if err != nil || !slices.EqualFunc(again, msg, bytes.Equal) {
		t.Fatalf("%q came back as %q (%v)", msg, again, err)
	}
}

func FuzzCommand(f *testing.F) {
	f.Add([]byte("\x04PING\x00\x0actx"))
	f.Add([]byte("\x05ERROR\x03400"))
	f.Add([]byte{0})
	f.Add([]byte{255, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		allocs.AtMost(t, len(b)+allocs.Slack, func() {
			if cmd, err := ParseCommand(b); err == nil {
				_ = errorReason(cmd)
			}
		})
		cmd, err := ParseCommand(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if pong, err := PongFor(cmd); cmd.Name == Ping && err == nil && (!bytes.HasSuffix(pong, cmd.Body[2:]) || EncodePing(TTL(cmd)) == nil) {
			t.Fatalf("PING %q is answered with %q", cmd.Body, pong)
		}
		_, again, err := read(EncodeCommand(cmd.Name, cmd.Body)).Next()
		if len(b) <= maxCommand && (err != nil || again.Name != cmd.Name || !bytes.Equal(again.Body, cmd.Body)) {
			t.Fatalf("%q came back as %q (%v)", b, again, err)
		}
	})
}

// script is a connection that says a fixed text and then nothing more.
type script struct {
	net.Conn
	r *bytes.Reader
}

func (s script) Read(p []byte) (int, error) { return s.r.Read(p) }
func (script) Write(p []byte) (int, error)  { return len(p), nil }
func (script) Close() error                 { return nil }
func (script) SetDeadline(time.Time) error  { return nil }

// FuzzHandshake says anything to an end that wants no security (role 0), to a CURVE server (1) and
// to a CURVE client (2). Only the first may let it in, and then it knows it by what it said.
func FuzzHandshake(f *testing.F) {
	push := property("Socket-Type", "PUSH")
	f.Add(join(greeting("NULL"), EncodeCommand("READY", join(push, property("Identity", "ana"), property("x-app", "1")))), byte(0))
	f.Add(join(greeting("NULL"), EncodeCommand("READY", []byte{5, 'a'})), byte(0))
	f.Add(join(greeting("NULL"), EncodeCommand("READY", []byte{1, 'a', 255, 255, 255, 255})), byte(0))
	f.Add(greeting("PLAIN"), byte(0))
	f.Add([]byte("GET / HTTP/1.1"), byte(0))
	f.Add(join(greeting("CURVE"), EncodeCommand("HELLO", make([]byte, 194))), byte(1))
	f.Add(join(greeting("CURVE"), EncodeCommand("WELCOME", make([]byte, 160)), EncodeCommand("READY", make([]byte, 40))), byte(2))
	f.Add(join(greeting("CURVE"), EncodeCommand("ERROR", []byte("\x03400"))), byte(2))
	f.Add(join(greeting("CURVE"), long(flagCommand, maxCommand, []byte("\x05HELLO"))), byte(1))
	keys, other := newKeys(f), newKeys(f)
	roles := []*Curve{nil, {Server: true, Keys: keys}, {Keys: keys, ServerKey: other.Public}}
	f.Fuzz(func(t *testing.T, b []byte, role byte) {
		secure := roles[int(role)%len(roles)]
		open := func(b []byte) (*Conn, error) {
			return Open(script{r: bytes.NewReader(b)}, Config{Type: "PULL", Timeout: time.Second, Limits: small, Curve: secure})
		}
		allocs.AtMost(t, len(b)+allocs.Slack+handshakeCost, func() { _, _ = open(b) })
		c, err := open(b)
		if err != nil {
			return
		}
		if len(b) < greetingSize || secure != nil || c.PeerType != "PUSH" {
			t.Fatalf("a stranger was let in as %q", c.PeerType)
		}
		var ready []byte
		for name, value := range c.Meta {
			ready = append(ready, property(name, value)...)
		}
		again, err := open(join(b[:greetingSize], EncodeCommand("READY", ready)))
		if err != nil || !maps.Equal(again.Meta, c.Meta) {
			t.Fatalf("%q came back as %q (%v)", c.Meta, again.Meta, err)
		}
	})
}
