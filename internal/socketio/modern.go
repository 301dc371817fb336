package socketio

import (
	"context"
	"encoding/json"
	"hash/maphash"
	"net/http"
	"sync/atomic"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/v5"
	"eventspine/internal/socketio/wire"
)

// hello is what is known of the request that opened an Engine.IO 4 session.
type hello struct {
	addr       string // hub.AddressKey
	token      string // of the query or the header
	cursor     json.RawMessage
	credential uint64 // hash of that token; 0: there was none
	user       atomic.Pointer[string]
	confirm    func() // the place among the unfinished handshakes is given back
}

type helloKey struct{}

// newModern makes the engine for Engine.IO 4.
func (s *Server) newModern() (*engine.Server, error) {
	o := v5.Options{ConnectTimeout: s.opt.HandshakeTimeout,
		Namespaces: map[string]v5.Namespace{"/": {Connect: s.connect, Event: s.event, Disconnect: s.disconnected}}}
	return engine.New(engine.Options{
		Begin: s.begin,
		Open: o.Handler(func(r *http.Request) any {
			h, _ := r.Context().Value(helloKey{}).(*hello)
			return h
		}),
		Owns: s.owns, Observer: observer{s},
		PingInterval: s.opt.PingInterval, PingTimeout: s.opt.PingTimeout - s.opt.PingInterval,
		UpgradeTimeout: s.opt.HandshakeTimeout, WriteTimeout: s.opt.WriteTimeout,
		MaxPayload: s.opt.MaxPayload, QueueMessages: s.opt.QueueMessages, QueueBytes: s.opt.QueueBytes, InboundRate: s.opt.InboundRate,
	})
}

// serveModern serves a request of Engine.IO 4.
func (s *Server) serveModern(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Get("sid") == "" {
		token := tokenOf(r, query)
		h := &hello{addr: hub.AddressKey(r.RemoteAddr), token: token, credential: s.hash(token), cursor: cursorOf(query.Get("cursor"))}
		r = r.WithContext(context.WithValue(r.Context(), helloKey{}, h))
	}
	s.modern.ServeHTTP(w, r)
}

func (s *Server) hash(token string) uint64 {
	if token == "" {
		return 0
	}
	return max(1, maphash.String(s.seed, token))
}

// begin checks that every cap has room for one more session. Its token comes later.
func (s *Server) begin(r *http.Request) (release func(), refusal *engine.Refusal) {
	h, _ := r.Context().Value(helloKey{}).(*hello)
	now := time.Now()
	tooMany := func(words string) *engine.Refusal {
		return &engine.Refusal{Status: http.StatusTooManyRequests, Code: 4, Message: words, Kind: fault.Overloaded.String()}
	}
	if h == nil || !s.limits.Begin(h.addr, now) {
		return nil, tooMany("too many handshakes from this address")
	}
	confirm, ok := s.pending.Hold(h.addr, now)
	if !ok {
		return nil, tooMany("too many handshakes are unfinished")
	}
	h.confirm = confirm
	return confirm, nil
}

// owns decides whether a request may use the session: it must come with the token that opened it,
// or with another of its user. A session opened without one belongs to its address until the
// client has authenticated, and from then on to who knows its id.
func (s *Server) owns(x *engine.Session, r *http.Request) bool {
	c, _ := x.Handler().(interface{ Attached() any })
	h, _ := c.Attached().(*hello)
	token := tokenOf(r, r.URL.Query())
	user := h.user.Load()
	switch {
	case token == "" && h.credential != 0:
		return false
	case token == "":
		return user != nil || hub.AddressKey(r.RemoteAddr) == h.addr
	case h.credential == s.hash(token):
		return true
	}
	u, err := s.verify(r.Context(), token)
	return err == nil && user != nil && u.ID == *user
}

// peer is one client of Engine.IO 4: a hub.Conn.
type peer struct {
	srv     *Server
	socket  *v5.Socket
	session *engine.Session
	user    string
	hold    hold
	lease   lease
	cancel  context.CancelFunc // ends the recovery
	release func()
	joined  bool // under Server.mu: the hub has it
	over    bool // under Server.mu: it has ended
}

// ID implements hub.Conn.
func (p *peer) ID() string { return p.session.ID() }

