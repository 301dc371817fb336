package zmtp

import (
	"io"
	"net"
)

const (
	copyBelow    = 8 << 10   // bytes; longer frames are handed to the kernel as they are
	writerBuffer = 160 << 10 // bytes; what a caller gathers between two flushes, with slack
)

// Writer gathers frames and writes them with one system call. Not safe for concurrent use.
type Writer struct {
	w    io.Writer
	buf  []byte
	from int         // where in buf the segment begins that no vector holds yet
	vec  net.Buffers // segments to write, in order
	keep net.Buffers // vec's backing array, as WriteTo consumes vec
}

// NewWriter writes to w; a *net.TCPConn gets long frames by writev, without a copy.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Append adds a message. Its frames must not change before Flush returns.
func (w *Writer) Append(msg [][]byte) {
	for i, f := range msg {
		flags := byte(flagMore)
		if i == len(msg)-1 {
			flags = 0
		}
		w.buf = appendHeader(w.buf, flags, len(f))
		if len(f) < copyBelow {
			w.buf = append(w.buf, f...)
			continue
		}
		w.cut()
		w.vec = append(w.vec, f)
	}
}

// AppendRaw adds bytes that are whole frames already.
func (w *Writer) AppendRaw(b []byte) { w.buf = append(w.buf, b...) }

func (w *Writer) cut() {
	if len(w.buf) > w.from {
		w.vec = append(w.vec, w.buf[w.from:len(w.buf):len(w.buf)])
		w.from = len(w.buf)
	}
}

// Flush writes everything added since the last one and says how many bytes the connection
// took, also when it failed. The Writer is empty afterwards in both cases.
func (w *Writer) Flush() (n int64, err error) {
	if len(w.vec) == 0 {
		var wrote int
		wrote, err = w.w.Write(w.buf)
		n = int64(wrote)
	} else {
		w.cut()
		w.keep = w.vec
		n, err = w.vec.WriteTo(w.w)
		clear(w.keep)
		w.vec = w.keep[:0]
	}
	w.buf, w.from = w.buf[:0], 0
	if cap(w.buf) > 4*writerBuffer {
		w.buf = nil
	}
	return n, err
}

// Size is the number of bytes that msg takes on the wire.
func Size(msg [][]byte) (n int64) {
	for _, f := range msg {
		n += 2 + int64(len(f))
		if len(f) > 255 {
			n += 7
		}
	}
	return n
}
