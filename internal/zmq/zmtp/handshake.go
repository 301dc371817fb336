package zmtp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
)

const (
	greetingSize   = 64
	maxCommand     = 64 << 10 // bytes of one command, READY among them
	readBufferSize = 64 << 10
	guardSize      = 1 << 10 // bytes buffered for a peer that has proved nothing yet
)

// Config says how to open a connection. Compatible, when not nil, is asked whether a peer of
// the named socket type (such as "PULL") may talk to us; its error ends the handshake.
type Config struct {
	Type       string        // our socket type on the wire, such as "PUSH"
	Identity   string        // ours; at most 255 bytes, may be empty
	Server     bool          // true on the accepting side
	Timeout    time.Duration // of the whole handshake; must be positive
	Compatible func(peerType string) error
	Limits     Limits
}

// Conn is one connection after its handshake. One goroutine may read while another writes.
type Conn struct {
	*Reader
	*Writer
	net.Conn
	PeerType     string            // the peer's socket type, such as "PULL"
	PeerIdentity string            // as the peer announced it; may be empty
	Meta         map[string]string // everything the peer's READY held
}

// Open exchanges greetings and READY commands on c within cfg.Timeout, whatever the peer
// does. On an error c is closed and what the peer is known to be is in the returned Conn,
// which is otherwise of no use. Errors the peer's bytes caused wrap ErrProtocol.
func Open(c net.Conn, cfg Config) (*Conn, error) {
	g := &guard{Conn: c, r: bufio.NewReaderSize(c, guardSize), left: greetingSize}
	out := &Conn{Conn: c}
	err := c.SetDeadline(time.Now().Add(cfg.Timeout))
	if err == nil {
		err = out.open(g, cfg)
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close()
		return out, err
	}
	// What the guard has buffered comes first; after it, reads of the larger buffer pass it by.
	out.Reader, out.Writer = NewReader(bufio.NewReaderSize(g.r, readBufferSize), cfg.Limits), NewWriter(c)
	return out, nil
}

func (c *Conn) open(g *guard, cfg Config) (err error) {
	sec := &nullMechanism{Security: null.Security(), conn: c, compatible: cfg.Compatible}
	defer func() {
		if r := recover(); r != nil { // a READY that ends early panics in zmq4
			err = corrupt("malformed handshake: %v", r)
		}
	}()
	_, err = zmq4.Open(g, sec, zmq4.SocketType(cfg.Type), zmq4.SocketIdentity(cfg.Identity), cfg.Server, nil)
	if err == nil {
		err = g.flush()
	}
	return classify(err)
}

// classify makes a protocol error of everything but a connection that ended or timed out.
func classify(err error) error {
	var network net.Error
	switch {
	case err == nil, errors.Is(err, ErrProtocol):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("zmtp: handshake not finished in time: %w", os.ErrDeadlineExceeded)
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return fmt.Errorf("zmtp: handshake: %w", err)
	}
	return corrupt("handshake: %w", err)
}

// nullMechanism is zmq4's NULL handshake plus our own check of the peer's socket type, which
// also remembers what the peer is when the answer is no.
type nullMechanism struct {
	zmq4.Security
	conn       *Conn
	compatible func(string) error
}

func (n *nullMechanism) Handshake(c *zmq4.Conn, server bool) error {
	if err := n.Security.Handshake(c, server); err != nil {
		return err
	}
	n.conn.Meta = c.Peer.Meta
	n.conn.PeerType, n.conn.PeerIdentity = c.Peer.Meta["Socket-Type"], c.Peer.Meta["Identity"]
	if n.compatible == nil {
		return nil
	}
	if err := n.compatible(n.conn.PeerType); err != nil {
		return corrupt("%w", err)
	}
	return nil
}

// guard stands between zmq4 and the connection during the handshake. It lets through one
// greeting and one command frame of bounded size, and gathers what zmq4 writes in small
// pieces into one write before each read.
type guard struct {
	net.Conn
	r     *bufio.Reader
	out   []byte
	left  uint64 // bytes of the greeting or of the command still to pass
	begun bool   // the greeting's first byte was looked at
	ready bool   // the command frame's header was looked at
}

func (g *guard) Write(p []byte) (int, error) {
	g.out = append(g.out, p...)
	return len(p), nil
}

func (g *guard) flush() error {
	if len(g.out) == 0 {
		return nil
	}
	_, err := g.Conn.Write(g.out)
	g.out = nil
	return err
}

func (g *guard) Read(p []byte) (int, error) {
	if err := g.flush(); err != nil {
		return 0, err
	}
	if err := g.admit(); err != nil {
		return 0, err
	}
	if uint64(len(p)) > g.left {
		p = p[:g.left]
	}
	n, err := g.r.Read(p)
	g.left -= uint64(n)
	return n, err
}

// admit looks at what comes next before zmq4 may see it.
func (g *guard) admit() error {
	if !g.begun {
		first, err := g.r.Peek(1)
		if err != nil {
			return err
		}
		if first[0] != 0xff {
			return corrupt("greeting begins with %#02x, this is no ZMTP peer", first[0])
		}
		g.begun = true
	}
	if g.left > 0 {
		return nil
	}
	if g.ready {
		return corrupt("more than one command in the handshake")
	}
	h, err := g.r.Peek(2)
	if err != nil {
		return err
	}
	switch h[0] {
	case flagCommand:
		g.left = 2 + uint64(h[1])
	case flagCommand | flagLong:
		if h, err = g.r.Peek(9); err != nil {
			return err
		}
		size := binary.BigEndian.Uint64(h[1:])
		if size > maxCommand {
			return tooLarge("handshake command of %d bytes, the limit is %d", size, maxCommand)
		}
		g.left = 9 + size
	default:
		return corrupt("frame with flags %#02x in the handshake", h[0])
	}
	g.ready = true
	return nil
}