// User implements hub.Conn.
func (p *peer) User() string { return p.user }

// Close implements hub.Conn.
func (p *peer) Close(reason string) { p.session.End(reason) }

// Emit implements hub.Conn.
func (p *peer) Emit(packet *hub.Packet) bool {
	send, full := p.hold.pass(packet, p.srv.opt.QueueMessages, p.srv.opt.QueueBytes)
	switch {
	case full:
		p.session.End(endSlow)
		return false
	case !send:
		return true
	}
	return p.session.Send(packet.Encoded(hub.EIO4, encodeModern))
}

// encodeModern writes the packet for Engine.IO 4, and the websocket frame that all share.
func encodeModern(p *hub.Packet) hub.Message {
	var room [48]byte
	text := v5.AppendEvent(make([]byte, 0, len(p.Name)+len(p.Payload)+64), p.Name, p.Payload, p.AppendOffset(room[:0]))
	frame := engine.AppendFrame(make([]byte, 0, len(text)+10), text, false)
	return hub.Message{Text: frame[len(frame)-len(text):], Wire: frame, Event: true}
}

// tell sends an event of the server's own.
func (p *peer) tell(name string, payload []byte) {
	p.session.Send(encodeModern(hub.NewPacket(name, payload, hub.Position{})))
}

// leave tells the client why it has to go, and closes the transport: the client comes back by
// itself.
func (p *peer) leave(reason string, retryAfter time.Duration) {
	p.tell(closing, closingPayload(reason, retryAfter))
	p.session.Leave(reason)
}

// connect takes a client's connect packet. All of it runs on a goroutine of its own: the stack of
// the one that reads stays small, and it goes on reading.
func (s *Server) connect(x *v5.Socket, auth json.RawMessage) {
	if !s.spawn(func() { s.authenticate(x, auth) }) {
		x.Refuse(connectError(fault.Errorf("", fault.Unavailable, "the bridge is shutting down")))
	}
}

// authOf are the members of a connect packet that are known; others are the application's.
func authOf(raw json.RawMessage) (token string, r Recovery) {
	var members map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &members) != nil {
		return "", r
	}
	text := func(name string, most int) (s string) {
		if json.Unmarshal(members[name], &s) != nil || len(s) > most {
			return ""
		}
		return s
	}
	r.PID, r.Offset = text("pid", maxCursor), text("offset", maxCursor)
	if c := members["cursor"]; len(c) <= maxCursor && string(c) != "null" {
		r.Cursor = c
	}
	return text("token", maxToken), r
}

const maxToken = 16 << 10 // bytes

func (s *Server) authenticate(x *v5.Socket, auth json.RawMessage) {
	h, _ := x.Attached().(*hello)
	token, from := authOf(auth)
	if token == "" {
		token = h.token
	}
	if from.Cursor == nil {
		from.Cursor = h.cursor
	}
	user, err := s.verify(s.ctx, token)
	if err != nil {
		s.metrics.refused.WithLabelValues(fault.KindOf(err).String()).Inc()
		x.Refuse(connectError(err))
		return
	}
	release, err := s.hub.Reserve(user.ID, h.addr)
	if err != nil {
		s.metrics.refused.WithLabelValues(fault.KindOf(err).String()).Inc()
		x.Refuse(connectError(err))
		return
	}
	p := &peer{srv: s, socket: x, session: x.Session(), user: user.ID, release: release}
	p.lease.before, p.lease.user = s.opt.ExpiryWarning, user
	p.lease.warn = func(at time.Time) { p.tell(tokenExpiring, expiringPayload(at)) }
	p.lease.end = func() { p.leave(endExpired, -1) }
	if !s.join(p) {
		p.lease.stop()
		release()
		return
	}
	h.user.Store(&p.user)
	h.confirm()
	p.welcome(from)
	p.lease.start() // nothing goes out before the CONNECT packet
}

// connectError is what a refused client gets to see.
func connectError(err error) []byte {
	b := append(wire.AppendString([]byte(`{"message":"`), err.Error()), `","data":{"kind":"`...)
	return append(append(b, fault.KindOf(err).String()...), `"}}`...)
}

