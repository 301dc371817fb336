package zmq

import (
	"context"
	"errors"
	"slices"

	"eventspine/internal/fault"
)

var errGivenUp = fault.E("zmq", fault.Unavailable, errors.New("request given up"))

// requester is REQ: one request, then its answer. A request that is given up takes its
// connection along, so that its late answer can never be taken for the next one's.
type requester struct {
	s     *Socket
	asked *peer // nil: a request may be sent
	next  int
}

func (u *requester) attach(*peer) error         { return nil }
func (u *requester) detach(*peer, *queue[item]) {}
func (u *requester) room()                      {}

func (u *requester) send(it item) error {
	if u.asked != nil {
		return ErrState
	}
	for i := range u.s.peers {
		at := (u.next + i) % len(u.s.peers)
		if p := u.s.peers[at]; !p.full() && !p.ended() {
			u.next = at + 1
			u.asked = p
			u.s.count.discarded += uint64(u.s.in.flush()) // what was said before can be no answer
			p.push(newItem(append(Msg{nil}, it.msg...)))
			return nil
		}
	}
	return ErrWouldBlock
}

// inbound takes the empty delimiter off (RFC 28); what has none is no answer.
func (u *requester) inbound(_ *peer, m Msg) (Msg, error) {
	if len(m) < 2 || len(m[0]) != 0 {
		return nil, fault.Errorf("zmq", fault.Corrupt, "%w: answer without an empty delimiter", ErrProtocol)
	}
	return m[1:], nil
}

func (u *requester) recv(ctx context.Context) (Msg, error) {
	u.s.mu.Lock()
	asked := u.asked
	u.s.mu.Unlock()
	if asked == nil {
		return nil, ErrState
	}
	m, err := u.answer(ctx, asked)
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.asked != asked {
		return nil, ErrState // another Recv took it
	}
	u.asked = nil
	if ctx.Err() != nil && err != nil {
		asked.giveUp()
	}
	return m, err
}

// giveUp ends the connection on which an answer is no longer wanted; a new one is dialled at
// once. s.mu is held.
func (p *peer) giveUp() {
	if !p.live {
		return
	}
	if p.dialer != nil {
		p.dialer.soon = true
	}
	p.abort(errGivenUp)
}

// Reset frees a REQ or REP socket that is out of turn: an open request is given up, with its
// connection on the REQ side so that a late answer is never taken for another's, and unanswered
// on the REP side. Other types need none and get Invalid.
func (s *Socket) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch u := s.pat.(type) {
	case *requester:
		if u.asked != nil {
			u.asked.giveUp()
			u.asked = nil
		}
	case *replier:
		u.asker, u.envelope = nil, nil
	default:
		return wrongType("Reset", s.typ)
	}
	return nil
}

// answer waits for the first message of the asked peer and throws others away: nobody asked.
func (u *requester) answer(ctx context.Context, asked *peer) (Msg, error) {
	b := &u.s.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.closed {
			return nil, ErrClosed
		}
		switch p, m := b.take(); {
		case p == asked:
			return m, nil
		case p != nil:
			continue
		}
		if asked.ended() {
			return nil, fault.Errorf("zmq.Recv", fault.Unavailable, "%s went away before it answered", asked.remote)
		}
		if err := b.sleep(ctx); err != nil {
			return nil, err
		}
	}
}

// replier is REP: one request, then the answer to whoever asked it.
type replier struct {
	s        *Socket
	asker    *peer // nil: no request is open
	envelope Msg   // frames up to the empty delimiter, which go back first
}

func (u *replier) attach(*peer) error         { return nil }
func (u *replier) detach(*peer, *queue[item]) {}
func (u *replier) room()                      {}

func (u *replier) send(it item) error {
	if u.asker == nil {
		return ErrState
	}
	p := u.asker
	m := slices.Concat(u.envelope, it.msg)
	u.asker, u.envelope = nil, nil
	if !p.live || p.full() {
		p.dropped++
		u.s.count.dropped++
		return nil
	}
	p.push(newItem(m))
	return nil
}

func (u *replier) inbound(_ *peer, m Msg) (Msg, error) {
	if _, ok := split(m); !ok {
		return nil, fault.Errorf("zmq", fault.Corrupt, "%w: request without an empty delimiter", ErrProtocol)
	}
	return m, nil
}

func (u *replier) recv(ctx context.Context) (Msg, error) {
	if u.busy() {
		return nil, ErrState
	}
	p, m, err := u.s.in.pop(ctx)
	if err != nil {
		return nil, err
	}
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.asker != nil { // two Recvs at once: the second one's request is lost
		u.s.count.dropped++
		return nil, ErrState
	}
	at, _ := split(m)
	u.asker, u.envelope = p, m[:at:at]
	return m[at:], nil
}

func (u *replier) busy() bool {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	return u.asker != nil
}

// split finds where the body begins behind the envelope's empty delimiter.
func split(m Msg) (body int, ok bool) {
	for i, f := range m {
		if len(f) == 0 {
			return i + 1, i+1 < len(m)
		}
	}
	return 0, false
}
