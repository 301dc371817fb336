package zmq

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/zmtp"
)

const (
	writeChunk = 128 << 10 // bytes of messages gathered into one write
	writeBatch = 1024      // messages, likewise
	readBatch  = 256       // messages handed to the inbox at once
	readChunk  = 256 << 10 // bytes, likewise
)

// peer is one connection that finished its handshake, with its two queues.
type peer struct {
	s        *Socket
	conn     *zmtp.Conn
	dialer   *dialer // nil: accepted
	endpoint string
	remote   string
	identity string // as it announced it, or what a ROUTER calls it; set before the reader starts
	hash     uint64 // of what TrySendKey knows it by
	since    time.Time

	once  sync.Once
	err   error         // why it ended; set before ended is closed
	heard atomic.Uint64 // frames of the peer so far
	owed  *promise      // what its last PING with a TTL said; the reader's

	gone chan struct{} // closed when the connection is given up
	wake chan struct{} // the writer sleeps on it

	// Guarded by s.mu.
	live     bool
	idle     bool          // nobody writes: the writer sleeps
	claimed  bool          // a sender writes in its place
	begun    bool          // that sender leaves the rest of the batch to the writer
	wrote    time.Duration // when the last batch was taken by the network
	out      queue[item]
	outMsgs  int   // queued and in the hands of whoever writes
	outBytes int64 // likewise
	control  []byte
	ping     []byte // our newest unsent PING
	pong     []byte // the newest unanswered PING's answer
	pings    bool   // it sent one
	sent     uint64
	dropped  uint64
	mark     uint64 // stamp of the newest message published to it
	subBytes int64  // memory its subscriptions take

	// Of whoever writes.
	batch  []item // that the network is to take now
	head   []byte // control frames before it
	before int64  // bytes that those take on the wire
	taken  int64  // bytes of both that the network has taken

	// Guarded by s.in.mu.
	queued    queue[Msg]
	inBytes   int64
	scheduled bool // in s.in.ready
	received  uint64
	starved   bool          // the reader waits for room
	room      chan struct{} // it sleeps on it
}

func newPeer(s *Socket, c *zmtp.Conn, d *dialer, endpoint string) *peer {
	p := &peer{s: s, conn: c, dialer: d, endpoint: endpoint, remote: c.RemoteAddr().String(), identity: c.PeerIdentity, since: time.Now(),
		gone: make(chan struct{}), wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	if p.remote == "" || p.remote == "@" || c.RemoteAddr().Network() == "inproc" { // ends without an address
		p.remote = fmt.Sprintf("%s#%d", endpoint, s.serial.Add(1))
	}
	name := endpoint
	switch {
	case d != nil:
	case c.PeerIdentity != "":
		name = c.PeerIdentity
	default:
		name = p.remote
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	p.hash = h.Sum64()
	return p
}

// serve runs the connection until it ends. The error says why the socket did not take it.
func (p *peer) serve() error {
	if err := p.s.attach(p); err != nil {
		return err
	}
	p.s.emit(p.event(Connected, nil))
	written := make(chan struct{})
	go func() {
		defer close(written)
		p.abort(p.write())
	}()
	beaten := p.startBeat()
	p.abort(p.read())
	p.release()
	<-written
	<-beaten
	p.s.detach(p)
	return nil
}

// abort ends the connection for the given reason; the first reason counts.
func (p *peer) abort(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.gone)
		_ = p.conn.Close()
	})
}

// ended reports whether abort was called.
func (p *peer) ended() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// full reports whether the send queue has reached a bound. s.mu is held.
func (p *peer) full() bool {
	if p.s.opt.Conflate {
		return false
	}
	return p.outMsgs >= p.s.opt.SndHWM || p.outBytes >= int64(p.s.opt.SndBytes)
}

// push queues it without asking for room. s.mu is held.
func (p *peer) push(it item) {
	for p.s.opt.Conflate && p.out.len() > 0 {
		p.outBytes -= p.out.pop().size
		p.outMsgs--
		p.s.count.conflated++
	}
	p.out.push(it)
	p.outMsgs++
	p.outBytes += it.size
	p.rouse()
}