// welcome gives the client what it missed, and then what is live.
func (p *peer) welcome(from Recovery) {
	var got Recovered
	if recover := p.srv.opt.Recover; recover != nil {
		ctx, cancel := context.WithCancel(p.srv.ctx)
		defer cancel()
		if !p.srv.recovering(p, cancel) {
			return
		}
		got = recover(ctx, p.user, from)
	}
	details := wire.AppendString([]byte(`{"sid":"`), p.session.ID())
	if got.PID != "" {
		details = wire.AppendString(append(details, `","pid":"`...), got.PID)
	}
	p.hold.open(got.Skip, func(held []*hub.Packet) {
		p.socket.Accept(append(details, `"}`...), missed(got, hub.EIO4, encodeModern, held)...)
	})
}

// join makes the peer one of its user's connections; false when it has ended already.
func (s *Server) join(p *peer) bool {
	if !p.socket.SetData(p) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.over {
		return false
	}
	p.joined = true
	s.peers[p] = struct{}{}
	s.hub.Add(p)
	return true
}

// recovering keeps the way to end the recovery.
func (s *Server) recovering(p *peer, cancel context.CancelFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.cancel = cancel
	return !p.over
}

// disconnected is called when a socket has ended.
func (s *Server) disconnected(x *v5.Socket, _ string) {
	p, _ := x.Data().(*peer)
	if p == nil {
		return // it was not authenticated
	}
	s.mu.Lock()
	p.over = true
	delete(s.peers, p)
	cancel, joined := p.cancel, p.joined
	s.mu.Unlock()
	p.lease.stop()
	if cancel != nil {
		cancel()
	}
	if joined {
		s.hub.Remove(p)
		p.release()
	}
}

// event takes what a client emits. Its handling may wait, so it has a stack of its own; the client
// is not read meanwhile.
func (s *Server) event(x *v5.Socket, e v5.Received) {
	p, _ := x.Data().(*peer)
	done := make(chan struct{})
	if p == nil || !s.spawn(func() { defer close(done); s.handle(p, e) }) {
		return
	}
	<-done
}

func (s *Server) handle(p *peer, e v5.Received) {
	var arg json.RawMessage
	if len(e.Args) > 0 {
		arg = e.Args[0]
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.SyncTimeout)
	defer cancel()
	switch e.Name {
	case "sync":
		events, info := s.synced(ctx, nil, p.user, arg)
		e.Reply([]byte("[" + events.s + "," + info.s + "]"))
	case "refresh":
		e.Reply(append(append([]byte("["), s.refresh(ctx, &p.lease, arg)...), ']'))
	default:
		s.metrics.ignored.Inc()
		s.log.Debug("ignored an event of a client", "user", p.user, "remote", p.session.Remote())
	}
}

// observer counts what the engine does.
type observer struct{ s *Server }

// Refused implements engine.Observer.
func (o observer) Refused(kind string) {
	o.s.metrics.refused.WithLabelValues(kind).Inc()
	o.s.log.Debug("request refused", "kind", kind)
}

// Violated implements engine.Observer.
func (o observer) Violated(x *engine.Session, rule string) {
	o.s.metrics.violations.WithLabelValues(rule).Inc()
	o.s.log.Debug("client broke the protocol", "remote", x.Remote(), "rule", rule)
}

// Opened implements engine.Observer.
func (o observer) Opened(x *engine.Session) {
	o.s.metrics.connections.WithLabelValues(x.Transport()).Inc()
}

// Moved implements engine.Observer.
func (o observer) Moved(x *engine.Session) {
	o.s.metrics.connections.WithLabelValues("polling").Dec()
	o.s.metrics.connections.WithLabelValues(x.Transport()).Inc()
}

// Closed implements engine.Observer.
func (o observer) Closed(x *engine.Session, reason string, lost int) {
	o.s.metrics.connections.WithLabelValues(x.Transport()).Dec()
	o.s.metrics.ended.WithLabelValues(reason).Inc()
	o.s.metrics.lost.Add(float64(lost))
	o.s.log.Debug("connection ended", "remote", x.Remote(), "transport", x.Transport(), "reason", reason)
}

// Delivered implements engine.Observer.
func (o observer) Delivered(n int) { o.s.metrics.delivered.Add(float64(n)) }
