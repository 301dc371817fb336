package socketio

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"hash/maphash"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	gsio "github.com/googollee/go-socket.io"
	"github.com/googollee/go-socket.io/engineio"
	"github.com/googollee/go-socket.io/engineio/transport"
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// Options of a Server. Verify and Hub must be set; every other zero value has a default.
type Options struct {
	// Verify says whose the token is. Its error is shown to the client.
	Verify func(ctx context.Context, token string) (User, error)
	// Sync answers the event "sync" of a client with what it missed. arg is its first argument,
	// valid JSON or nil. It runs on the connection's reading goroutine.
	Sync func(ctx context.Context, user string, arg json.RawMessage) Synced
	// Recover says what a connecting client missed; nil: nothing. It is called once the connection
	// is in the hub. What is live meanwhile waits until the client has what Recover returns.
	Recover func(ctx context.Context, user string, r Recovery) Recovered
	Hub     *hub.Hub

	Origins          []string      // allowed Origin headers such as https://app.example.com; "*": any; none: only clients that are no browsers
	PingInterval     time.Duration // how often a client pings; default 25 s
	PingTimeout      time.Duration // a client silent for this long is closed; default 60 s
	HandshakeTimeout time.Duration // for a polling client to come back; default 10 s
	WriteTimeout     time.Duration // for one write to a client; default 20 s
	SyncTimeout      time.Duration // also for Recover; default 10 s
	ExpiryWarning    time.Duration // how long before the token's end the client gets "token_expiring"; default 60 s
	QueueMessages    int           // events queued for a connection; default 1,024
	QueueBytes       int           // bytes queued for a connection; default 1 MiB
	HandshakeRate    int           // handshakes a second from one address, four times that in a burst; default 500
	PendingPolls     int           // unfinished polling handshakes from one address; default 256
	MaxPayload       int           // bytes of one message of an Engine.IO 4 client; default 64 KiB
	InboundRate      int           // packets a second from one connection, four times that in a burst; default 50
	Syncs            int           // syncs answered at the same time; default 64

	Registry prometheus.Registerer // nil: metrics are kept but not exported
	Log      *slog.Logger          // nil: nothing is logged
}

// pendingFactor times PendingPolls is the bound on unfinished polling handshakes in all.
const pendingFactor = 8

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
	set(&o.PingTimeout, 60*time.Second)
	set(&o.HandshakeTimeout, 10*time.Second)
	set(&o.WriteTimeout, 20*time.Second)
	set(&o.SyncTimeout, 10*time.Second)
	set(&o.ExpiryWarning, time.Minute)
	setInt(&o.QueueMessages, 1024)
	setInt(&o.QueueBytes, 1<<20)
	setInt(&o.HandshakeRate, 500)
	setInt(&o.PendingPolls, 256)
	setInt(&o.InboundRate, 50)
	setInt(&o.Syncs, 64)
	setInt(&o.MaxPayload, wire.MaxPacket)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Server is the http.Handler of the path /socket.io/. Safe for concurrent use.
type Server struct {
	opt     Options
	hub     *hub.Hub
	log     *slog.Logger
	metrics *metrics
	limits  *hub.Limiter
	pending *hub.Limiter // of Engine.IO 4, where also a websocket begins without a token
	engine  *gsio.Server // of Engine.IO 3
	old     http.Handler // the same
	vet     func([]byte) (wire.Verdict, error)
	modern  *engine.Server // of Engine.IO 4
	seed    maphash.Seed
	syncing chan struct{} // places for syncs under way

	ctx    context.Context // ends with the server
	cancel context.CancelFunc

	mu       sync.Mutex
	closing  bool
	sessions map[*session]struct{} // from the handshake on
	polls    map[string]*pollConn  // by session id
	peers    map[*peer]struct{}    // authenticated clients of Engine.IO 4
	work     sync.WaitGroup        // writers and the engine's accept loop
	opening  sync.WaitGroup        // handshakes the engine has in hand
}

