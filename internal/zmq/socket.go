package zmq

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"eventspine/internal/fault"
)

// pattern is what differs between socket types. All methods but inbound are called with the
// socket's mu held; inbound is called by the goroutine that reads p, without it.
type pattern interface {
	attach(p *peer) error                            // p finished its handshake; an error refuses it
	detach(p *peer, unsent *queue[item])             // p ended; what unsent holds afterwards is lost and counted
	send(it item) error                              // ErrWouldBlock: nothing was done, call again when there is room
	room()                                           // some peer's queue has become shorter
	inbound(p *peer, m Msg) (deliver Msg, err error) // nil deliver: not for the application; an error ends p
}

// Socket is one ZeroMQ socket: any number of listeners, dialled endpoints and peers. All
// methods are safe for concurrent use.
type Socket struct {
	typ Type
	opt Options
	pat pattern
	in  inbox

	serial  atomic.Uint64      // of peers that have no address
	stop    context.CancelFunc // ends dials and waits
	stopped context.Context
	wg      sync.WaitGroup // every goroutine of the socket

	mu        sync.Mutex
	closing   bool // no more Send, Recv, Bind, Connect
	halted    bool // no more connections either
	drained   chan struct{}
	done      chan struct{} // closed when Close has finished
	listeners []listener
	conns     map[net.Conn]struct{} // all open ones, also before their handshake ended
	peers     []*peer
	dialers   []*dialer
	waiters   int           // Sends that wait for room
	roomy     chan struct{} // closed to wake them
	marks     uint64        // stamp of the newest published message
	claims    claims
	count     counters
}

// New makes a socket of type t without any connection. It panics when t is not one of the
// constants, as that is a mistake in the program.
func New(t Type, o Options) *Socket {
	s := &Socket{typ: t, opt: o.withDefaults(), conns: map[net.Conn]struct{}{},
		drained: make(chan struct{}), done: make(chan struct{}), roomy: make(chan struct{})}
	s.opt.Conflate = s.opt.Conflate && conflatable[t]
	s.opt.Verbose = s.opt.Verbose && t == XPub
	s.in.init()
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.pat = newPattern(s)
	return s
}

func newPattern(s *Socket) pattern {
	switch s.typ {
	case Push, Dealer, Pair:
		return &pusher{s: s}
	case Pull:
		return &puller{s: s}
	case Pub, XPub:
		return &publisher{s: s}
	case Sub, XSub:
		return &subscriber{s: s}
	case Req:
		return &requester{s: s}
	case Rep:
		return &replier{s: s}
	case Router:
		return newRouter(s)
	}
	panic("zmq: unknown socket type")
}

