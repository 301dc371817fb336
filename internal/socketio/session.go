package socketio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/googollee/go-socket.io/engineio/frame"
	"github.com/googollee/go-socket.io/engineio/packet"

	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// Why connections end; the labels of a metric, so the set is closed. Reasons given to Close from
// outside count as they are and come from small sets too.
const (
	endClient    = "client closed"
	endTransport = "transport closed"
	endPing      = "ping timeout"
	endSlow      = "slow client"
	endExpired   = "token expired"
	endProtocol  = "protocol violation"
	endAbandoned = "handshake abandoned"
	endWrite     = "write failed"
	endShutdown  = "shutdown"
)

// leaveWithin is how long a client that has to go may take to read why.
const leaveWithin = time.Second

// session is one client: a Conn toward the Hub, and toward the engine the part of a transport
// connection that websocket and polling share. What the engine writes goes through the same
// queue as events, so that no goroutine of the engine ever waits for a client.
type session struct {
	srv       *Server
	user      User
	transport string
	url       url.URL
	header    http.Header
	remote    string
	out       hub.Queue
	flush     func()          // called when the queue wants a writer
	hangUp    func()          // closes the transport, called once
	cursor    json.RawMessage // where the client was, or nil
	hold      hold
	lease     lease
	announced func(id string) // called once, under the server's lock; may be nil
	release   []func()        // gives back what the handshake reserved

	ready chan struct{} // closed when the engine has announced the connection
	done  chan struct{} // closed when the session has ended

	mu       sync.Mutex
	id       string
	listed   bool // the hub knows it
	reason   string
	leaving  string    // why it ends as soon as the queue is empty
	deadline time.Time // of the next packet from the client
	leaver   *time.Timer
	cancel   context.CancelFunc // of the recovery; may be nil
	inbound  hub.Bucket
}

// ID implements Conn.
func (s *session) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// User implements Conn.
func (s *session) User() string { return s.user.ID }

// Emit implements Conn.
func (s *session) Emit(p *hub.Packet) bool {
	send, full := s.hold.pass(p, s.out.MaxMessages, s.out.MaxBytes)
	switch {
	case full:
		s.end(endSlow)
		return false
	case !send:
		return !s.ended()
	}
	return s.send(p.Encoded(hub.EIO3, encode))
}

// catchUp gives the client what it missed, when it said where it was, and then what is live.
func (s *session) catchUp() {
	if s.hold.live.Load() {
		return
	}
	ctx, cancel := context.WithCancel(s.srv.ctx)
	s.cancel = cancel
	s.srv.spawn(func() { // when the server is closed, the session ends anyway
		defer cancel()
		got := s.srv.opt.Recover(ctx, s.user.ID, Recovery{Cursor: s.cursor})
		s.hold.open(got.Skip, func(held []*hub.Packet) {
			start, full := s.out.PutAll(missed(got, hub.EIO3, encode, held))
			switch {
			case full:
				s.end(endSlow)
			case start:
				s.flush()
			}
		})
	})
}

func (s *session) send(m hub.Message) bool {
	start, full := s.out.Put(m)
	switch {
	case full:
		s.end(endSlow)
	case start:
		s.flush()
	}
	return !full && !s.ended()
}

// end closes the session; the first reason counts.
func (s *session) end(reason string) {
	s.mu.Lock()
	if s.reason != "" {
		s.mu.Unlock()
		return
	}
	s.reason = reason
	if s.leaver != nil {
		s.leaver.Stop()
	}
	if s.cancel != nil {
		s.cancel()
	}
	close(s.done)
	id, listed := s.id, s.listed
	s.mu.Unlock()
	s.lease.stop()

	s.srv.forget(s, id, listed)
	s.srv.metrics.lost.Add(float64(s.out.Close()))
	s.srv.metrics.ended.WithLabelValues(reason).Inc()
	s.hangUp()
	for _, release := range s.release {
		release()
	}
	s.srv.log.Debug("connection ended", "user", s.user.ID, "remote", s.remote, "transport", s.transport, "reason", reason)
}

// leave tells the client why it has to go, and ends the session once that is sent, at the latest
// after leaveWithin.
func (s *session) leave(reason string, retryAfter time.Duration) {
	s.mu.Lock()
	if s.leaving != "" || s.reason != "" {
		s.mu.Unlock()
		return
	}
	s.leaving = reason
	s.leaver = time.AfterFunc(leaveWithin, func() { s.end(reason) })
	s.mu.Unlock()
	s.send(encode(hub.NewPacket(closing, closingPayload(reason, retryAfter), hub.Position{})))
}

// closing is the event that tells a client that it has to go. (socket.io-client takes an event
// named disconnecting for a broken packet.)
const closing = "closing"