// rouse sees to it that what is queued gets written: by the sender who queues it, or by the
// writer. s.mu is held.
func (p *peer) rouse() {
	if !p.idle {
		return
	}
	p.idle = false
	if !p.s.claim(p) {
		p.wake <- struct{}{}
	}
}

// command queues bytes that are whole frames; they overtake messages. A peer that does not
// read while its subscriptions change for ever is given up. s.mu is held.
func (p *peer) command(b []byte) {
	if len(p.control) > p.s.opt.SndBytes {
		p.abort(fault.Errorf("zmq", fault.Overloaded, "%d bytes of subscriptions unread by the peer", len(p.control)))
		return
	}
	p.control = append(p.control, b...)
	p.rouse()
}

// write is the writer's loop: it takes what is queued, writes it at once, and sleeps when
// there is nothing.
func (p *peer) write() error {
	for p.take() {
		n, err := p.conn.Flush()
		p.taken += n
		if err != nil {
			p.s.mu.Lock()
			defer p.s.mu.Unlock()
			p.giveBack()
			return err
		}
	}
	return nil
}

// take accounts for the batch that was written and waits for the next one, which it prepares.
// False when the connection has ended.
func (p *peer) take() bool {
	s := p.s
	s.mu.Lock()
	p.settle()
	for !p.ended() && !p.begun && !p.pending() {
		p.idle = true
		p.rest()
	}
	if p.ended() {
		if p.begun {
			p.giveBack()
		}
		s.mu.Unlock()
		return false
	}
	if p.begun {
		p.begun = false
		s.mu.Unlock()
		return true
	}
	p.load()
	s.mu.Unlock()
	p.encode()
	return true
}

// rest sleeps, with s.mu held before and after, until there is something to write, or the
// connection has ended and no sender writes any more.
func (p *peer) rest() {
	p.s.mu.Unlock()
	select {
	case <-p.wake:
	case <-p.gone:
	}
	p.s.mu.Lock()
	if p.claimed {
		p.s.mu.Unlock()
		<-p.wake
		p.s.mu.Lock()
	}
	p.idle = false
}

// pending reports whether something is queued. s.mu is held.
func (p *peer) pending() bool {
	return p.out.len() > 0 || len(p.control) > 0 || p.pong != nil || p.ping != nil
}

// load takes the next batch from the queues. s.mu is held.
func (p *peer) load() {
	p.head = append(append(append(p.head[:0], p.control...), p.pong...), p.ping...)
	p.control, p.pong, p.ping = p.control[:0], nil, nil
	p.batch, p.taken = p.batch[:0], 0
	for bytes := int64(0); p.out.len() > 0 && bytes < writeChunk && len(p.batch) < writeBatch; {
		it := p.out.pop()
		bytes += it.size
		p.batch = append(p.batch, it)
	}
}

func (p *peer) encode() {
	p.before = p.conn.AppendRaw(p.head)
	for i := range p.batch {
		p.conn.Append(p.batch[i].msg)
	}
}

// settle books the batch, which the network has taken. s.mu is held.
func (p *peer) settle() {
	if p.begun {
		return
	}
	p.wrote = time.Since(p.since)
	if len(p.batch) == 0 {
		return
	}
	p.account(p.batch)
	clear(p.batch)
	p.batch = p.batch[:0]
	p.s.roomMade()
}

// account books messages that the kernel has taken. s.mu is held.
func (p *peer) account(written []item) {
	for i := range written {
		p.outBytes -= written[i].size
	}
	p.outMsgs -= len(written)
	p.sent += uint64(len(written))
	p.s.count.sent += uint64(len(written))
}

// giveBack sorts a batch whose write failed: whole messages that the network has taken are sent,
// the others go back to the queue's head. s.mu is held.
func (p *peer) giveBack() {
	n := p.taken - p.before
	done := 0
	for ; done < len(p.batch); done++ {
		if n -= p.conn.WireSize(p.batch[done].msg); n < 0 {
			break
		}
	}
	p.account(p.batch[:done])
	for i := len(p.batch) - 1; i >= done; i-- {
		p.out.pushFront(p.batch[i])
	}
	p.batch, p.begun = nil, false
}