// New starts a server; Close ends it. The error is of kind Invalid.
func New(o Options) (*Server, error) {
	if o.Verify == nil || o.Hub == nil {
		return nil, fault.Errorf("start socket.io", fault.Invalid, "Verify and Hub must be set")
	}
	o.defaults()
	if o.PingTimeout <= o.PingInterval {
		return nil, fault.Errorf("start socket.io", fault.Invalid, "the ping timeout %v must be longer than the ping interval %v", o.PingTimeout, o.PingInterval)
	}
	s := &Server{opt: o, hub: o.Hub, log: o.Log, metrics: newMetrics(o.Registry),
		limits:  hub.NewLimiter(o.HandshakeRate, o.PendingPolls, o.PendingPolls*pendingFactor),
		pending: hub.NewLimiter(o.HandshakeRate, o.PendingPolls*pendingFactor, o.PendingPolls*pendingFactor*pendingFactor),
		syncing: make(chan struct{}, o.Syncs), seed: maphash.MakeSeed(), vet: wire.Vet, peers: map[*peer]struct{}{},
		sessions: map[*session]struct{}{}, polls: map[string]*pollConn{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.engine = gsio.NewServer(&engineio.Options{
		PingInterval: o.PingInterval, PingTimeout: o.PingTimeout,
		SessionIDGenerator: randomID{},
		// Websocket first: the engine then offers no upgrade from polling, which it does badly.
		Transports: []transport.Transport{newWSTransport(s), &pollTransport{s}},
	})
	s.old = s.engine
	s.engine.OnConnect("/", func(c gsio.Conn) error {
		if a, ok := c.RemoteAddr().(sessionAddr); ok {
			c.Leave(c.ID()) // each connection's own room: leaving rooms at the end costs time by their number
			a.s.connected(c.ID())
		}
		return nil
	})
	s.engine.OnDisconnect("/", func(c gsio.Conn, _ string) {
		if a, ok := c.RemoteAddr().(sessionAddr); ok {
			a.s.end(endClient)
		}
	})
	s.engine.OnEvent("/", "sync", s.sync)
	s.engine.OnEvent("/", "refresh", s.refreshed)
	var err error
	if s.modern, err = s.newModern(); err != nil {
		return nil, err
	}
	s.spawn(func() { _ = s.engine.Serve() }) // ends with io.EOF when Close closes the engine
	return s, nil
}

// randomID makes session ids of 128 random bits.
type randomID struct{}

// NewID implements the engine's IDGenerator.
func (randomID) NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// raw is finished JSON. The engine walks over every byte of a slice, but not of a string.
type raw struct{ s string }

// MarshalJSON implements json.Marshaler.
func (r raw) MarshalJSON() ([]byte, error) { return []byte(r.s), nil }

// sync answers the event of a client of Engine.IO 3; its two results are the two arguments of the
// client's callback.
func (s *Server) sync(c gsio.Conn, arg json.RawMessage) (events, info raw) {
	a, ok := c.RemoteAddr().(sessionAddr)
	if !ok {
		return raw{"[]"}, raw{`{"complete":false}`}
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.SyncTimeout)
	defer cancel()
	return s.synced(ctx, a.s.done, a.s.user.ID, arg)
}

// synced waits for a place among the syncs under way, and answers one.
func (s *Server) synced(ctx context.Context, gone <-chan struct{}, user string, arg json.RawMessage) (events, info raw) {
	if s.opt.Sync == nil {
		return raw{"[]"}, raw{`{"complete":false}`}
	}
	began := time.Now()
	defer func() { s.metrics.syncs.Observe(time.Since(began).Seconds()) }()
	select {
	case s.syncing <- struct{}{}:
		defer func() { <-s.syncing }()
	case <-ctx.Done():
		return raw{"[]"}, raw{`{"complete":false,"error":"the bridge is busy"}`}
	case <-gone:
		return raw{"[]"}, raw{`{"complete":false}`}
	}
	done := s.opt.Sync(ctx, user, arg)
	return raw{joinArray(done.Events)}, raw{string(wire.AppendASCII(nil, orEmpty(done.Info)))}
}

// refreshed answers the event refresh of a client of Engine.IO 3.
func (s *Server) refreshed(c gsio.Conn, arg json.RawMessage) raw {
	a, ok := c.RemoteAddr().(sessionAddr)
	if !ok {
		return raw{string(refreshError("the connection has ended"))}
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.SyncTimeout)
	defer cancel()
	return raw{string(wire.AppendASCII(nil, s.refresh(ctx, &a.s.lease, arg)))}
}

func orEmpty(info []byte) []byte {
	if len(info) == 0 {
		return []byte("{}")
	}
	return info
}

func joinArray(values [][]byte) string {
	out := []byte{'['}
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = wire.AppendASCII(out, v)
	}
	return string(append(out, ']'))
}

// spawn runs fn as a goroutine that Close waits for; false when the server is closed.
func (s *Server) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.work.Go(fn)
	return true
}

