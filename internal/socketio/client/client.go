// Package client is a small Socket.IO client for Engine.IO 3 over websocket: for `eventspine
// tail`, for benchmarks and for tests. It does not reconnect: the caller dials again and calls
// Sync with the last position it saw.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"eventspine/internal/fault"
)

const (
	maxRead     = 64 << 20 // bytes of one message; the answer to a sync is one message
	maxPending  = 1 << 20  // events received and not yet asked for
	writeWithin = 10 * time.Second
	pingDefault = 25 * time.Second
)

// Options of Dial; the zero value works.
type Options struct {
	Header http.Header  // further headers of the handshake
	HTTP   *http.Client // nil: http.DefaultClient
}

type received struct {
	name    string
	payload json.RawMessage
}

// Info is what the server says about its answer to a sync.
type Info struct {
	Complete bool            `json:"complete"` // nothing between the given position and now is missing
	More     bool            `json:"more"`     // there is more; ask again from Last
	Last     json.RawMessage `json:"last"`     // the position to give to the next SyncSince
	Error    string          `json:"error"`
}

// Client is one connection. Safe for concurrent use.
type Client struct {
	ws     *websocket.Conn
	id     string
	cancel context.CancelFunc
	ping   *time.Timer
	every  time.Duration
	done   chan struct{} // the reader has ended
	more   chan struct{} // holds a token when events came

	mu     sync.Mutex
	events []received
	acks   map[uint64]chan json.RawMessage
	nextID uint64
	err    error
}

// Dial connects to a bridge such as http://127.0.0.1:3001 and waits until it is connected. A
// refused token gives an error of kind Unauthorized, a full bridge Overloaded, no bridge
// Unavailable. ctx bounds the dialling only; Close ends the connection.
func Dial(ctx context.Context, base, token string, o Options) (*Client, error) {
	const op = "dial bridge"
	u, err := url.Parse(base)
	if err != nil {
		return nil, fault.E(op, fault.Invalid, err)
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	u = u.JoinPath("socket.io", "/")
	u.RawQuery = url.Values{"EIO": {"3"}, "transport": {"websocket"}, "token": {token}}.Encode()
	ws, resp, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: o.HTTP, HTTPHeader: o.Header}) //nolint:bodyclose // Dial has read and closed it
	if err != nil {
		return nil, dialError(op, resp, err)
	}
	ws.SetReadLimit(maxRead)
	c := &Client{ws: ws, every: pingDefault, done: make(chan struct{}), more: make(chan struct{}, 1), acks: map[uint64]chan json.RawMessage{}}
	if err := c.open(ctx); err != nil {
		_ = ws.CloseNow()
		return nil, fault.E(op, fault.Unavailable, err)
	}
	life, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.ping = time.AfterFunc(c.every, c.beat)
	go c.read(life)
	return c, nil
}

func dialError(op string, resp *http.Response, err error) error {
	if resp == nil {
		return fault.E(op, fault.Unavailable, err)
	}
	kind := fault.Unavailable
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		kind = fault.Unauthorized
	case http.StatusForbidden:
		kind = fault.Forbidden
	case http.StatusBadRequest, http.StatusNotFound:
		kind = fault.Invalid
	case http.StatusTooManyRequests:
		kind = fault.Overloaded
	}
	var said struct{ Message string }
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if json.Unmarshal(b, &said) == nil && said.Message != "" {
		return fault.Errorf(op, kind, "the bridge answered %d: %s", resp.StatusCode, said.Message)
	}
	return fault.E(op, kind, err)
}

// open reads the two packets that begin a connection: open with the session's parameters, and
// the connect of the main namespace.
func (c *Client) open(ctx context.Context) error {
	for {
		_, b, err := c.ws.Read(ctx)
		if err != nil {
			return err
		}
		switch {
		case len(b) > 0 && b[0] == '0':
			var p struct {
				SID          string `json:"sid"`
				PingInterval int    `json:"pingInterval"`
			}
			if err := json.Unmarshal(b[1:], &p); err != nil {
				return err
			}
			c.id = p.SID
			if p.PingInterval > 0 {
				c.every = time.Duration(p.PingInterval) * time.Millisecond
			}
		case string(b) == "40":
			return nil
		}
	}
}

// ID is the session's id.
func (c *Client) ID() string { return c.id }

func (c *Client) beat() {
	ctx, cancel := context.WithTimeout(context.Background(), writeWithin)
	defer cancel()
	if c.ws.Write(ctx, websocket.MessageText, []byte("2")) == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err == nil {
			c.ping.Reset(c.every)
		}
	}
}