// read is the reader's loop: it hands over what has arrived, in batches as large as the
// buffer holds, and stops reading while the receive queue is full.
func (p *peer) read() error {
	limit := min(readBatch, p.s.opt.RcvHWM)
	batch := make([]Msg, 0, limit)
	bytes := int64(0)
	for {
		raw, cmd, err := p.conn.Next()
		p.heard.Add(1)
		var m Msg
		switch {
		case err != nil:
		case cmd != nil:
			m, err = p.obey(cmd)
		default:
			m, err = p.s.pat.inbound(p, raw)
		}
		if m != nil {
			batch = append(batch, m)
			bytes += newItem(m).size
		}
		if err == nil && len(batch) < limit && bytes < readChunk && p.conn.Pending() {
			continue
		}
		if len(batch) > 0 && !p.s.in.deliver(p, batch) {
			return nil
		}
		if err != nil {
			return err
		}
		clear(batch)
		batch, bytes = batch[:0], 0
	}
}

// obey carries out a command of the peer. Unknown ones are ignored (RFC 37). The message, if
// any, is for the application.
func (p *peer) obey(cmd *zmtp.Command) (Msg, error) {
	switch cmd.Name {
	case zmtp.Ping:
		return nil, p.answer(cmd)
	case zmtp.Subscribe, zmtp.Cancel:
		if pub, ok := p.s.pat.(*publisher); ok {
			return pub.subscribe(p, string(cmd.Body), cmd.Name == zmtp.Subscribe)
		}
	case zmtp.Error:
		return nil, zmtp.Refusal(cmd)
	}
	return nil, nil
}

// subscription tells the peer of a topic as its version has it.
func (p *peer) subscription(topic string, on bool) {
	switch {
	case !p.conn.Modern:
		p.command(zmtp.EncodeSubscription(topic, on))
	case on:
		p.command(zmtp.EncodeCommand(zmtp.Subscribe, []byte(topic)))
	default:
		p.command(zmtp.EncodeCommand(zmtp.Cancel, []byte(topic)))
	}
}

// reason is why the connection ended, nil when the peer or we closed it in good order.
func (p *peer) reason() error {
	if p.err == nil || errors.Is(p.err, io.EOF) || errors.Is(p.err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("connection to %s: %w", p.remote, p.err)
}

func (p *peer) event(k EventKind, err error) Event {
	return Event{Kind: k, Endpoint: p.endpoint, Remote: p.remote, PeerType: p.conn.PeerType, Identity: p.identity, Err: err}
}

// attach makes p one of the socket's peers unless the socket is closed or its pattern refuses.
func (s *Socket) attach(p *peer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted || p.dialer != nil && p.dialer.dropped {
		return ErrClosed
	}
	if err := s.pat.attach(p); err != nil {
		return err
	}
	p.live = true
	s.peers = append(s.peers, p)
	s.count.connects++
	s.roomMade()
	return nil
}

// detach lets the pattern keep what p did not send, and counts the rest as dropped.
func (s *Socket) detach(p *peer) {
	s.mu.Lock()
	p.live = false
	for i, q := range s.peers {
		if q == p {
			s.peers = append(s.peers[:i:i], s.peers[i+1:]...)
			break
		}
	}
	s.count.disconnects++
	unsent := p.out
	p.out, p.outMsgs, p.outBytes = queue[item]{}, 0, 0
	s.pat.detach(p, &unsent)
	s.count.dropped += uint64(unsent.len())
	protocol := errors.Is(p.err, ErrProtocol)
	if protocol {
		s.count.protocolErrors++
	}
	s.roomMade()
	s.mu.Unlock()
	s.in.nudge()
	if protocol {
		s.emit(p.event(ProtocolError, p.reason()))
	}
	s.emit(p.event(Disconnected, p.reason()))
}
