package socketio

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/googollee/go-socket.io/engineio/frame"
	"github.com/googollee/go-socket.io/engineio/packet"
	"github.com/googollee/go-socket.io/engineio/transport"
	"github.com/gorilla/websocket"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
)

const (
	readBuffer  = 512      // bytes; clients send little
	writeBatch  = 64 << 10 // bytes a writer takes from the queue at once
	closeWithin = 100 * time.Millisecond
)

// wsTransport makes websocket connections for the engine.
type wsTransport struct {
	srv      *Server
	upgrader websocket.Upgrader
}

func newWSTransport(srv *Server) *wsTransport {
	return &wsTransport{srv: srv, upgrader: websocket.Upgrader{
		HandshakeTimeout: srv.opt.HandshakeTimeout,
		ReadBufferSize:   readBuffer,
		WriteBufferPool:  &sync.Pool{},
		CheckOrigin:      func(*http.Request) bool { return true }, // the door did
		Error:            upgradeError,
	}}
}

// Name implements the engine's Transport.
func (t *wsTransport) Name() string { return "websocket" }

// Dial implements the engine's Transport; nobody dials here.
func (t *wsTransport) Dial(*url.URL, http.Header) (transport.Conn, error) { return nil, errNoDial }

var errNoDial = errors.New("this is a server")

// Accept turns the request into a session.
func (t *wsTransport) Accept(w http.ResponseWriter, r *http.Request) (transport.Conn, error) {
	h, ew := handshakeOf(r), w.(*engineWriter)
	c := &wsConn{session: t.srv.newSession(r, t.Name(), h)}
	ew.session = c.session
	ws, err := t.upgrader.Upgrade(ew, r, nil)
	if err != nil {
		return nil, fault.E("upgrade to websocket", fault.Invalid, err)
	}
	c.ws, c.net = ws, ws.UnderlyingConn()
	ws.SetPingHandler(func(data string) error { // gorilla's own would write beside the writer
		pong := engine.Pong(data)
		c.send(hub.Message{Text: pong[2:], Wire: pong})
		return nil
	})
	c.flush, c.hangUp = c.startWriter, c.closeSocket
	t.srv.admit(h, c.session)
	return c, nil
}

// upgradeError answers a request that is no proper upgrade.
func upgradeError(w http.ResponseWriter, _ *http.Request, status int, err error) {
	refuse(w, status, fault.Invalid.String(), err.Error())
	if ew, ok := w.(*engineWriter); ok {
		ew.answered = true
	}
}

// wsConn is a session over websocket. It has a writer goroutine only while there is something
// to write.
type wsConn struct {
	*session
	ws  *websocket.Conn
	net net.Conn // its; for whole frames
}

// NextReader waits for the next packet.
func (c *wsConn) NextReader() (frame.Type, packet.Type, io.ReadCloser, error) {
	_, b, err := c.ws.ReadMessage()
	if err != nil || len(b) == 0 {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			c.end(endPing)
		}
		c.end(endTransport)
		return 0, 0, nil, io.EOF
	}
	return frame.String, packet.ByteToPacketType(b[0], frame.String), readerOf(b[1:]), nil
}

// SetReadDeadline says until when the client must have been heard.
func (c *wsConn) SetReadDeadline(t time.Time) error {
	_ = c.ws.SetReadDeadline(t) // a broken connection is discovered by reading
	return nil
}

// Close is the engine's way to end the session.
func (c *wsConn) Close() error {
	c.end(endClient)
	return nil
}

func (c *wsConn) closeSocket() {
	if c.out.Idle() { // otherwise the writer holds the socket
		_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(c.closeCode(), c.why()), time.Now().Add(closeWithin))
	}
	_ = c.ws.Close()
}

func (c *wsConn) closeCode() int {
	switch c.why() {
	case endProtocol, endExpired:
		return websocket.ClosePolicyViolation
	case endClient, endTransport:
		return websocket.CloseNormalClosure
	}
	return websocket.CloseGoingAway
}

// startWriter runs a writer until the queue is empty.
func (c *wsConn) startWriter() {
	if !c.srv.spawn(c.write) {
		c.end(endShutdown)
	}
}

func (c *wsConn) write() {
	var batch []hub.Message
	for {
		batch = c.out.Take(batch[:0], writeBatch)
		if len(batch) == 0 {
			c.drained()
			return
		}
		for _, m := range batch {
			if err := c.writeOne(m); err != nil {
				c.end(endWrite)
				return
			}
		}
		clear(batch)
	}
}

func (c *wsConn) writeOne(m hub.Message) error {
	deadline := time.Now().Add(c.srv.opt.WriteTimeout)
	_ = c.ws.SetWriteDeadline(deadline)
	if m.Event {
		c.srv.metrics.delivered.Inc()
	}
	if m.Wire == nil {
		return c.ws.WriteMessage(websocket.TextMessage, m.Text)
	}
	_ = c.net.SetWriteDeadline(deadline)
	_, err := c.net.Write(m.Wire)
	return err
}
