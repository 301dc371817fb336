package engine

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"eventspine/internal/socketio/hub"
)

const (
	readBuffer  = 512      // bytes; clients send little
	writeBatch  = 64 << 10 // bytes a writer takes from the queue at once
	closeWithin = 100 * time.Millisecond
	maxControl  = 125 // bytes of a control frame
)

const (
	frameText   = 0x81
	frameBinary = 0x82
	framePong   = 0x8a
)

var pingFrame = AppendFrame(nil, []byte("2"), false)

// AppendFrame appends the websocket frame of a server's message.
func AppendFrame(dst, payload []byte, isBinary bool) []byte {
	kind := byte(frameText)
	if isBinary {
		kind = frameBinary
	}
	return append(appendHeader(dst, kind, len(payload)), payload...)
}

// Pong is the frame that answers a ping of at most 125 bytes.
func Pong(data string) []byte { return append(appendHeader(nil, framePong, len(data)), data...) }

func appendHeader(dst []byte, kind byte, size int) []byte {
	switch {
	case size <= maxControl:
		return append(dst, kind, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, kind, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(dst, kind, 127), uint64(size))
}

func message(packet []byte) hub.Message {
	return hub.Message{Text: packet}
}

// frame is the message as it goes over a websocket.
func frame(m hub.Message) []byte {
	if m.Wire != nil {
		return m.Wire
	}
	return AppendFrame(make([]byte, 0, len(m.Text)+10), m.Text, m.Binary)
}

// socket is a websocket. Whole frames are written, by one writer at a time.
type socket struct {
	conn *websocket.Conn
	net  net.Conn
	raw  syscall.RawConn // nil: no way to write without waiting
}

func newSocket(conn *websocket.Conn, maxPayload int) *socket {
	ws := &socket{conn: conn, net: conn.UnderlyingConn()}
	if c, ok := ws.net.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			ws.raw = raw
		}
	}
	conn.SetReadLimit(int64(maxPayload))
	return ws
}

// attempt is one write that does not wait. It is kept for the next, with its function.
type attempt struct {
	b   []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{}
	a.fn = a.write
	return a
}}

func (a *attempt) write(fd uintptr) bool {
	for {
		a.n, a.err = syscall.Write(int(fd), a.b)
		if !errors.Is(a.err, syscall.EINTR) {
			return true // never wait
		}
	}
}

// try writes as much of b as the socket takes at once and returns the rest.
func (w *socket) try(b []byte) (rest []byte, err error) {
	if w.raw == nil {
		return b, nil
	}
	a := attempts.Get().(*attempt)
	a.b = b
	err = w.raw.Write(a.fn)
	if err == nil {
		err = a.err
	}
	n := max(a.n, 0)
	a.b, a.n, a.err = nil, 0, nil
	attempts.Put(a)
	if errors.Is(err, syscall.EAGAIN) {
		err = nil
	}
	return b[n:], err
}

// direct writes the message, which the caller has claimed, and gives the rest to a goroutine when
// the socket does not take it, or when more was queued meanwhile.
func (s *Session) direct(ws *socket, m hub.Message) {
	rest, err := ws.try(frame(m))
	if err != nil {
		s.End(endWrite)
		return
	}
	if m.Event {
		s.srv.opt.Observer.Delivered(1)
	}
	if len(rest) == 0 {
		batch := s.out.Take(nil, writeBatch)
		if len(batch) == 0 {
			s.drained()
			return
		}
		s.write(ws, nil, batch)
		return
	}
	s.write(ws, rest, nil)
}

// flush starts a writer.
func (s *Session) flush() { s.write(s.ws.Load(), nil, nil) }

// write starts a goroutine that writes rest, then batch, and then what is queued, and ends. The
// caller is the one who writes.
func (s *Session) write(ws *socket, rest []byte, batch []hub.Message) {
	ok := s.srv.spawn(func() {
		out := make(net.Buffers, 0, len(batch)+1)
		if len(rest) > 0 {
			out = append(out, rest)
		}
		for {
			events := 0
			for _, m := range batch {
				out = append(out, frame(m))
				if m.Event {
					events++
				}
			}
			if err := ws.writeAll(out, s.srv.opt.WriteTimeout); err != nil {
				s.End(endWrite)
				return
			}
			s.srv.opt.Observer.Delivered(events)
			clear(batch)
			if batch = s.out.Take(batch[:0], writeBatch); len(batch) == 0 {
				s.drained()
				return
			}
			out = out[:0]
		}
	})
	if !ok {
		s.End(EndShutdown)
	}
}

func (w *socket) writeAll(out net.Buffers, within time.Duration) error {
	if len(out) == 0 {
		return nil
	}
	_ = w.net.SetWriteDeadline(time.Now().Add(within)) // a broken connection is discovered by writing
	_, err := out.WriteTo(w.net)
	_ = w.net.SetWriteDeadline(time.Time{})
	return err
}

// close closes the connection, with a close frame when nobody is writing.
func (w *socket) close(idle bool, reason string) {
	if idle {
		code := websocket.CloseGoingAway
		switch reason {
		case EndProtocol:
			code = websocket.ClosePolicyViolation
		case endClient, endTransport:
			code = websocket.CloseNormalClosure
		}
		_ = w.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(closeWithin))
	}
	_ = w.conn.Close()
}

// read takes what the client sends until the connection ends.
func (s *Session) read(ws *socket) {
	ws.conn.SetPongHandler(func(string) error {
		s.kept(s.rated())
		return nil
	})
	ws.conn.SetPingHandler(func(data string) error { // gorilla's own would leave a deadline behind
		if !s.kept(s.rated()) {
			return nil
		}
		pong := Pong(data)
		s.Send(hub.Message{Text: pong[2:], Wire: pong})
		return nil
	})
	for {
		kind, b, err := ws.conn.ReadMessage()
		switch {
		case err != nil:
			s.broken(err)
			return
		case kind == websocket.BinaryMessage:
			if !s.receiveBinary(b) {
				return
			}
		case !s.receive(b) || s.gone.Load():
			return
		}
	}
}

// broken ends the session after an error of its websocket.
func (s *Session) broken(err error) {
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed):
		s.End(endTransport)
	case errors.Is(err, websocket.ErrReadLimit):
		s.Violated(badSize)
	case strings.HasPrefix(err.Error(), "websocket: "):
		s.Violated(badFrame)
	default:
		s.End(endTransport)
	}
}
