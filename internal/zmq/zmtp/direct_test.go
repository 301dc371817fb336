package zmtp

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"
)

// TestTryFlushLeavesTheRest fills a connection that nobody reads, and wants TryFlush to return, and
// Flush to go on where it ended.
func TestTryFlushLeavesTheRest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	w := NewWriter(c)
	if !w.Direct() {
		t.Fatal("no way to write directly on TCP")
	}
	var want bytes.Buffer
	total := int64(0)
	for i, done := 0, true; done; i++ {
		frame := bytes.Repeat([]byte{byte(i)}, copyBelow-1)
		w.Append([][]byte{frame})
		want.Write(appendHeader(nil, 0, len(frame)))
		want.Write(frame)
		var n int64
		if n, done, err = w.TryFlush(); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	if n, done, err := w.TryFlush(); n != 0 || done || err != nil {
		t.Errorf("the connection is full, yet took %d, done %v, %v", n, done, err)
	}
	long := bytes.Repeat([]byte("x"), copyBelow) // goes out without a copy
	w.Append([][]byte{long})
	want.Write(appendHeader(nil, 0, len(long)))
	want.Write(long)
	if n, done, err := w.TryFlush(); n != 0 || done || err != nil {
		t.Errorf("a long frame is not for TryFlush: %d, %v, %v", n, done, err)
	}
	got := make([]byte, want.Len())
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(far, got)
		read <- err
	}()
	n, err := w.Flush()
	if total += n; err != nil || total != int64(want.Len()) {
		t.Errorf("%d bytes taken of %d, %v", total, want.Len(), err)
	}
	if err := <-read; err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the bytes differ, %v", err)
	}
	w.Append([][]byte{{1}})
	if n, done, err := w.TryFlush(); n != 3 || !done || err != nil {
		t.Errorf("afterwards: %d, %v, %v", n, done, err)
	}
}

func TestAFailedTryFlushSaysSo(t *testing.T) {
	c, far := net.Pipe()
	_ = far.Close()
	if NewWriter(c).Direct() {
		t.Error("a pipe of package net cannot be written to without waiting")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	gone, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	w := NewWriter(gone)
	w.Append([][]byte{{1}})
	if _, done, err := w.TryFlush(); done || err == nil {
		t.Errorf("closed connection: done %v, %v", done, err)
	}
}

// TestAShortMessageIsOneAllocation wants the list of frames and the frame in one piece of memory,
// for every size that has one, and nothing shared between messages.
func TestAShortMessageIsOneAllocation(t *testing.T) {
	for size := 0; size <= 2016; size += 7 {
		wire := appendHeader(nil, 0, size)
		wire = append(wire, bytes.Repeat([]byte{7}, size)...)
		endless := &repeat{b: wire}
		r := NewReader(bufio.NewReaderSize(endless, readBufferSize), Limits{Frame: 4096, Frames: 4, Message: 4096})
		var kept [][]byte
		allocs := testing.AllocsPerRun(100, func() {
			msg, _, err := r.Next()
			if err != nil || len(msg) != 1 || len(msg[0]) != size || cap(msg[0]) != size || cap(msg) != 1 {
				t.Fatalf("%d bytes: %d frames, %v", size, len(msg), err)
			}
			kept = msg
		})
		if allocs != 1 {
			t.Errorf("%d bytes: %v allocations", size, allocs)
		}
		before := bytes.Clone(kept[0])
		next, _, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		clear(next[0])
		if !bytes.Equal(kept[0], before) {
			t.Errorf("%d bytes: two messages share memory", size)
		}
	}
	if together(2017) != nil {
		t.Error("a long message has a piece")
	}
}

// repeat gives the same bytes again and again.
type repeat struct {
	b  []byte
	at int
}

func (r *repeat) Read(p []byte) (n int, err error) {
	for n < len(p) {
		k := copy(p[n:], r.b[r.at:])
		n += k
		r.at = (r.at + k) % len(r.b)
	}
	return n, nil
}
