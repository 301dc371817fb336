package zmtp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"

	"eventspine/internal/zmq/curve"
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
	Curve      *Curve // nil: NULL, without encryption; the peer must use the same
}

// Curve are the keys for an encrypted connection. Authorize is asked by the CURVE server about
// a client that has proved its key; the reason it gives is not told to the client.
type Curve struct {
	Server    bool // the CURVE server, whoever binds
	Keys      curve.Pair
	ServerKey curve.Key // of the server; a client's
	Authorize func(client curve.Key, identity string) error
}

// Conn is one connection after its handshake. One goroutine may read while another writes.
type Conn struct {
	*Reader
	*Writer
	net.Conn
	session      *curve.Session    // nil: plain
	PeerType     string            // the peer's socket type, such as "PULL"
	PeerIdentity string            // as the peer announced it; may be empty
	PeerKey      curve.Key         // proved, with CURVE only
	Meta         map[string]string // everything the peer's READY held
	Modern       bool              // the peer speaks ZMTP 3.1: PING, SUBSCRIBE and CANCEL
}

// Open exchanges greetings and READY commands on c within cfg.Timeout, whatever the peer
// does. On an error c is closed and what the peer is known to be is in the returned Conn,
// which is otherwise of no use. Errors the peer's bytes caused wrap ErrProtocol.
func Open(c net.Conn, cfg Config) (*Conn, error) {
	g := &guard{Conn: c, r: bufio.NewReaderSize(c, guardSize), left: greetingSize, commands: 1, mechanism: "NULL"}
	if cfg.Curve != nil {
		g.commands, g.mechanism, g.server = 2, "CURVE", cfg.Curve.Server
	}
	out := &Conn{Conn: c}
	err := c.SetDeadline(time.Now().Add(cfg.Timeout))
	if err == nil {
		err = out.open(g, cfg)
		out.Modern = g.modern
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
	out.Reader.session, out.Writer.session = out.session, out.session
	return out, nil
}

func (c *Conn) open(g *guard, cfg Config) (err error) {
	sec := &mechanism{Security: null.Security(), conn: c, compatible: cfg.Compatible, curve: cfg.Curve}
	defer func() {
		if r := recover(); r != nil { // zmq4 has panicked on what peers say before
			err = corrupt("malformed handshake: %v", r)
		}
	}()
	_, err = zmq4.Open(g, sec, zmq4.SocketType(cfg.Type), zmq4.SocketIdentity(cfg.Identity), cfg.Server, nil)
	if err == nil || errors.Is(err, ErrRefused) { // our ERROR may wait there
		err = errors.Join(err, g.flush())
	}
	return classify(err)
}

// classify makes a protocol error of everything but a connection that ended or timed out.
func classify(err error) error {
	var network net.Error
	switch {
	case err == nil, errors.Is(err, ErrProtocol), errors.Is(err, ErrRefused):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("zmtp: handshake not finished in time: %w", os.ErrDeadlineExceeded)
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return fmt.Errorf("zmtp: handshake: %w", err)
	}
	return corrupt("handshake: %w", err)
}

// mechanism is zmq4's NULL handshake, or CURVE in its place, plus our own check of the peer's
// socket type, which also remembers what the peer is when the answer is no.
type mechanism struct {
	zmq4.Security
	conn       *Conn
	compatible func(string) error
	curve      *Curve
}

// Type goes into the greeting.
func (n *mechanism) Type() zmq4.SecurityType {
	if n.curve != nil {
		return zmq4.CurveSecurity
	}
	return n.Security.Type()
}

func (n *mechanism) Handshake(c *zmq4.Conn, _ bool) error {
	agree := n.agreeInPlain
	if n.curve != nil {
		agree = n.agreeOnKeys
	}
	if err := agree(c); err != nil {
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

// agreeInPlain is the NULL handshake. It is zmq4's but for reading the metadata, which there
// takes a hundred times its size and panics at an early end.
func (n *mechanism) agreeInPlain(c *zmq4.Conn) error {
	metadata, err := c.Meta.MarshalZMTP()
	if err != nil {
		return err
	}
	if err := c.SendCmd(zmq4.CmdReady, metadata); err != nil {
		return err
	}
	cmd, err := c.RecvCmd()
	switch {
	case err != nil:
		return err
	case cmd.Name != zmq4.CmdReady:
		return corrupt("got %.20q instead of READY", cmd.Name)
	}
	return parseMetadata(c.Peer.Meta, cmd.Body)
}

// agreeOnKeys is the CURVE handshake. What zmq4 would send and receive after it is of no use,
// as it knows no sealed frames; the Reader and the Writer do.
func (n *mechanism) agreeOnKeys(c *zmq4.Conn) error {
	metadata, err := c.Meta.MarshalZMTP()
	if err != nil {
		return err
	}
	cfg := curve.Config{Server: n.curve.Server, Keys: n.curve.Keys, ServerKey: n.curve.ServerKey}
	if n.curve.Authorize != nil {
		cfg.Authorize = func(client curve.Key, metadata []byte) error {
			meta := map[string]string{}
			if err := parseMetadata(meta, metadata); err != nil {
				return err
			}
			n.conn.PeerIdentity, n.conn.PeerType = meta["Identity"], meta["Socket-Type"]
			return n.curve.Authorize(client, meta["Identity"])
		}
	}
	session, theirs, err := curve.Handshake(wire{c}, cfg, metadata)
	switch {
	case errors.Is(err, curve.ErrDenied):
		return refused("%w", err)
	case errors.Is(err, curve.ErrProtocol):
		return corrupt("%w", err)
	case err != nil:
		return err
	}
	n.conn.session, n.conn.PeerKey = session, session.Peer
	return parseMetadata(c.Peer.Meta, theirs)
}

// wire is a zmq4 connection as CURVE's handshake sees it.
type wire struct{ c *zmq4.Conn }

func (w wire) SendCommand(name string, body []byte) error { return w.c.SendCmd(name, body) }

func (w wire) RecvCommand() (string, []byte, error) {
	cmd, err := w.c.RecvCmd()
	return cmd.Name, cmd.Body, err
}

// guard stands between zmq4 and the connection during the handshake. It lets through one
// greeting and as many command frames of bounded size as the mechanism has, and gathers what
// zmq4 writes in small pieces into one write before each read. In our greeting it puts the
// version and the role that zmq4 cannot: 3.1, whose commands the layers above know.
type guard struct {
	net.Conn
	r         *bufio.Reader
	out       []byte
	greeted   bool   // our greeting is written
	mechanism string // that both must name
	server    bool   // our role in it
	left      uint64 // bytes of the greeting or of the command still to pass
	begun     bool   // the peer's greeting was looked at
	modern    bool   // it says 3.1 or more
	commands  int    // how many more may come
}

func (g *guard) Write(p []byte) (int, error) {
	g.out = append(g.out, p...)
	return len(p), nil
}

func (g *guard) flush() error {
	if len(g.out) == 0 {
		return nil
	}
	if !g.greeted && len(g.out) >= greetingSize {
		g.out[11] = 1
		if g.server {
			g.out[32] = 1
		}
		g.greeted = true
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
		if err := g.vetGreeting(); err != nil {
			return err
		}
		g.begun = true
	}
	if g.left > 0 {
		return nil
	}
	if g.commands == 0 {
		return corrupt("more commands than the handshake has")
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
	g.commands--
	return g.vetCommand()
}

// vetGreeting waits for the whole greeting and says clearly what zmq4 only calls bad.
func (g *guard) vetGreeting() error {
	b, err := g.r.Peek(greetingSize)
	if err != nil {
		return err
	}
	theirs, _, _ := strings.Cut(string(b[12:32]), "\x00")
	if b[9] == 0x7f && b[10] >= 3 && theirs != g.mechanism {
		return corrupt("the peer's security mechanism is %.20q, ours is %s", theirs, g.mechanism)
	}
	if g.server && b[32] == 1 {
		return corrupt("both ends are %s servers", g.mechanism)
	}
	g.modern = b[10] > 3 || b[10] == 3 && b[11] >= 1
	return nil
}

// vetCommand finds an ERROR, by which a peer says why it will not have us (RFC 23).
func (g *guard) vetCommand() error {
	b, err := g.r.Peek(int(min(g.left, guardSize)))
	if err != nil {
		return err
	}
	header := 2
	if b[0]&flagLong != 0 {
		header = 9
	}
	if cmd, err := ParseCommand(b[header:]); err == nil && cmd.Name == Error {
		return Refusal(cmd)
	}
	return nil
}
