package zmq

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/fault"
)

const proxyBatch = 256 // messages moved under one lock

// What Proxy's control socket understands, as one frame.
const (
	ProxyPause      = "PAUSE"
	ProxyResume     = "RESUME"
	ProxyTerminate  = "TERMINATE"
	ProxyStatistics = "STATISTICS"
)

// Proxy moves messages between front and back, each way that their types have: ROUTER and DEALER
// make a queue, XSUB and XPUB a forwarder, PULL and PUSH a streamer. Order is kept each way. It
// waits for a slow PUSH or DEALER; what a ROUTER's peer has no room for, or was for one that left,
// is dropped and counted in the ROUTER's Stats.
//
// A capture socket that is not nil gets a copy of every message; when it has no room the copy is
// dropped and counted there. A control socket that is not nil takes ProxyPause (messages wait at
// the edges), ProxyResume, ProxyTerminate, and ProxyStatistics, which it answers with eight frames
// of a native 64-bit number: messages and bytes received from front, sent to front, received from
// back, sent to back. A REP as control answers the others with an empty frame, and a word it does
// not know with "UNKNOWN".
//
// It returns nil when ctx ends or after ProxyTerminate, and an error when a socket is closed or
// the types (REQ and REP among them) have no way between them. It closes no socket.
func Proxy(ctx context.Context, front, back, capture, control *Socket) error {
	p := &proxy{capture: capture, running: make(chan struct{})}
	close(p.running)
	g, inner := errgroup.WithContext(ctx)
	ways := 0
	for _, w := range []way{{front, back, &p.flows[0], &p.flows[3]}, {back, front, &p.flows[2], &p.flows[1]}} {
		if gives[w.from.typ] && takes[w.to.typ] {
			ways++
			g.Go(func() error { return p.pump(inner, w) })
		}
	}
	if ways == 0 {
		return fault.Errorf("zmq.Proxy", fault.Invalid, "no way between %s and %s", front.typ, back.typ)
	}
	if control != nil {
		g.Go(func() error { return p.steer(inner, control) })
	}
	if err := g.Wait(); ctx.Err() == nil && !errors.Is(err, errTerminated) {
		return err
	}
	return nil
}

// Forward is Proxy between publishers, which front (XSUB) hears, and subscribers, whom back
// (XPUB) feeds: messages go front to back, and the first and last subscription of each topic goes
// back to front, also to publishers that come later. It returns nil when ctx ends and an error
// when a socket is closed or of another type. It closes neither.
func Forward(ctx context.Context, front, back *Socket) error {
	if front.typ != XSub || back.typ != XPub {
		return fault.Errorf("zmq.Forward", fault.Invalid, "want XSUB and XPUB, not %s and %s", front.typ, back.typ)
	}
	return Proxy(ctx, front, back, nil, nil)
}

var errTerminated = errors.New("proxy was told to end")

// gives and takes say which types a proxy can receive from and send to.
var (
	gives = [...]bool{Pull: true, Sub: true, XPub: true, XSub: true, Dealer: true, Router: true, Pair: true}
	takes = [...]bool{Push: true, Pub: true, XPub: true, XSub: true, Dealer: true, Router: true, Pair: true}
)

// proxy is one running Proxy.
type proxy struct {
	capture *Socket
	flows   [4]flow // in the order of the statistics

	mu      sync.Mutex
	paused  bool
	running chan struct{} // closed while messages move
}

type flow struct{ messages, bytes atomic.Uint64 }

func (f *flow) add(messages, bytes uint64) {
	f.messages.Add(messages)
	f.bytes.Add(bytes)
}

// way is one of a proxy's directions.
type way struct {
	from, to *Socket
	in, out  *flow
}

// pump moves messages until ctx ends. What it has taken by then it hands on if there is room.
func (p *proxy) pump(ctx context.Context, w way) error {
	batch := make([]Msg, 0, proxyBatch)
	for {
		var err error
		if batch, err = w.from.recvBatch(ctx, batch[:0]); err != nil {
			return err
		}
		w.in.add(uint64(len(batch)), volume(batch...))
		err = p.pass(ctx)
		p.copy(batch)
		messages, bytes, failed := w.to.relay(ctx, batch)
		w.out.add(messages, bytes)
		clear(batch)
		if err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
	}
}

func volume(batch ...Msg) (bytes uint64) {
	for _, m := range batch {
		for _, f := range m {
			bytes += uint64(len(f))
		}
	}
	return bytes
}

// pass waits while the proxy is paused.
func (p *proxy) pass(ctx context.Context) error {
	p.mu.Lock()
	running := p.running
	p.mu.Unlock()
	select {
	case <-running:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// copy gives the capture socket its own slices of frames; the frames themselves never change.
func (p *proxy) copy(batch []Msg) {
	if p.capture == nil {
		return
	}
	for _, m := range batch {
		if err := p.capture.TrySend(slices.Clone(m)); err != nil {
			p.capture.lose()
		}
	}
}

// recvBatch waits for one message and takes what else is there.
func (s *Socket) recvBatch(ctx context.Context, dst []Msg) ([]Msg, error) {
	if _, own := s.pat.(receiver); !own {
		return s.in.popBatch(ctx, dst)
	}
	m, err := s.Recv(ctx)
	if err != nil {
		return dst, err
	}
	return append(dst, m), nil
}

// relay sends a batch as a proxy does and says what of it was taken; the rest is counted as
// dropped. An error means that the proxy cannot go on.
func (s *Socket) relay(ctx context.Context, batch []Msg) (messages, bytes uint64, err error) {
	s.mu.Lock()
	defer s.unlock()
	s.claims.welcome = len(batch) <= directBatch
	for _, m := range batch {
		failed := s.sendLocked(newItem(m))
		if failed != nil && s.typ != Router && errors.Is(failed, ErrWouldBlock) {
			s.unlock()
			failed = s.Send(ctx, m)
			s.mu.Lock()
		}
		if failed == nil {
			messages++
			bytes += volume(m)
			continue
		}
		switch fault.KindOf(failed) {
		case fault.Overloaded, fault.NotFound, fault.Invalid, fault.TooLarge: // this message only
		default:
			err = failed
		}
		s.count.dropped++
	}
	return messages, bytes, err
}

// lose counts a message that never got into a queue.
func (s *Socket) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count.dropped++
}

// steer obeys the control socket.
func (p *proxy) steer(ctx context.Context, control *Socket) error {
	for {
		m, err := control.Recv(ctx)
		if err != nil {
			return err
		}
		word := string(m[0])
		answer := Msg{nil}
		switch word {
		case ProxyPause:
			p.pause(true)
		case ProxyResume:
			p.pause(false)
		case ProxyStatistics:
			answer = p.statistics()
		case ProxyTerminate:
		default:
			answer = Msg{[]byte("UNKNOWN")}
		}
		if word == ProxyStatistics || control.typ == Rep {
			if err := control.Send(ctx, answer); err != nil {
				return err
			}
		}
		if word == ProxyTerminate {
			return errTerminated
		}
	}
}

func (p *proxy) pause(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == on {
		return
	}
	p.paused = on
	if on {
		p.running = make(chan struct{})
	} else {
		close(p.running)
	}
}

func (p *proxy) statistics() Msg {
	m := make(Msg, 0, 2*len(p.flows))
	for i := range p.flows {
		for _, n := range []uint64{p.flows[i].messages.Load(), p.flows[i].bytes.Load()} {
			m = append(m, binary.NativeEndian.AppendUint64(nil, n))
		}
	}
	return m
}
