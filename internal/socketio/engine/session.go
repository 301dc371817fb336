package engine

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"eventspine/internal/socketio/hub"
)

// The transports.
const (
	polling   = "polling"
	webSocket = "websocket"
)

// Why sessions end. The set is closed: reasons are labels of a metric.
const (
	EndShutdown  = "shutdown"
	EndProtocol  = "protocol violation"
	endClient    = "client closed"
	endTransport = "transport closed"
	endPing      = "ping timeout"
	endSlow      = "slow client"
	endWrite     = "write failed"
)

// The rules a client can break.
const (
	badPacket  = "packet kind"
	badText    = "not UTF-8"
	badFrame   = "bad websocket frame"
	badSize    = "too large"
	badRate    = "too many packets"
	badPayload = "bad payload"
	badOverlap = "overlapping requests"
	badUpgrade = "bad upgrade"
	badBody    = "slow or broken body"
)

// leaveWithin is how long a client that has to go may take to read why.
const leaveWithin = time.Second

// lateGET is for how long the GET is still answered that crosses a client's own close.
const lateGET = 200 * time.Millisecond

// Session is one client. Safe for concurrent use.
type Session struct {
	srv     *Server
	id      string
	remote  string
	handler Handler
	release func()
	out     hub.Queue
	ws      atomic.Pointer[socket] // nil: polling
	poll    *poll                  // nil: a websocket from the beginning
	going   atomic.Bool            // ends as soon as the queue is empty
	gone    atomic.Bool

	mu      sync.Mutex
	reason  string // why it ended, or has to go
	timer   *time.Timer
	pinged  bool // a pong is due
	inbound hub.Bucket
}

// ID is the session's id, 128 random bits.
func (s *Session) ID() string { return s.id }

// Handler is what Options.Open made for the session.
func (s *Session) Handler() Handler { return s.handler }

// Remote is the client's host:port.
func (s *Session) Remote() string { return s.remote }

// Transport is websocket or polling.
func (s *Session) Transport() string {
	if s.poll == nil || s.ws.Load() != nil {
		return webSocket
	}
	return polling
}

// parameters is the packet that opens a session.
func (s *Session) parameters(upgrades []string) []byte {
	if upgrades == nil {
		upgrades = []string{}
	}
	o := &s.srv.opt
	b, err := json.Marshal(struct {
		SID          string   `json:"sid"`
		Upgrades     []string `json:"upgrades"`
		PingInterval int64    `json:"pingInterval"`
		PingTimeout  int64    `json:"pingTimeout"`
		MaxPayload   int      `json:"maxPayload"`
	}{s.id, upgrades, o.PingInterval.Milliseconds(), o.PingTimeout.Milliseconds(), o.MaxPayload})
	if err != nil { // strings and numbers only
		return []byte("0{}")
	}
	return append([]byte("0"), b...)
}

// start begins the heartbeat.
func (s *Session) start() {
	s.mu.Lock()
	if s.reason == "" {
		s.timer = time.AfterFunc(s.srv.opt.PingInterval, s.beat)
	}
	s.mu.Unlock()
	s.srv.opt.Observer.Opened(s)
}

// beat sends a ping, or ends a session whose client did not answer the last one.
func (s *Session) beat() {
	s.mu.Lock()
	if s.reason != "" {
		s.mu.Unlock()
		return
	}
	late := s.pinged
	s.pinged = true
	s.timer.Reset(s.srv.opt.PingTimeout)
	s.mu.Unlock()
	if late {
		s.End(endPing)
		return
	}
	s.Send(hub.Message{Text: pingFrame[2:], Wire: pingFrame})
}

func (s *Session) pong() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pinged && s.reason == "" {
		s.pinged = false
		s.timer.Reset(s.srv.opt.PingInterval)
	}
}

// Send queues the message, a whole packet, and never waits. False means that the session is gone,
// or was ended just now because its queue is full.
func (s *Session) Send(m hub.Message) bool {
	ws := s.ws.Load()
	if ws == nil {
		start, full := s.out.Put(m)
		return s.queued(start, full)
	}
	claimed, start, full := s.out.Claim(m)
	if claimed {
		s.direct(ws, m)
		return !s.gone.Load()
	}
	return s.queued(start, full)
}

