package clone

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
)

const (
	// DefaultHeartbeat is the time between two HUGZ, as CHP has it.
	DefaultHeartbeat = time.Second

	maxBatch  = 64          // changes that share one write of the state file
	closeTime = time.Second // for the last messages to leave, at the end
)

// Endpoints are the three sockets of a server.
type Endpoints struct{ Snapshot, Updates, Changes string }

// ServerOptions are a server's settings. Only the endpoints have no default.
type ServerOptions struct {
	Endpoints
	File      string            // of the state; empty: it is kept in memory only. Its directory must exist
	Heartbeat time.Duration     // default 1 s
	Curve     *zmq.CurveOptions // of the server; nil: plain connections
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

func (o ServerOptions) withDefaults() ServerOptions {
	if o.Heartbeat <= 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server is a bound server; Run serves.
type Server struct {
	o                         ServerOptions
	snapshot, updates, change *zmq.Socket
	at                        Endpoints

	store *store
	m     *serverMetrics
	log   *quiet.Logger
}

// Listen reads the state file and binds the three sockets. Errors are of kind Corrupt for a
// damaged file, which stays as it is, Invalid for a bad endpoint, Unavailable for one that is
// taken or a file that cannot be written.
func Listen(ctx context.Context, o ServerOptions) (*Server, error) {
	o = o.withDefaults()
	s := &Server{o: o, store: newStore(), log: quiet.New(o.Log, time.Second)}
	if o.File != "" {
		var err error
		if s.store, err = load(o.File); err != nil {
			return nil, err
		}
		if err := save(o.File, s.store); err != nil { // now rather than at the first change
			return nil, err
		}
	}
	monitor := zmq.LogMonitor(o.Log)
	room := 2*MaxKeys + 1
	s.snapshot = zmq.New(zmq.Router, zmq.Options{SndHWM: room, SndBytes: 2 * MaxBytes, MaxFrame: MaxValue + 1, MaxFrames: 8,
		RcvBytes: MaxValue, RcvHWM: 16, Linger: closeTime, Curve: o.Curve, Monitor: monitor})
	s.updates = zmq.New(zmq.Pub, zmq.Options{SndHWM: room, SndBytes: MaxBytes, Linger: closeTime, Curve: o.Curve, Monitor: monitor})
	s.change = zmq.New(zmq.Pull, zmq.Options{MaxFrame: MaxValue + 1, MaxFrames: 5, RcvBytes: 4 * MaxValue, Curve: o.Curve, Monitor: monitor})
	var err error
	for _, b := range []struct {
		socket   *zmq.Socket
		endpoint string
		at       *string
	}{{s.snapshot, o.Snapshot, &s.at.Snapshot}, {s.updates, o.Updates, &s.at.Updates}, {s.change, o.Changes, &s.at.Changes}} {
		if *b.at, err = b.socket.Bind(ctx, b.endpoint); err != nil {
			return nil, errors.Join(fault.E("bind "+b.endpoint, fault.KindOf(err), err), s.Close())
		}
	}
	s.m = newServerMetrics(o.Metrics)
	s.count()
	return s, nil
}

// Endpoints are where clients connect, with the actual ports.
func (s *Server) Endpoints() Endpoints { return s.at }

// Close releases the sockets of a Server that Run never served.
func (s *Server) Close() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return s.close(ended)
}

func (s *Server) close(ctx context.Context) error {
	return errors.Join(s.change.Close(ctx), s.snapshot.Close(ctx), s.updates.Close(ctx))
}

// Run serves until ctx ends and closes the sockets. It returns nil after a clean end. Call it
// once.
func (s *Server) Run(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	asked, changed := zmq.Receive(reading, s.snapshot), zmq.Receive(reading, s.change)
	err := s.serve(ctx, asked, changed)
	stop()
	for range asked { // waits for the readers
	}
	for range changed {
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if late := s.close(closing); late != nil {
		s.o.Log.Debug("a client of the clone did not take its last messages", "error", late)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fault.E("clone", fault.KindOf(err), err)
}

func (s *Server) serve(ctx context.Context, asked, changed <-chan zmq.Received) error {
	beat := time.NewTicker(s.o.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case got := <-asked:
			if got.Err != nil {
				return got.Err
			}
			s.answer(got.Msg)
		case got := <-changed:
			if got.Err != nil {
				return got.Err
			}
			s.batch(got.Msg, changed)
		case now := <-beat.C:
			s.expire(now)
			s.publish(s.store.heartbeat())
		case <-ctx.Done():
			return nil
		}
	}
}

// answer sends a snapshot. A client that does not take all of it gets no KTHXBAI.
func (s *Server) answer(m zmq.Msg) {
	if len(m) == 0 {
		return
	}
	subtree, err := decodeRequest(m[1:])
	if err != nil {
		s.refuse("request for a snapshot", err)
		return
	}
	for _, v := range s.store.snapshot(subtree, time.Now()) {
		if err := s.snapshot.TrySend(append(zmq.Msg{m[0]}, v.encode()...)); err != nil {
			s.m.cut.Inc()
			s.log.Warn("a client did not take its snapshot", "error", err.Error())
			return
		}
	}
	s.m.snapshots.Inc()
}

func (s *Server) refuse(what string, err error) {
	s.m.bad.WithLabelValues(reason(err)).Inc()
	s.log.Warn("refused by the clone", "what", what, "reason", err.Error())
}

// batch makes the change and those that wait behind it, saves once and publishes them.
func (s *Server) batch(first zmq.Msg, more <-chan zmq.Received) {
	next, now := s.store.clone(), time.Now()
	var done []message
	add := func(frames zmq.Msg) {
		m, err := decode(frames)
		if err == nil {
			m, err = next.apply(m, now)
		}
		if err != nil {
			s.refuse("change", err)
			return
		}
		done = append(done, m)
	}
	add(first)
	for range maxBatch - 1 {
		select {
		case got := <-more:
			if got.Err == nil {
				add(got.Msg)
			}
			continue
		default:
		}
		break
	}
	if s.commit(next, done) {
		s.m.changes.Add(float64(len(done)))
	}
}

// expire deletes what is over. What cannot be saved is tried again at the next heartbeat.
func (s *Server) expire(now time.Time) {
	if !s.store.due(now) {
		return
	}
	next := s.store.clone()
	done := next.expire(now)
	if s.commit(next, done) {
		s.m.expired.Add(float64(len(done)))
	}
}

// commit makes next the state, on disk first, and tells the clients. Otherwise nothing changes.
func (s *Server) commit(next *store, done []message) bool {
	if len(done) == 0 {
		return false
	}
	if s.o.File != "" {
		if err := save(s.o.File, next); err != nil {
			s.m.unsaved.Add(float64(len(done)))
			s.log.Warn("changes of the clone are refused: they cannot be saved", "changes", len(done), "error", err.Error())
			return false
		}
	}
	s.store = next
	s.count()
	for _, m := range done {
		s.publish(m)
	}
	return true
}

func (s *Server) count() {
	s.m.keys.Set(float64(len(s.store.entries)))
	s.m.sequence.Set(float64(s.store.seq))
}

// publish never waits: a client whose queue is full notices the gap.
func (s *Server) publish(m message) {
	if err := s.updates.TrySend(m.encode()); err != nil {
		s.log.Warn("an update was not published; clients ask for a snapshot", "error", err.Error())
	}
}
