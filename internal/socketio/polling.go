package socketio

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/googollee/go-socket.io/engineio/frame"
	"github.com/googollee/go-socket.io/engineio/packet"
	"github.com/googollee/go-socket.io/engineio/transport"

	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

const (
	answerBytes = 256 << 10 // of one GET, unless a single packet is larger
	bodyWithin  = 10 * time.Second
)

// pollTransport makes long-polling connections for the engine.
type pollTransport struct{ srv *Server }

// Name implements the engine's Transport.
func (t *pollTransport) Name() string { return "polling" }

// Dial implements the engine's Transport; nobody dials here.
func (t *pollTransport) Dial(*url.URL, http.Header) (transport.Conn, error) { return nil, errNoDial }

// Accept turns the request into a session.
func (t *pollTransport) Accept(_ http.ResponseWriter, r *http.Request) (transport.Conn, error) {
	h := handshakeOf(r)
	c := &pollConn{session: t.srv.newSession(r, t.Name(), h), confirm: h.confirm,
		in: make(chan []byte), wake: make(chan struct{}, 1)}
	abandoned := time.AfterFunc(t.srv.opt.HandshakeTimeout, func() {
		if !c.polled.Load() {
			c.end(endAbandoned)
		}
	})
	c.flush = c.signal
	c.hangUp = func() { abandoned.Stop() }
	c.announced = func(id string) { t.srv.polls[id] = c }
	t.srv.admit(h, c.session)
	return c, nil
}

// pollConn is a session over long polling. Its writer is the GET that is waiting.
type pollConn struct {
	*session
	in      chan []byte   // packets of a POST, vetted
	wake    chan struct{} // holds one token: there may be something to send
	confirm func()
	polled  atomic.Bool // the client came back with its session id
	getting atomic.Bool
	posting atomic.Bool
}

func (c *pollConn) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // a token is there
	}
}

// NextReader waits for the next packet.
func (c *pollConn) NextReader() (frame.Type, packet.Type, io.ReadCloser, error) {
	c.mu.Lock()
	silent := time.NewTimer(time.Until(c.deadline))
	c.mu.Unlock()
	defer silent.Stop()
	select {
	case b := <-c.in:
		return frame.String, packet.ByteToPacketType(b[0], frame.String), readerOf(b[1:]), nil
	case <-silent.C:
		c.end(endPing)
	case <-c.done:
	}
	return 0, 0, nil, io.EOF
}

// SetReadDeadline says until when the client must have been heard.
func (c *pollConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

// Close is the engine's way to end the session.
func (c *pollConn) Close() error {
	c.end(endClient)
	return nil
}

// ServeHTTP serves the handshake and every request of the session after it.
func (c *pollConn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sid") != "" && c.polled.CompareAndSwap(false, true) {
		c.confirm()
	}
	switch r.Method {
	case http.MethodGet:
		exclusive(&c.getting, w, func() { c.get(w, r) })
	case http.MethodPost:
		exclusive(&c.posting, w, func() { c.post(w, r) })
	default:
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		refuse(w, http.StatusMethodNotAllowed, "invalid", "use GET or POST")
	}
}

func exclusive(busy *atomic.Bool, w http.ResponseWriter, serve func()) {
	if !busy.CompareAndSwap(false, true) {
		refuse(w, http.StatusBadRequest, "conflict", "another request of this session and method is under way")
		return
	}
	defer busy.Store(false)
	serve()
}

// get answers with what is queued, and waits until there is something.
func (c *pollConn) get(w http.ResponseWriter, r *http.Request) {
	select { // the first answer waits until the session id is good for further requests
	case <-c.ready:
	case <-c.done:
	case <-r.Context().Done():
		return
	}
	for {
		if batch := c.out.Take(nil, answerBytes); len(batch) > 0 {
			c.answer(w, batch)
			return
		}
		select {
		case <-c.wake:
		case <-c.done:
			last := packet.CLOSE
			if c.why() == endClient {
				last = packet.NOOP
			}
			c.answer(w, []hub.Message{{Text: []byte{last.StringByte()}}})
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (c *pollConn) answer(w http.ResponseWriter, batch []hub.Message) {
	var out []byte
	for _, m := range batch {
		out = wire.AppendPayload(out, m.Text)
		if m.Event {
			c.srv.metrics.delivered.Inc()
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(c.srv.opt.WriteTimeout))
	_, err := w.Write(out)
	err = errors.Join(err, flushed(control))
	_ = control.SetWriteDeadline(time.Time{})
	if err != nil { // what was taken is lost; a new connection asks for it
		c.end(endWrite)
	}
	c.out.Rest()
	if c.out.Idle() {
		c.drained()
	}
}

func flushed(c *http.ResponseController) error {
	if err := c.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// post feeds the packets of the body to the engine, once all of them were vetted.
func (c *pollConn) post(w http.ResponseWriter, r *http.Request) {
	packets, err := c.read(w, r)
	if err != nil {
		c.violated(err)
		refuse(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	for _, p := range packets {
		select {
		case c.in <- p:
		case <-c.done:
			refuse(w, http.StatusBadRequest, "invalid", "the session has ended")
			return
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, "ok")
}

func (c *pollConn) read(w http.ResponseWriter, r *http.Request) ([][]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyWithin))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxPacket))
	_ = control.SetReadDeadline(time.Time{})
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, wire.BadSize
	} else if err != nil {
		return nil, err
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/octet-stream") {
		return nil, wire.BadBinary
	}
	all, err := wire.SplitPayload(b)
	if err != nil {
		return nil, err
	}
	passed := all[:0]
	for _, p := range all {
		verdict, err := c.srv.vet(p)
		switch {
		case err != nil:
			return nil, err
		case !c.allow():
			return nil, wire.BadRate
		case verdict == wire.Pass:
			passed = append(passed, p)
		}
	}
	return passed, nil
}