// enter counts a handshake in; false when the server is closing.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.opening.Add(1)
	return true
}

// admit takes note of a session whose transport stands.
func (s *Server) admit(h *handshake, x *session) {
	h.session = x
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[x] = struct{}{}
}

// remember makes an announced session reachable.
func (s *Server) remember(x *session, id string) {
	s.metrics.connections.WithLabelValues(x.transport).Inc()
	s.hub.Add(member{x})
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.announced != nil {
		x.announced(id)
	}
}

// forget is the inverse of admit and remember.
func (s *Server) forget(x *session, id string, listed bool) {
	if listed {
		s.metrics.connections.WithLabelValues(x.transport).Dec()
		s.hub.Remove(member{x})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, x)
	delete(s.polls, id)
}

// Disconnect closes the connections of the users that match, each after the event "closing" with the reason, a word or two from a small set. It returns how many there were and does not
// wait for clients.
func (s *Server) Disconnect(match func(User) bool, reason string) int {
	n := 0
	for _, x := range s.leavers() {
		if match(x.holder()) {
			x.leave(reason, -1)
			n++
		}
	}
	return n
}

// leaver is a client of either protocol.
type leaver interface {
	holder() User
	// leave tells the client why it has to go, and in how long to come back unless that is
	// negative, and ends the connection.
	leave(reason string, retryAfter time.Duration)
}

func (s *session) holder() User { return s.lease.holder() }
func (p *peer) holder() User    { return p.lease.holder() }

// leavers are all clients that have authenticated.
func (s *Server) leavers() []leaver {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]leaver, 0, len(s.sessions)+len(s.peers))
	for x := range s.sessions {
		all = append(all, x)
	}
	for p := range s.peers {
		all = append(all, p)
	}
	return all
}

// Drain refuses new clients from now on and closes the connections one after the other, spread
// over the given time, so that their clients do not all connect elsewhere in one moment. It
// returns when the last is told to go or when ctx ends. Close is still needed after it.
func (s *Server) Drain(ctx context.Context, over time.Duration) {
	s.refuse()
	all := s.leavers()
	began := time.Now()
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for gone := 0; gone < len(all); {
		due := len(all)
		if passed := time.Since(began); passed < over {
			due = int(int64(len(all)) * int64(passed) / int64(over))
		}
		for ; gone < due; gone++ {
			all[gone].leave(endShutdown, mathrand.N(over+1))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const (
	drainEvery  = 10 * time.Millisecond // how often Close looks whether the queues are empty
	engineEnd   = 2 * time.Second       // for the engine's goroutines after their sessions ended
	engineEvery = time.Millisecond
)

// Close refuses new clients, lets what is queued go out until ctx ends, and closes every
// connection. When it returns nothing of the server runs. Clients connect again elsewhere by
// themselves. It may be called again.
func (s *Server) Close(ctx context.Context) {
	s.refuse()
	s.poll(ctx, drainEvery, func() bool {
		return !slices.ContainsFunc(s.snapshot(), busy) && !slices.ContainsFunc(s.modern.Sessions(), func(x *engine.Session) bool { return !x.Idle() })
	})
	for _, x := range s.snapshot() {
		x.end(endShutdown)
	}
	s.opening.Wait() // closing the engine under a handshake would panic
	for _, x := range s.snapshot() {
		x.end(endShutdown)
	}
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	ended, stop := context.WithCancel(ctx)
	stop()
	s.modern.Close(ended)
	_ = s.engine.Close()
	s.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), engineEnd)
	defer cancel()
	s.poll(ctx, engineEvery, func() bool { return s.engine.Count() == 0 })
}

// refuse lets no new clients in.
func (s *Server) refuse() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.modern.Refuse()
}

func busy(x *session) bool { return !x.out.Idle() }

func (s *Server) snapshot() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.sessions))
}

func (s *Server) poll(ctx context.Context, every time.Duration, done func() bool) {
	t := time.NewTicker(every)
	defer t.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
