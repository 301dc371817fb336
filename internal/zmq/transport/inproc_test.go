package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNamesAreForgotten(t *testing.T) {
	var in Inproc
	l, err := in.Listen(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Listen(t.Context(), "a"); err == nil {
		t.Error("the same name twice")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := in.Dial(ctx, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("a name that nobody binds: %v", err)
	}
	_, _ = l.Close(), l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if len(in.places) != 0 {
		t.Errorf("%d names remembered", len(in.places))
	}
}

func TestDialWaitsForTheName(t *testing.T) {
	var in Inproc
	dialled := make(chan net.Conn, 1)
	go func() {
		c, err := in.Dial(t.Context(), "a")
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	l, err := in.Listen(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	one, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	two := <-dialled
	if _, err := one.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, err := two.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("%q %v", b[:n], err)
	}
	if one.RemoteAddr().String() != "a" || two.LocalAddr().Network() != "inproc" || l.Addr().String() != "a" {
		t.Error("addresses")
	}
	_, _, _ = one.Close(), two.Close(), l.Close()
}

func TestResolve(t *testing.T) {
	in := &Inproc{}
	for endpoint, want := range map[string]string{"tcp://h:1": "h:1", "tcp://*:*": ":0", "tcp://[::1]:5": "[::1]:5",
		"ipc:///tmp/x": "/tmp/x", "ipc://@x": "@x", "inproc://x": "x"} {
		if _, addr, err := Resolve(endpoint, in); err != nil || addr != want {
			t.Errorf("%s: %q %v", endpoint, addr, err)
		}
	}
	for _, endpoint := range []string{"", "x", "tcp://", "tcp://h", "tcp://h:x", "tcp://h:65536", "ipc://", "ipc://@", "inproc://", "pgm://h:1"} {
		if _, _, err := Resolve(endpoint, in); err == nil || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("tcp://127.0.0.1:5555")
	f.Add("ipc://@\x00")
	f.Add("inproc://")
	f.Fuzz(func(t *testing.T, endpoint string) {
		tr, _, err := Resolve(endpoint, &Inproc{})
		if (tr == nil) == (err == nil) {
			t.Fatal("neither or both")
		}
	})
}

func TestInprocPipe(t *testing.T) {
	one, two := inprocPipe("x")
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(100_000))
			_, _ = one.Write(rest[:n])
			rest = rest[n:]
		}
		_ = one.CloseWrite()
	}()
	var got bytes.Buffer
	for b := make([]byte, 70_000); ; {
		n, err := two.Read(b[:1+rand.IntN(len(b))])
		got.Write(b[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Error("what was read is not what was written")
	}
	_ = one.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := one.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = one.SetReadDeadline(time.Time{})
	_ = two.SetDeadline(time.Now().Add(-time.Second))
	_ = two.SetDeadline(time.Time{})
	done := make(chan error, 1)
	go func() { _, err := two.Write(make([]byte, 1<<20)); done <- err }()
	_ = two.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write to nobody: %v", err)
	}
	_ = one.Close()
	_ = two.SetWriteDeadline(time.Time{})
	if _, err := two.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write to a closed end: %v", err)
	}
	if _, err := one.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of our closed end: %v", err)
	}
}
