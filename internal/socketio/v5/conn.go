package v5

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// EndAbandoned is why a session ends that connects to no namespace in time.
const EndAbandoned = "handshake abandoned"

// Namespace is what a server does with the sockets of one namespace. The functions are called one
// after the other for each session, but for Disconnect, which may come at any time.
type Namespace struct {
	// Connect calls Accept or Refuse on the socket, now or later. auth is a JSON object or nil.
	Connect func(s *Socket, auth json.RawMessage)
	// Event takes what the client emits.
	Event func(s *Socket, e Received)
	// Disconnect is called once for a socket that was not refused, also while it connects.
	Disconnect func(s *Socket, reason string)
}

// Received is an event of a client, with its arguments as a JSON array without the name, in which
// placeholders stand for the attachments.
type Received struct {
	Name        string
	Args        []json.RawMessage
	Attachments [][]byte

	socket *Socket
	wants  bool
	id     uint64
}

// WantsReply reports whether the client waits for an ack.
func (e *Received) WantsReply() bool { return e.wants }

// Reply sends the ack: a JSON array, in which placeholders stand for the attachments. Nothing is
// sent when the client does not wait for one.
func (e *Received) Reply(args []byte, attachments ...[]byte) {
	if e.wants {
		e.wants = false
		e.socket.send(Ack, BinaryAck, true, e.id, args, attachments)
	}
}

// Options of a set of namespaces.
type Options struct {
	Namespaces     map[string]Namespace // by name, which begins with a slash
	ConnectTimeout time.Duration        // for the first connect packet of a session; default 10 s
}

// Handler makes the handlers of sessions: it is for engine.Options.Open. attach is asked for what
// the sockets of the session give back by Attached; nil: nothing.
func (o Options) Handler(attach func(*http.Request) any) func(*engine.Session, *http.Request) engine.Handler {
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	return func(s *engine.Session, r *http.Request) engine.Handler {
		c := &conn{opt: &o, session: s}
		if attach != nil {
			c.attached = attach(r)
		}
		c.lonely = time.AfterFunc(o.ConnectTimeout, func() { s.End(EndAbandoned) })
		return c
	}
}

// conn is one session with its sockets. Text and Binary are called one after the other.
type conn struct {
	opt      *Options
	session  *engine.Session
	attached any

	pending *Packet // waits for attachments
	parts   [][]byte
	bytes   int

	mu     sync.Mutex
	main   *Socket            // of the main namespace
	others map[string]*Socket // of the other ones
	lonely *time.Timer        // ends a session without sockets
	closed bool
}

// Attached is what Handler's attach made of the request that opened the session.
func (c *conn) Attached() any { return c.attached }

func (c *conn) socket(namespace string) *Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	if namespace == mainNamespace {
		return c.main
	}
	return c.others[namespace]
}

// Text implements engine.Handler.
func (c *conn) Text(b []byte) {
	if c.pending != nil {
		c.violated(wire.BadBinary)
		return
	}
	p, err := Parse(b)
	if err != nil {
		c.violated(err)
		return
	}
	if p.Attachments > 0 {
		c.pending, c.parts, c.bytes = &p, nil, len(b)
		return
	}
	c.packet(&p, nil)
}

// Binary implements engine.Handler.
func (c *conn) Binary(b []byte) {
	if c.pending == nil {
		c.violated(wire.BadBinary)
		return
	}
	if c.bytes += len(b); c.bytes > c.session.MaxPayload() {
		c.violated(wire.BadSize)
		return
	}
	c.parts = append(c.parts, b)
	if len(c.parts) == c.pending.Attachments {
		p, parts := c.pending, c.parts
		c.pending, c.parts = nil, nil
		c.packet(p, parts)
	}
}

func (c *conn) violated(err error) {
	var rule wire.Violation
	if !errors.As(err, &rule) {
		rule = wire.BadPacket
	}
	c.session.Violated(string(rule))
}

func (c *conn) packet(p *Packet, parts [][]byte) {
	s := c.socket(p.Namespace)
	switch {
	case p.Kind == Connect && s == nil:
		c.connect(p)
	case p.Kind == Disconnect && s != nil:
		c.leave(s, "client left")
	case s == nil || !s.accepted():
		c.violated(wire.BadNamespace)
	case p.Kind == Event, p.Kind == BinaryEvent:
		s.event(p, parts)
	case p.Kind == Ack, p.Kind == BinaryAck:
		s.ack(p, parts)
	default:
		c.violated(wire.BadNamespace) // a second connect
	}
}

func (c *conn) connect(p *Packet) {
	namespace, known := c.opt.Namespaces[p.Namespace]
	if !known {
		refusal := Packet{Kind: ConnectError, Namespace: p.Namespace, Data: json.RawMessage(`{"message":"Invalid namespace"}`)}
		c.session.Send(hub.Message{Text: refusal.Append(nil)})
		return
	}
	s := &Socket{conn: c, namespace: p.Namespace, handler: namespace}
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return
	case p.Namespace == mainNamespace:
		c.main = s
	case c.others == nil:
		c.others = map[string]*Socket{p.Namespace: s}
	default:
		c.others[p.Namespace] = s
	}
	if c.lonely != nil {
		c.lonely.Stop()
		c.lonely = nil
	}
	c.mu.Unlock()
	namespace.Connect(s, p.Data)
}

// leave takes the socket out; what was accepted is told why.
func (c *conn) leave(s *Socket, reason string) {
	c.mu.Lock()
	switch {
	case c.main == s:
		c.main = nil
	case c.others[s.namespace] == s:
		delete(c.others, s.namespace)
	}
	if c.main == nil && len(c.others) == 0 && !c.closed && c.lonely == nil {
		c.lonely = time.AfterFunc(c.opt.ConnectTimeout, func() { c.session.End(EndAbandoned) })
	}
	c.mu.Unlock()
	s.end(reason)
}

// Closed implements engine.Handler.
func (c *conn) Closed(reason string) {
	c.mu.Lock()
	c.closed = true
	if c.lonely != nil {
		c.lonely.Stop()
	}
	all := slices.Collect(maps.Values(c.others))
	if c.main != nil {
		all = append(all, c.main)
	}
	c.mu.Unlock()
	for _, s := range all {
		s.end(reason)
	}
}

// ErrGone is told to those who wait for an ack of a socket that has ended.
var ErrGone = fault.Errorf("", fault.Unavailable, "the connection has ended")