// closingPayload says why, and when to come back, if the client may choose.
func closingPayload(reason string, retryAfter time.Duration) []byte {
	b := append(wire.AppendString([]byte(`{"reason":"`), reason), '"')
	if retryAfter >= 0 {
		b = strconv.AppendInt(append(b, `,"retryAfter":`...), retryAfter.Milliseconds(), 10)
	}
	return append(b, '}')
}

// drained is called by a writer that has sent everything.
func (s *session) drained() {
	s.mu.Lock()
	reason := s.leaving
	s.mu.Unlock()
	if reason != "" {
		s.end(reason)
	}
}

func (s *session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// violated ends the session of a client that broke the protocol.
func (s *session) violated(err error) {
	label := string(wire.BadPayload)
	var broken wire.Violation
	if errors.As(err, &broken) {
		label = string(broken)
	}
	s.srv.metrics.violations.WithLabelValues(label).Inc()
	s.srv.log.Debug("client broke the protocol", "user", s.user.ID, "remote", s.remote, "rule", label)
	s.end(endProtocol)
}

// allow is the inbound rate limit.
func (s *session) allow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rate := float64(s.srv.opt.InboundRate)
	return s.inbound.Allow(time.Now(), rate, rate*hub.Burst)
}

// connected is the engine's announcement. It may come more than once, or after the end.
func (s *session) connected(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != "" {
		return
	}
	s.id = id
	if s.reason == "" {
		s.listed = true
		s.srv.remember(s, id)
		s.catchUp()
		s.lease.begin(s.user)
	}
	close(s.ready)
	s.srv.opening.Done()
}

func (s *session) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// member is the session as the Hub sees it. The engine wants a Close without a reason.
type member struct{ *session }

// Close implements Conn.
func (c member) Close(reason string) { c.end(reason) }

// The engine's side: github.com/googollee/go-socket.io/engineio/transport.Conn, without the
// reading and the closing.

// body is a packet's data as the engine reads it.
type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

func readerOf(b []byte) io.ReadCloser { return body{bytes.NewReader(b)} }

// answer collects a packet of the engine and queues it. It cannot fail: the engine forgets to
// clean up after a session whose first packets fail, so a dead one is discovered by reading.
type answer struct {
	s *session
	bytes.Buffer
}

// NextWriter begins a packet to the client.
func (s *session) NextWriter(_ frame.Type, kind packet.Type) (io.WriteCloser, error) {
	a := &answer{s: s}
	a.WriteByte(kind.StringByte())
	return a, nil
}

// Close queues the packet.
func (a *answer) Close() error {
	text := bytes.TrimRight(a.Bytes(), "\n")                                 // of the engine's JSON encoder
	if a.s.transport == "websocket" && text[0] == packet.OPEN.StringByte() { // nobody moves from there to polling
		text = bytes.Replace(text, []byte(`"upgrades":["polling"]`), []byte(`"upgrades":[]`), 1)
	}
	a.s.send(hub.Message{Text: wire.AppendASCII(make([]byte, 0, len(text)), text)})
	return nil
}

// URL is the URL of the handshake.
func (s *session) URL() url.URL { return s.url }

// RemoteHeader holds the headers of the handshake.
func (s *session) RemoteHeader() http.Header { return s.header }

// sessionAddr is the address of the client, and the way from the engine's connection to ours.
type sessionAddr struct{ s *session }

// Network implements net.Addr.
func (a sessionAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a sessionAddr) String() string { return a.s.remote }

// LocalAddr implements the engine's interface.
func (s *session) LocalAddr() net.Addr { return sessionAddr{s} }

// RemoteAddr implements the engine's interface.
func (s *session) RemoteAddr() net.Addr { return sessionAddr{s} }

// SetWriteDeadline does nothing: each write has a deadline of its own.
func (s *session) SetWriteDeadline(time.Time) error { return nil }

// newSession is the common part; the transport adds flush and hangUp before it is used.
func (srv *Server) newSession(r *http.Request, transport string, h *handshake) *session {
	x := &session{
		srv: srv, user: h.user, transport: transport, remote: r.RemoteAddr,
		url: url.URL{Path: r.URL.Path}, header: http.Header{},
		out:   hub.Queue{MaxMessages: srv.opt.QueueMessages, MaxBytes: srv.opt.QueueBytes},
		ready: make(chan struct{}), done: make(chan struct{}),
		release: h.release, cursor: h.cursor,
	}
	x.hold.live.Store(h.cursor == nil || srv.opt.Recover == nil)
	x.lease.before, x.lease.user = srv.opt.ExpiryWarning, h.user
	x.lease.warn = func(at time.Time) { x.send(encode(hub.NewPacket(tokenExpiring, expiringPayload(at), hub.Position{}))) }
	x.lease.end = func() { x.leave(endExpired, -1) }
	return x
}
