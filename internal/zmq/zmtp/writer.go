package zmtp

import (
	"encoding/binary"
	"io"
	"net"

	"eventspine/internal/zmq/curve"
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

	try     func([]byte) (int, error) // writes what is taken without waiting; nil: cannot
	session *curve.Session            // seals the frames; nil: they go out plain
}

// NewWriter writes to w; a *net.TCPConn gets long frames by writev, without a copy.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, try: tryWriter(w)} }

// Append adds a message. Its frames must not change before Flush returns.
func (w *Writer) Append(msg [][]byte) {
	for i, f := range msg {
		flags := byte(flagMore)
		if i == len(msg)-1 {
			flags = 0
		}
		if w.session != nil {
			w.seal(flags, f) // More is the same bit in and outside a box
			continue
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

// seal adds one frame in a box.
func (w *Writer) seal(flags byte, body []byte) {
	w.buf = appendHeader(w.buf, 0, curve.Overhead+len(body))
	w.buf = w.session.Seal(w.buf, flags, body)
}

// AppendRaw adds bytes that are whole frames already, and says how many they are on the wire.
func (w *Writer) AppendRaw(b []byte) int64 {
	before := len(w.buf)
	if w.session == nil {
		w.buf = append(w.buf, b...)
		return int64(len(b))
	}
	for len(b) > 0 {
		flags, header, size := b[0], 2, uint64(b[1])
		if flags&flagLong != 0 {
			header, size = 9, binary.BigEndian.Uint64(b[1:])
		}
		inner := flags & flagMore
		if flags&flagCommand != 0 {
			inner |= curve.Command
		}
		w.seal(inner, b[header:header+int(size)])
		b = b[header+int(size):]
	}
	return int64(len(w.buf) - before)
}

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
		wrote, err = w.w.Write(w.buf[w.from:])
		n = int64(wrote)
	} else {
		w.cut()
		w.keep = w.vec
		n, err = w.vec.WriteTo(w.w)
		clear(w.keep)
		w.vec = w.keep[:0]
	}
	w.empty()
	return n, err
}

func (w *Writer) empty() {
	w.buf, w.from = w.buf[:0], 0
	if cap(w.buf) > 4*writerBuffer {
		w.buf = nil
	}
}

// Direct reports whether TryFlush can write anything.
func (w *Writer) Direct() bool { return w.try != nil }

// TryFlush is Flush that never waits: what the connection does not take at once stays for the next
// Flush, and done is false. It does not begin with long frames.
func (w *Writer) TryFlush() (n int64, done bool, err error) {
	if w.try == nil || len(w.vec) > 0 {
		return 0, false, nil
	}
	wrote, err := w.try(w.buf[w.from:])
	w.from += wrote
	if err != nil || w.from < len(w.buf) {
		return int64(wrote), false, err
	}
	w.empty()
	return int64(wrote), true, nil
}

// WireSize is the number of bytes that msg takes on this connection.
func (w *Writer) WireSize(msg [][]byte) (n int64) {
	if w.session == nil {
		return Size(msg)
	}
	for _, f := range msg {
		n += Size([][]byte{f[:len(f):len(f)]}) + int64(curve.Overhead)
		if len(f) <= 255 && len(f)+curve.Overhead > 255 {
			n += 7 // only sealed does it need the long header
		}
	}
	return n
}

// Size is the number of bytes that msg takes on the wire of a plain connection.
func Size(msg [][]byte) (n int64) {
	for _, f := range msg {
		n += 2 + int64(len(f))
		if len(f) > 255 {
			n += 7
		}
	}
	return n
}
