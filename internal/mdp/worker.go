package mdp

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

// Handler answers one request of a worker. It may be asked the same twice, and should return
// when ctx ends. No body means one empty frame.
type Handler func(ctx context.Context, body zmq.Msg) zmq.Msg

// WorkerOptions are a worker's settings. Only Service and Endpoint have no default.
type WorkerOptions struct {
	Service      string
	Endpoint     string            // of the broker
	Heartbeat    time.Duration     // between heartbeats to the broker; default 2.5 s
	Liveness     int               // silent heartbeat intervals after which the broker is gone; default 3
	ReconnectMin time.Duration     // wait before registering anew, doubled up to ReconnectMax, jittered; default 100 ms
	ReconnectMax time.Duration     // default 5 s
	Curve        *zmq.CurveOptions // of a client; nil: a plain connection
	Log          *slog.Logger
}

func (o WorkerOptions) withDefaults() WorkerOptions {
	def(&o.Heartbeat, DefaultHeartbeat)
	def(&o.Liveness, DefaultLiveness)
	def(&o.ReconnectMin, 100*time.Millisecond)
	def(&o.ReconnectMax, 5*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Why a worker's session with the broker ended.
var (
	errSilent       = errors.New("the broker is silent")
	errDisconnected = errors.New("the broker sent DISCONNECT")
	errBusy         = errors.New("the broker sent a request while another one was under way")
)

// Worker is registered with one broker for one service.
type Worker struct {
	o      WorkerOptions
	handle Handler
	dial   func() (plug, error)
}

// NewWorker makes a worker that connects in Run. Errors are of kind Invalid.
func NewWorker(o WorkerOptions, handle Handler) (*Worker, error) {
	if _, err := question(o.Service, nil); err != nil {
		return nil, err
	}
	if isReserved(o.Service) {
		return nil, fault.Errorf("mdp", fault.Invalid, "%s is the broker's own to answer", o.Service)
	}
	w := &Worker{o: o.withDefaults(), handle: handle}
	w.dial = func() (plug, error) {
		s := zmq.New(zmq.Dealer, zmq.Options{MaxFrames: maxFrames, Linger: leaveTime, Curve: w.o.Curve})
		if err := s.Connect(w.o.Endpoint); err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		return s, nil
	}
	return w, nil
}

// Run answers requests until ctx ends, one at a time, and registers anew, on a fresh socket,
// whenever the broker is silent or says so. At the end it finishes the request in hand, if the
// handler does so within a heartbeat interval, and tells the broker. It returns nil after a
// clean end, an error of kind Invalid for a bad endpoint.
func (w *Worker) Run(ctx context.Context) error {
	wait, told := w.o.ReconnectMin, false
	for ctx.Err() == nil {
		s := session{o: w.o, handle: w.handle}
		err := s.run(ctx, w.dial)
		if fault.KindOf(err) == fault.Invalid {
			return err
		}
		if s.heard {
			wait, told = w.o.ReconnectMin, false
		}
		if !told && ctx.Err() == nil {
			w.o.Log.Warn("control plane lost; registering again", "as", w.o.Service, "broker", w.o.Endpoint, "error", err)
			told = true
		}
		rest(ctx, wait/2+rand.N(wait/2+1))
		wait = min(2*wait, w.o.ReconnectMax)
	}
	return nil
}

// rest waits for d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// session is one registration, from READY to its end.
type session struct {
	o      WorkerOptions
	handle Handler
	plug   plug
	heard  bool         // the broker has taken us
	told   time.Time    // when we last said something to it
	client []byte       // who asked the request in hand
	done   chan zmq.Msg // its answer; nil: no request is in hand
}

func (s *session) run(ctx context.Context, dial func() (plug, error)) error {
	var err error
	if s.plug, err = dial(); err != nil {
		return err
	}
	inner, stop := context.WithCancel(ctx)
	working, halt := context.WithCancel(context.WithoutCancel(ctx))
	in := zmq.Receive(inner, s.plug)
	err = s.serve(ctx, working, in)
	if ctx.Err() != nil {
		s.finish()
	}
	halt()
	if s.done != nil {
		<-s.done // the handler ends with its context
	}
	stop()
	for range in { // waits for the reader
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	if ctx.Err() == nil {
		cancel() // nothing more is for this broker
	}
	_ = s.plug.Close(closing) // what was not sent is of no use to anybody
	return err
}

func (s *session) serve(ctx, working context.Context, in <-chan zmq.Received) error {
	if err := s.say(ready, []byte(s.o.Service)); err != nil {
		return err
	}
	beat := time.NewTicker(s.o.Heartbeat / ticksPerBeat)
	defer beat.Stop()
	alive := time.Duration(s.o.Liveness) * s.o.Heartbeat
	patience := time.NewTimer(alive)
	defer patience.Stop()
	for {
		select {
		case got := <-in:
			if got.Err != nil || got.Msg == nil {
				return got.Err
			}
			patience.Reset(alive)
			if err := s.obey(working, got.Msg); err != nil {
				return err
			}
		case answer := <-s.done:
			if err := s.answer(answer); err != nil {
				return err
			}
		case <-beat.C:
			if time.Since(s.told) < s.o.Heartbeat {
				continue
			}
			if err := s.say(heartbeat); err != nil && !errors.Is(err, zmq.ErrWouldBlock) {
				return err
			}
		case <-patience.C:
			return errSilent
		case <-ctx.Done():
			return nil
		}
	}
}

// obey does what the broker says. An error ends the session.
func (s *session) obey(working context.Context, m zmq.Msg) error {
	o, err := readOrder(m)
	if err != nil {
		return fault.Errorf("mdp", fault.Corrupt, "the broker broke the Majordomo protocol: %w", err)
	}
	if !s.heard && o.command != disconnect {
		s.heard = true
		s.o.Log.Info("registered with the control plane", "as", s.o.Service, "broker", s.o.Endpoint)
	}
	switch {
	case o.command == disconnect:
		return errDisconnected
	case o.command == heartbeat:
		return nil
	case s.done != nil:
		return errBusy
	}
	done := make(chan zmq.Msg, 1) // room for the one answer, so that the handler's goroutine always ends
	s.client, s.done = o.client, done
	go func() { done <- s.handle(working, o.body) }()
	return nil
}

func (s *session) answer(body zmq.Msg) error {
	s.done = nil
	return s.say(reply, append(zmq.Msg{s.client, nil}, full(body)...)...)
}

// finish gives the request in hand a moment, and says goodbye.
func (s *session) finish() {
	if s.done != nil {
		t := time.NewTimer(s.o.Heartbeat)
		defer t.Stop()
		select {
		case answer := <-s.done:
			_ = s.answer(answer) // the broker notices the end anyway
		case <-t.C:
		}
	}
	_ = s.say(disconnect)
}

func (s *session) say(c command, args ...[]byte) error {
	err := s.plug.TrySend(toBroker(c, args...))
	if err == nil {
		s.told = time.Now()
	}
	return err
}