// Send hands m to the socket. PUSH, DEALER, PAIR and REQ wait until a peer has room or ctx ends;
// PUB and XPUB never wait but drop and count for each subscriber that is full; REP answers the
// request Recv gave, dropping and counting when the asker is gone. ROUTER takes the first frame
// off and sends the rest to the peer of that identity: ErrUnroutable when there is none, and it
// waits while that peer is full, unless Options.RouterDrop says to drop and count both. A nil
// error means that m is queued, not that it arrived. After an error the message was not taken.
func (s *Socket) Send(ctx context.Context, m Msg) error {
	it, err := s.check(m)
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.lock()
		err := s.sendLocked(it)
		if err == nil || !errors.Is(err, ErrWouldBlock) {
			s.unlock()
			return err
		}
		s.waiters++
		roomy := s.roomy
		s.unlock()
		select {
		case <-roomy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TrySend is Send that never waits: ErrWouldBlock when Send would.
func (s *Socket) TrySend(m Msg) error {
	it, err := s.check(m)
	if err != nil {
		return err
	}
	s.lock()
	defer s.unlock()
	return s.sendLocked(it)
}

// TrySendAll is TrySend of each, in order, and writes them together where nothing else is being written.
// It stops at the first error and says how many were taken before it.
func (s *Socket) TrySendAll(all []Msg) (taken int, err error) {
	s.mu.Lock()
	defer s.unlock()
	s.claims.welcome = len(all) <= directBatch
	for _, m := range all {
		it, err := s.check(m)
		if err == nil {
			err = s.sendLocked(it)
		}
		if err != nil {
			return taken, err
		}
		taken++
	}
	return taken, nil
}

// TrySendExact sends m to those peers that subscribed to exactly this topic, which m has to begin
// with, and to none that subscribed to a beginning of it only: a second form of a message, which who
// takes everything has in its first form. It never waits. PUB and XPUB only.
func (s *Socket) TrySendExact(topic string, m Msg) error {
	pub, ok := s.pat.(*publisher)
	if !ok {
		return wrongType("TrySendExact", s.typ)
	}
	it, err := s.check(m)
	if err != nil {
		return err
	}
	s.lock()
	defer s.unlock()
	if s.closing {
		return ErrClosed
	}
	pub.hits = pub.index.Exact(topic, pub.hits[:0])
	pub.offer(it)
	return nil
}

// TrySendKey sends m to the live peer that a rendezvous hash of key over the peers' endpoints
// chooses, so that messages of equal keys go to one peer in order while the set of live peers
// stays as it is. ErrWouldBlock when that peer is full (no other one is taken) or no peer is
// live. Unsent messages of a peer that dies go to the peer their key chooses then. PUSH only.
func (s *Socket) TrySendKey(key uint64, m Msg) error {
	if s.typ != Push {
		return wrongType("TrySendKey", s.typ)
	}
	it, err := s.check(m)
	if err != nil {
		return err
	}
	it.key, it.keyed = key, true
	s.lock()
	defer s.unlock()
	return s.sendLocked(it)
}

func (s *Socket) sendLocked(it item) error {
	if s.closing {
		return ErrClosed
	}
	return s.pat.send(it)
}

// check refuses what our own limits would make a peer refuse.
func (s *Socket) check(m Msg) (item, error) {
	if len(m) == 0 {
		return item{}, fault.Errorf("zmq.Send", fault.Invalid, "message without frames")
	}
	if len(m) > s.opt.MaxFrames {
		return item{}, fault.Errorf("zmq.Send", fault.TooLarge, "message of %d frames, the limit is %d", len(m), s.opt.MaxFrames)
	}
	for _, f := range m {
		if int64(len(f)) > s.opt.MaxFrame {
			return item{}, fault.Errorf("zmq.Send", fault.TooLarge, "frame of %d bytes, the limit is %d", len(f), s.opt.MaxFrame)
		}
	}
	return newItem(m), nil
}

// receiver is a pattern that has more to do in Recv than to take the next message.
type receiver interface {
	recv(ctx context.Context) (Msg, error)
}

// Recv waits for the next message, taking the peers in turn, until ctx ends. XPUB gives
// subscriptions too: one frame, 1 (on) or 0 (off) and the topic, only when the first
// subscriber of a topic comes or the last one goes. ROUTER puts a frame before each message: the
// identity its peer announced, or five bytes beginning with zero made for it. REQ gives the answer to the request sent
// last; when ctx ends first, the request is given up and a new one may be sent.
func (s *Socket) Recv(ctx context.Context) (Msg, error) {
	if r, ok := s.pat.(receiver); ok {
		return r.recv(ctx)
	}
	if s.typ == Push {
		return nil, wrongType("Recv", s.typ)
	}
	_, m, err := s.in.pop(ctx)
	return m, err
}

// TryRecv gives the next message if one has arrived, and nil without an error otherwise; it never
// waits. SUB, XSUB and PULL only.
func (s *Socket) TryRecv() (Msg, error) {
	if s.typ != Sub && s.typ != XSub && s.typ != Pull {
		return nil, wrongType("TryRecv", s.typ)
	}
	return s.in.tryPop()
}

// Subscribe asks for the messages that begin with topic, from every publisher now and later
// connected; "" means all. Repeats are counted. SUB and XSUB only.
func (s *Socket) Subscribe(topic string) error { return s.subscribe("Subscribe", topic, true) }

// Unsubscribe takes one Subscribe of the same topic back. SUB and XSUB only.
func (s *Socket) Unsubscribe(topic string) error { return s.subscribe("Unsubscribe", topic, false) }

func (s *Socket) subscribe(op, topic string, on bool) error {
	sub, ok := s.pat.(*subscriber)
	if !ok {
		return wrongType(op, s.typ)
	}
	if int64(len(topic)) >= s.opt.MaxFrame {
		return fault.Errorf("zmq."+op, fault.TooLarge, "topic of %d bytes", len(topic))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrClosed
	}
	sub.change(topic, on)
	return nil
}

// roomMade is called when a queue has become shorter or a peer has come.
func (s *Socket) roomMade() {
	s.pat.room()
	s.wakeSenders()
	s.checkDrained()
}

func (s *Socket) wakeSenders() {
	if s.waiters > 0 {
		s.waiters = 0
		close(s.roomy)
		s.roomy = make(chan struct{})
	}
}
