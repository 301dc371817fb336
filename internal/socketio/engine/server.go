package engine

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"eventspine/internal/fault"
)

// Handler gets what one session receives. Text and Binary are called one after the other, and
// their bytes may be kept. Closed is called once, by anybody's goroutine, and is the last call.
type Handler interface {
	Text(b []byte)
	Binary(b []byte)
	Closed(reason string)
}

// Observer counts and logs. Safe for concurrent use.
type Observer interface {
	Refused(kind string)                     // a request that reached no session
	Violated(s *Session, rule string)        // a client broke the protocol
	Opened(s *Session)                       // a session stands
	Moved(s *Session)                        // from polling to websocket
	Closed(s *Session, reason string, n int) // with n events unsent
	Delivered(events int)
}

// Options of a Server. Open and Observer must be set; every other zero value has a default.
type Options struct {
	// Begin decides about a request that wants to open a session; nil: anybody may. release is
	// called once, when the session has ended or could not be opened.
	Begin func(r *http.Request) (release func(), refusal *Refusal)
	// Open makes the handler of a new session. The request must not be kept.
	Open func(s *Session, r *http.Request) Handler
	// Owns reports whether the request may use the session; nil: whoever knows its id may.
	Owns     func(s *Session, r *http.Request) bool
	Observer Observer

	PingInterval   time.Duration // how often the server pings; default 25 s
	PingTimeout    time.Duration // for the client's pong; default 20 s
	UpgradeTimeout time.Duration // from the websocket of an upgrade to its end; default 10 s
	WriteTimeout   time.Duration // for one write to a client; default 20 s
	BodyTimeout    time.Duration // for the body of a POST to arrive; default 10 s
	MaxPayload     int           // bytes of one message or one POST; default 1,000,000
	QueueMessages  int           // events queued for a session; default 1,024
	QueueBytes     int           // bytes queued for a session; default 1 MiB
	InboundRate    int           // packets a second from one session, four times that in a burst; default 50
}

func (o *Options) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	setInt := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	set(&o.PingInterval, 25*time.Second)
	set(&o.PingTimeout, 20*time.Second)
	set(&o.UpgradeTimeout, 10*time.Second)
	set(&o.WriteTimeout, 20*time.Second)
	set(&o.BodyTimeout, 10*time.Second)
	setInt(&o.MaxPayload, 1_000_000)
	setInt(&o.QueueMessages, 1024)
	setInt(&o.QueueBytes, 1<<20)
	setInt(&o.InboundRate, 50)
	if o.Begin == nil {
		o.Begin = func(*http.Request) (func(), *Refusal) { return func() {}, nil }
	}
	if o.Owns == nil {
		o.Owns = func(*Session, *http.Request) bool { return true }
	}
}

// Refusal is the answer to a request that reaches no session. Code and Message are the protocol's.
type Refusal struct {
	Status  int    `json:"-"`
	Code    int    `json:"code"`
	Message string `json:"message"`
	Kind    string `json:"-"` // for the Observer
}

// The protocol's refusals, with Node's codes and words.
var (
	unknownTransport = &Refusal{http.StatusBadRequest, 0, "Transport unknown", "unknown transport"}
	unknownSession   = &Refusal{http.StatusBadRequest, 1, "Session ID unknown", "unknown session"}
	badMethod        = &Refusal{http.StatusBadRequest, 2, "Bad handshake method", "bad method"}
	badRequest       = &Refusal{http.StatusBadRequest, 3, "Bad request", "bad request"}
	unsupported      = &Refusal{http.StatusBadRequest, 5, "Unsupported protocol version", "unsupported version"}
	shuttingDown     = &Refusal{http.StatusServiceUnavailable, 4, "The server is shutting down", "unavailable"}
)

// Server is an http.Handler for one path. Safe for concurrent use.
type Server struct {
	opt      Options
	upgrader websocket.Upgrader

	mu       sync.Mutex
	closing  bool // no new sessions
	closed   bool // no new goroutines
	sessions map[string]*Session
	work     sync.WaitGroup // readers and writers
}