// SendAll is Send for messages that belong together: nothing comes between them. They are bounded
// as one message, which always fits into an empty queue.
func (s *Session) SendAll(all []hub.Message) bool {
	start, full := s.out.PutAll(all)
	return s.queued(start, full)
}

// queued sees to it that what is queued gets written.
func (s *Session) queued(start, full bool) bool {
	switch {
	case full:
		s.End(endSlow)
		return false
	case start && s.ws.Load() != nil: // it may have moved meanwhile
		s.flush()
	case start:
		s.poll.signal()
	}
	return !s.gone.Load()
}

// Idle reports whether everything was written.
func (s *Session) Idle() bool { return s.out.Idle() }

// Leave ends the session once what is queued is sent, at the latest after a second.
func (s *Session) Leave(reason string) {
	s.mu.Lock()
	if s.reason != "" {
		s.mu.Unlock()
		return
	}
	s.reason = reason
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(leaveWithin, func() { s.End(reason) })
	s.mu.Unlock()
	s.going.Store(true)
	if s.out.Idle() {
		s.End(reason)
	}
}

// drained is called by a writer that has sent everything.
func (s *Session) drained() {
	if s.going.Load() {
		s.End(EndShutdown) // or the reason given to Leave
	}
}

// End closes the session at once; the first reason counts.
func (s *Session) End(reason string) {
	if !s.gone.CompareAndSwap(false, true) {
		return
	}
	s.mu.Lock()
	if s.reason == "" {
		s.reason = reason
	}
	reason = s.reason
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	if reason == endClient && s.poll != nil && !s.poll.getting.Load() {
		time.AfterFunc(lateGET, func() { s.srv.forget(s) })
	} else {
		s.srv.forget(s)
	}
	idle := s.out.Idle()
	lost := s.out.Close()
	if ws := s.ws.Load(); ws != nil {
		ws.close(idle, reason)
	}
	if s.poll != nil {
		s.poll.end(reason == endClient)
	}
	s.handler.Closed(reason)
	s.srv.opt.Observer.Closed(s, reason, lost)
	s.release()
}

// Violated ends the session of a client that broke the rule.
func (s *Session) Violated(rule string) {
	if s.gone.Load() {
		return
	}
	s.srv.opt.Observer.Violated(s, rule)
	s.End(EndProtocol)
}

// allow is the inbound rate limit.
func (s *Session) allow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rate := float64(s.srv.opt.InboundRate)
	return s.inbound.Allow(time.Now(), rate, rate*hub.Burst)
}

// receive takes one text packet; ok is false when it broke a rule and ended the session.
func (s *Session) receive(p []byte) (ok bool) {
	rule := ""
	switch {
	case !s.allow():
		rule = badRate
	case len(p) == 0:
		rule = badPacket
	case p[0] == '4' && !utf8.Valid(p):
		rule = badText
	case p[0] == '4':
		s.handler.Text(p[1:])
	case len(p) > 1:
		rule = badPacket
	case p[0] == '1':
		s.End(endClient)
	case p[0] == '3':
		s.pong()
	case p[0] != '6': // a noop is legal; a ping comes from the server only, and the rest is none
		rule = badPacket
	}
	return s.kept(rule)
}

// receiveBinary takes one binary message.
func (s *Session) receiveBinary(b []byte) (ok bool) {
	if !s.allow() {
		return s.kept(badRate)
	}
	s.handler.Binary(b)
	return true
}

// rated is the rule that one more packet breaks.
func (s *Session) rated() string {
	if s.allow() {
		return ""
	}
	return badRate
}

func (s *Session) kept(rule string) bool {
	if rule != "" {
		s.Violated(rule)
	}
	return rule == ""
}

// MaxPayload is the most bytes one message may have.
func (s *Session) MaxPayload() int { return s.srv.opt.MaxPayload }
