package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const inprocBuffer = 64 << 10 // bytes under way in each direction, like a small kernel buffer

var errNameTaken = errors.New("inproc name is bound already")

// Inproc is the place where the inproc:// endpoints of sockets that share it meet. The
// zero value is ready. Names are kept here and not in a package variable, so that two pipelines
// in one process do not see each other. Safe for concurrent use.
type Inproc struct {
	mu     sync.Mutex
	places map[string]*inprocPlace
}

// inprocPlace is one name: it exists while it is bound or somebody waits for it to be.
type inprocPlace struct {
	calls   chan net.Conn
	bound   bool
	waiting int
}

// place gives the name's place. n.mu is held.
func (n *Inproc) place(name string) *inprocPlace {
	if n.places[name] == nil {
		if n.places == nil {
			n.places = map[string]*inprocPlace{}
		}
		n.places[name] = &inprocPlace{calls: make(chan net.Conn)}
	}
	return n.places[name]
}

// tidy forgets a name that nobody uses. n.mu is held.
func (n *Inproc) tidy(name string) {
	if p := n.places[name]; p != nil && !p.bound && p.waiting == 0 {
		delete(n.places, name)
	}
}

// Listen binds the name; one listener at a time may have it.
func (n *Inproc) Listen(_ context.Context, name string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.place(name)
	if p.bound {
		return nil, errNameTaken
	}
	p.bound = true
	return &inprocListener{net: n, place: p, addr: inprocAddr(name), closed: make(chan struct{})}, nil
}

// Dial waits until the name is bound, so that Connect may come before Bind.
func (n *Inproc) Dial(ctx context.Context, name string) (net.Conn, error) {
	n.mu.Lock()
	p := n.place(name)
	p.waiting++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		p.waiting--
		n.tidy(name)
	}()
	ours, theirs := inprocPipe(inprocAddr(name))
	select {
	case p.calls <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Dialable is always true: a name need not be bound yet.
func (*Inproc) Dialable(string) bool { return true }

// Endpoint is the name with its scheme.
func (*Inproc) Endpoint(a net.Addr) string { return "inproc://" + a.String() }

type inprocAddr string

func (inprocAddr) Network() string  { return "inproc" }
func (a inprocAddr) String() string { return string(a) }

type inprocListener struct {
	net    *Inproc
	place  *inprocPlace
	addr   inprocAddr
	once   sync.Once
	closed chan struct{}
}

func (l *inprocListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.place.calls:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *inprocListener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		close(l.closed)
		l.place.bound = false
		l.net.tidy(string(l.addr))
	})
	return nil
}

func (l *inprocListener) Addr() net.Addr { return l.addr }

// inprocConn is one end of a pipe in memory that buffers as a kernel does.
type inprocConn struct {
	in, out *stream
	addr    inprocAddr
}

func inprocPipe(addr inprocAddr) (one, two *inprocConn) {
	there, back := newStream(), newStream()
	return &inprocConn{in: back, out: there, addr: addr}, &inprocConn{in: there, out: back, addr: addr}
}

func (c *inprocConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *inprocConn) Write(b []byte) (int, error) { return c.out.write(b, true) }

// TryWrite writes what there is room for.
func (c *inprocConn) TryWrite(b []byte) (int, error) { return c.out.write(b, false) }
func (c *inprocConn) LocalAddr() net.Addr            { return c.addr }
func (c *inprocConn) RemoteAddr() net.Addr           { return c.addr }

// CloseWrite lets the other end read to the end.
func (c *inprocConn) CloseWrite() error { c.out.end(io.EOF, io.ErrClosedPipe); return nil }

func (c *inprocConn) Close() error {
	c.out.end(io.EOF, net.ErrClosed)
	c.in.end(net.ErrClosed, io.ErrClosedPipe)
	return nil
}

func (c *inprocConn) SetReadDeadline(t time.Time) error  { c.in.readers.set(c.in, t); return nil }
func (c *inprocConn) SetWriteDeadline(t time.Time) error { c.out.writers.set(c.out, t); return nil }
func (c *inprocConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// stream is one direction of a pipe: a bounded ring of bytes.
type stream struct {
	mu       sync.Mutex
	buf      []byte // grows up to inprocBuffer
	from, n  int    // the bytes held
	readErr  error  // once nothing is left
	writeErr error
	readers  side
	writers  side
}

// side is who waits at one end of a stream.
type side struct {
	moved   *sync.Cond
	timer   *time.Timer
	expired bool
}

func newStream() *stream {
	s := &stream{buf: make([]byte, 4<<10)}
	s.readers.moved, s.writers.moved = sync.NewCond(&s.mu), sync.NewCond(&s.mu)
	return s
}

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n == 0 && len(b) > 0 {
		switch {
		case s.readErr != nil:
			return 0, s.readErr
		case s.readers.expired:
			return 0, os.ErrDeadlineExceeded
		}
		s.readers.moved.Wait()
	}
	if errors.Is(s.readErr, net.ErrClosed) {
		return 0, s.readErr // our own end was closed
	}
	first := min(s.n, len(s.buf)-s.from) // the rest wraps around
	done := copy(b, s.buf[s.from:s.from+first])
	done += copy(b[done:], s.buf[:s.n-first])
	s.from, s.n = (s.from+done)%len(s.buf), s.n-done
	s.writers.moved.Broadcast()
	return done, nil
}

// write waits for room for all of b, if it shall.
func (s *stream) write(b []byte, wait bool) (done int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.writeErr != nil:
			return done, s.writeErr
		case s.writers.expired:
			return done, os.ErrDeadlineExceeded
		case len(b) == 0:
			return done, nil
		}
		s.grow(len(b))
		if s.n == len(s.buf) {
			if !wait {
				return done, nil
			}
			s.writers.moved.Wait()
			continue
		}
		at := (s.from + s.n) % len(s.buf)
		k := copy(s.buf[at:min(at+len(s.buf)-s.n, len(s.buf))], b)
		s.n += k
		done += k
		b = b[k:]
		s.readers.moved.Broadcast()
	}
}

// grow makes room for more bytes within the bound. s.mu is held.
func (s *stream) grow(more int) {
	if s.n+more <= len(s.buf) || len(s.buf) == inprocBuffer {
		return
	}
	bigger := make([]byte, inprocBuffer)
	k := copy(bigger[:s.n], s.buf[s.from:])
	copy(bigger[k:s.n], s.buf)
	s.buf, s.from = bigger, 0
}

func (s *stream) end(readErr, writeErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil || errors.Is(readErr, net.ErrClosed) {
		s.readErr = readErr
	}
	if s.writeErr == nil || errors.Is(writeErr, net.ErrClosed) {
		s.writeErr = writeErr
	}
	s.readers.moved.Broadcast()
	s.writers.moved.Broadcast()
}

// set is a deadline as net.Conn means it; the zero time is none.
func (d *side) set(s *stream, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.expired = false
	if t.IsZero() {
		return
	}
	var own *time.Timer
	own = time.AfterFunc(time.Until(t), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.timer == own {
			d.expired = true
			d.moved.Broadcast()
		}
	})
	d.timer = own
}