func (c *Client) read(ctx context.Context) {
	defer close(c.done)
	for {
		_, b, err := c.ws.Read(ctx)
		if err == nil {
			err = c.handle(b)
		}
		if err != nil {
			c.fail(fault.E("read from bridge", fault.Unavailable, err))
			return
		}
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	c.ping.Stop()
	_ = c.ws.CloseNow()
}

// handle takes one packet.
func (c *Client) handle(b []byte) error {
	p, err := parse(b)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch p.kind {
	case kindEvent:
		if len(c.events) >= maxPending {
			return fault.Errorf("", fault.Overloaded, "%d events are waiting to be received", maxPending)
		}
		c.events = append(c.events, p.event)
		select {
		case c.more <- struct{}{}:
		default:
		}
	case kindAck:
		if ack := c.acks[p.id]; ack != nil {
			delete(c.acks, p.id)
			ack <- p.args // has room for one
		}
	case kindEnd:
		return fault.Errorf("", fault.Unavailable, "the bridge closed the connection")
	}
	return nil
}

// Recv waits for the next event: its name and its first argument, which is nil when there is
// none. Events that came before the connection broke are returned first; then the error is of
// kind Unavailable.
func (c *Client) Recv(ctx context.Context) (name string, payload json.RawMessage, err error) {
	for {
		c.mu.Lock()
		if len(c.events) > 0 {
			e := c.events[0]
			c.events[0] = received{}
			if c.events = c.events[1:]; len(c.events) == 0 {
				c.events = nil
			}
			c.mu.Unlock()
			return e.name, e.payload, nil
		}
		err := c.err
		c.mu.Unlock()
		if err != nil {
			return "", nil, err
		}
		select {
		case <-c.more:
		case <-c.done:
		case <-ctx.Done():
			return "", nil, ctx.Err()
		}
	}
}

// Sync asks for what was missed since the event numbered lastSeq, oldest first. complete is
// false when the bridge cannot rule out that something is missing. Events that arrive meanwhile
// come through Recv and may be among the answered ones too.
func (c *Client) Sync(ctx context.Context, lastSeq uint64) (events []json.RawMessage, complete bool, err error) {
	events, info, err := c.SyncSince(ctx, lastSeq)
	return events, info.Complete, err
}

// SyncSince is Sync from any position the bridge understands: a number, an object with the
// members user, all and epoch, or the Last of an earlier answer.
func (c *Client) SyncSince(ctx context.Context, since any) ([]json.RawMessage, Info, error) {
	const op = "sync with bridge"
	arg, err := json.Marshal(since)
	if err != nil {
		return nil, Info{}, fault.E(op, fault.Invalid, err)
	}
	ack := make(chan json.RawMessage, 1)
	c.mu.Lock()
	id := c.nextID
	c.nextID++
	c.acks[id] = ack
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.acks, id)
	}()
	packet := append(strconv.AppendUint([]byte("42"), id, 10), `["sync",`...)
	packet = append(append(packet, arg...), ']')
	if err := c.ws.Write(ctx, websocket.MessageText, packet); err != nil {
		return nil, Info{}, fault.E(op, fault.Unavailable, err)
	}
	select {
	case args := <-ack:
		return syncAnswer(op, args)
	case <-c.done:
		return nil, Info{}, fault.Errorf(op, fault.Unavailable, "the connection ended")
	case <-ctx.Done():
		return nil, Info{}, ctx.Err()
	}
}

func syncAnswer(op string, args json.RawMessage) ([]json.RawMessage, Info, error) {
	var info Info
	var events []json.RawMessage
	if err := json.Unmarshal(args, &[]any{&events, &info}); err != nil {
		return nil, info, fault.E(op, fault.Corrupt, err)
	}
	return events, info, nil
}

// Close ends the connection and waits for the reader.
func (c *Client) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.ws.Write(ctx, websocket.MessageText, []byte("41")) // best effort: the socket goes next
	c.cancel()
	<-c.done
	return nil
}

type kind uint8

const (
	kindOther kind = iota
	kindEvent
	kindAck
	kindEnd
)

type packet struct {
	kind  kind
	id    uint64
	event received
	args  json.RawMessage
}

// parse reads one Engine.IO packet; what needs no action is kindOther.
func parse(b []byte) (packet, error) {
	switch {
	case bytes.Equal(b, []byte("1")), bytes.Equal(b, []byte("41")):
		return packet{kind: kindEnd}, nil
	case bytes.HasPrefix(b, []byte("42")):
		return parseEvent(b[2:])
	case bytes.HasPrefix(b, []byte("43")):
		rest := b[2:]
		i := bytes.IndexByte(rest, '[')
		if i < 0 {
			return packet{}, fault.Errorf("parse ack", fault.Corrupt, "no arguments")
		}
		id, err := strconv.ParseUint(string(rest[:i]), 10, 64)
		return packet{kind: kindAck, id: id, args: rest[i:]}, fault.E("parse ack", fault.Corrupt, err)
	}
	return packet{}, nil
}

func parseEvent(b []byte) (packet, error) {
	i := bytes.IndexByte(b, '[')
	if i < 0 {
		return packet{}, fault.Errorf("parse event", fault.Corrupt, "no arguments")
	}
	p := packet{kind: kindEvent}
	if err := json.Unmarshal(b[i:], &[]any{&p.event.name, &p.event.payload}); err != nil {
		return packet{}, fault.E("parse event", fault.Corrupt, err)
	}
	return p, nil
}