// New makes a server; Close ends it. The error is of kind Invalid.
func New(o Options) (*Server, error) {
	if o.Open == nil || o.Observer == nil {
		return nil, fault.Errorf("start engine.io", fault.Invalid, "Open and Observer must be set")
	}
	o.defaults()
	return &Server{opt: o, sessions: map[string]*Session{}, upgrader: websocket.Upgrader{
		HandshakeTimeout: o.UpgradeTimeout,
		ReadBufferSize:   readBuffer,
		WriteBufferPool:  &sync.Pool{},
		CheckOrigin:      func(*http.Request) bool { return true }, // whoever embeds the server does
		Error:            func(w http.ResponseWriter, _ *http.Request, _ int, _ error) { badRequest.answer(w) },
	}}, nil
}

// ServeHTTP serves a handshake, a request of a polling session, or an upgrade.
func (e *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if refusal := e.serve(w, r); refusal != nil {
		e.opt.Observer.Refused(refusal.Kind)
		refusal.answer(w)
	}
}

func (f *Refusal) answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(f.Status)
	_ = json.NewEncoder(w).Encode(f) // the client may be gone
}

func (e *Server) serve(w http.ResponseWriter, r *http.Request) *Refusal {
	query := r.URL.Query()
	transport, sid := query.Get("transport"), query.Get("sid")
	isSocket := websocket.IsWebSocketUpgrade(r)
	switch {
	case query.Get("EIO") != "4":
		return unsupported
	case transport != polling && transport != webSocket:
		return unknownTransport
	case query.Has("j"), transport == webSocket && !isSocket, transport == polling && isSocket:
		return badRequest
	case sid == "" && r.Method != http.MethodGet:
		return badMethod
	case sid == "":
		return e.open(w, r, transport)
	}
	e.mu.Lock()
	s := e.sessions[sid]
	e.mu.Unlock()
	switch { // one answer for a session that is gone and for one of somebody else
	case s == nil || !e.opt.Owns(s, r):
		return unknownSession
	case transport == webSocket:
		return s.upgrade(w, r)
	case s.ws.Load() != nil, s.gone.Load() && r.Method != http.MethodGet:
		return badRequest
	}
	return s.poll.serve(w, r)
}

// open begins a session.
func (e *Server) open(w http.ResponseWriter, r *http.Request, transport string) *Refusal {
	release, refusal := e.opt.Begin(r)
	if refusal != nil {
		return refusal
	}
	s := &Session{srv: e, id: newID(), remote: r.RemoteAddr, release: release}
	s.out.MaxMessages, s.out.MaxBytes = e.opt.QueueMessages, e.opt.QueueBytes
	if transport == polling {
		s.poll = newPoll(s)
	}
	s.handler = e.opt.Open(s, r)
	s.start()
	if !e.admit(s) {
		s.End(EndShutdown)
		return shuttingDown
	}
	if transport == polling {
		s.poll.handshake(w)
		return nil
	}
	return e.openSocket(s, w, r)
}

func (e *Server) openSocket(s *Session, w http.ResponseWriter, r *http.Request) *Refusal {
	conn, err := e.upgrader.Upgrade(w, r, nil)
	if err != nil { // answered
		e.opt.Observer.Refused(badRequest.Kind)
		s.End(endTransport)
		return nil
	}
	ws := newSocket(conn, e.opt.MaxPayload)
	s.ws.Store(ws)
	if s.gone.Load() { // it ended before there was a connection to close
		_ = conn.Close()
		return nil
	}
	s.Send(message(s.parameters(nil)))
	if !e.spawn(func() { s.read(ws) }) {
		s.End(EndShutdown)
	}
	return nil
}

// newID makes a session id of 128 random bits.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// admit takes note of a new session; false when the server is closing.
func (e *Server) admit(s *Session) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.sessions[s.id] = s
	return true
}

func (e *Server) forget(s *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.sessions, s.id)
}

// spawn runs fn as a goroutine that Close waits for; false when the server is closed.
func (e *Server) spawn(fn func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.work.Go(fn)
	return true
}

// Refuse lets no new sessions in from now on.
func (e *Server) Refuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closing = true
}

// Sessions are those that stand now, also those that nobody has authenticated yet.
func (e *Server) Sessions() []*Session {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.sessions))
}

const drainEvery = 10 * time.Millisecond // how often Close looks whether the queues are empty

// Close refuses new sessions, lets what is queued go out until ctx ends, and ends every session.
// When it returns, no goroutine of the server runs. It may be called again.
func (e *Server) Close(ctx context.Context) {
	e.Refuse()
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for slices.ContainsFunc(e.Sessions(), func(s *Session) bool { return !s.out.Idle() }) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	for _, s := range e.Sessions() {
		s.End(EndShutdown)
	}
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.work.Wait()
}
