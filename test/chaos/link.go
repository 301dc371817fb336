package chaos

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Names of the links.
const (
	linkWork   = "api-worker"
	linkPub    = "publishers-proxy"
	linkSub    = "proxy-subscribers"
	linkRedis  = "redis"
	linkSearch = "elasticsearch"
)

// link stands in a TCP connection's way and can do harm to it. Where it carries ZeroMQ from a
// publisher to a subscriber it understands the frames, so that it can drop whole messages.
// Safe for concurrent use.
type link struct {
	l      net.Listener
	target atomic.Pointer[string] // host:port; nil: nobody is there yet
	zmq    bool

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	seen    atomic.Int64 // messages
	dropped atomic.Int64

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool          // connections are refused
	free   chan struct{} // closed while things may pass
	delay  time.Duration // of each piece of at most 64 KiB
	loss   float64       // share of messages dropped
	random *rand.Rand
}

func newLink(zmq bool, seed uint64) (*link, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return nil, err
	}
	x := &link{ctx: ctx, cancel: cancel, l: l, zmq: zmq, open: map[net.Conn]struct{}{}, free: make(chan struct{}), random: rand.New(rand.NewPCG(seed, 1))}
	close(x.free)
	x.wg.Go(x.accept)
	return x, nil
}

func (x *link) addr() string { return x.l.Addr().String() }

func (x *link) to(addr string) { x.target.Store(&addr) }

func (x *link) accept() {
	for {
		in, err := x.l.Accept()
		if err != nil {
			return
		}
		target := x.target.Load()
		if target == nil {
			_ = in.Close()
			continue
		}
		x.wg.Go(func() { x.carry(in, *target) })
	}
}

// carry copies in both directions until either ends.
func (x *link) carry(in net.Conn, target string) {
	if !x.pass() {
		_ = in.Close()
		return
	}
	out, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(x.ctx, "tcp", target)
	if err != nil {
		_ = in.Close()
		return
	}
	if !x.keep(in, out) {
		return
	}
	var both sync.WaitGroup
	end := func() { _, _ = in.Close(), out.Close() }
	both.Go(func() { defer end(); _ = x.copy(out, in) })
	both.Go(func() {
		defer end()
		if x.zmq {
			_ = x.messages(in, out)
		} else {
			_ = x.copy(in, out)
		}
	})
	both.Wait()
	x.mu.Lock()
	delete(x.open, in)
	delete(x.open, out)
	x.mu.Unlock()
}

// keep notes the connections, so that they can be closed, unless the link is broken.
func (x *link) keep(conns ...net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range conns {
		if x.closed {
			_ = c.Close()
			continue
		}
		x.open[c] = struct{}{}
	}
	return !x.closed
}

// pass waits while the link is cut, then as long as it is slow. It reports false at the end.
func (x *link) pass() bool {
	for {
		x.mu.Lock()
		free, delay := x.free, x.delay
		x.mu.Unlock()
		select {
		case <-free:
		case <-x.ctx.Done():
			return false
		}
		if delay == 0 {
			return true
		}
		late := time.NewTimer(delay)
		select {
		case <-late.C:
			return true
		case <-x.ctx.Done():
			late.Stop()
			return false
		}
	}
}

func (x *link) copy(to io.Writer, from io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !x.pass() {
			return x.ctx.Err()
		}
		if _, broken := to.Write(buf[:n]); broken != nil {
			return broken
		}
		if err != nil {
			return err
		}
	}
}

const (
	frameMore, frameLong, frameCommand = 1, 2, 4

	greetingBytes = 64
)

// messages copies a ZMTP 3 stream, and leaves out whole messages where the link loses some.
func (x *link) messages(to io.Writer, from io.Reader) error {
	r, w := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
	if _, err := io.CopyN(w, r, greetingBytes); err != nil {
		return errors.Join(err, w.Flush())
	}
	var out io.Writer = w
	inside := false
	for {
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		flags, size, head, err := frameHead(r)
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		if !inside {
			out = w
			if flags&frameCommand == 0 && x.loses() {
				out = io.Discard
				x.dropped.Add(1)
			}
		}
		inside = flags&frameMore != 0
		if _, err := out.Write(head); err != nil {
			return err
		}
		if _, err := io.CopyN(out, r, size); err != nil {
			return err
		}
		if !inside && flags&frameCommand == 0 {
			x.seen.Add(1)
		}
		if r.Buffered() == 0 && !x.pass() {
			return x.ctx.Err()
		}
	}
}

func frameHead(r *bufio.Reader) (flags byte, size int64, head []byte, err error) {
	head = make([]byte, 2, 9)
	if _, err = io.ReadFull(r, head); err != nil {
		return 0, 0, nil, err
	}
	if flags = head[0]; flags&frameLong == 0 {
		return flags, int64(head[1]), head, nil
	}
	head = head[:9]
	if _, err = io.ReadFull(r, head[2:]); err != nil {
		return 0, 0, nil, err
	}
	return flags, int64(binary.BigEndian.Uint64(head[1:])), head, nil
}

func (x *link) loses() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.loss > 0 && x.random.Float64() < x.loss
}

// cut lets nothing pass until heal; the connections stay and nobody is told.
func (x *link) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.free = make(chan struct{})
}

// slow makes each piece wait.
func (x *link) slow(d time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.delay = d
}

// drop loses that share of the messages.
func (x *link) drop(share float64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.loss = share
}

// sever closes all connections and refuses new ones until heal.
func (x *link) sever() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	for c := range x.open {
		_ = c.Close()
	}
}

// heal ends all harm.
func (x *link) heal() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed, x.delay, x.loss = false, 0, 0
	select {
	case <-x.free:
	default:
		close(x.free)
	}
}

// Close ends the link and its connections.
func (x *link) Close() error {
	err := x.l.Close()
	x.cancel()
	x.sever()
	x.wg.Wait()
	return err
}
