package zmq

import (
	"errors"
	"math/bits"

	"eventspine/internal/fault"
)

var errPaired = fault.E("zmq", fault.Conflict, errors.New("this PAIR socket has its peer already"))

// pusher is PUSH, DEALER and PAIR: each message goes to one peer, in turn or by key. What dead
// peers did not send, and what was sent before any dialled peer came, waits in the backlog. A
// PAIR has one peer at a time.
type pusher struct {
	s       *Socket
	live    []*peer
	next    int // whose turn it is
	backlog queue[item]
	bytes   int64 // of the backlog
}

func (u *pusher) attach(p *peer) error {
	if u.s.typ == Pair && len(u.live) > 0 {
		return errPaired
	}
	u.live = append(u.live, p)
	return nil
}

func (u *pusher) detach(p *peer, unsent *queue[item]) {
	for i, q := range u.live {
		if q == p {
			u.live = append(u.live[:i:i], u.live[i+1:]...)
			break
		}
	}
	if u.s.halted {
		return
	}
	// To the front: what waits already for the same key was given to us later.
	for unsent.len() > 0 {
		it := unsent.popBack()
		u.backlog.pushFront(it)
		u.bytes += it.size
		u.s.count.requeued++
	}
}

// send need not look at the backlog: room empties it as far as the peers take it whenever one
// of them gets room, so that what is left there waits for peers that are full for it too.
func (u *pusher) send(it item) error {
	if p := u.choose(it); p != nil {
		p.push(it)
		return nil
	}
	if it.keyed || len(u.live) > 0 || !u.mayWait() {
		return ErrWouldBlock
	}
	for u.s.opt.Conflate && u.backlog.len() > 0 {
		u.bytes -= u.backlog.pop().size
		u.s.count.conflated++
	}
	u.backlog.push(it)
	u.bytes += it.size
	return nil
}

// mayWait reports whether a message may be queued for endpoints that are being dialled: the
// queue of such a peer exists before the peer does, as in libzmq.
func (u *pusher) mayWait() bool {
	n := len(u.s.dialers)
	if u.s.opt.Immediate || n == 0 {
		return false
	}
	return u.s.opt.Conflate || u.backlog.len() < n*u.s.opt.SndHWM && u.bytes < int64(n)*int64(u.s.opt.SndBytes)
}

// choose gives the peer that it goes to now, nil when it has to wait.
func (u *pusher) choose(it item) *peer {
	if it.keyed {
		if p := rendezvous(it.key, u.live); p != nil && !p.full() {
			return p
		}
		return nil
	}
	for i := range u.live {
		at := u.next + i
		if at >= len(u.live) {
			at %= len(u.live)
		}
		if p := u.live[at]; !p.full() {
			u.next = (at + 1) % len(u.live)
			return p
		}
	}
	return nil
}

// room hands the backlog to the peers, oldest first, as far as they take it. A message whose
// peer is full keeps its place, and so does everything after it for the same peer.
func (u *pusher) room() {
	n := u.backlog.len()
	if n == 0 || u.allFull() {
		return
	}
	for range n {
		it := u.backlog.pop()
		if p := u.choose(it); p != nil {
			u.bytes -= it.size
			p.push(it)
			continue
		}
		u.backlog.push(it) // n pops and pushes keep the order
	}
}

func (u *pusher) allFull() bool {
	for _, p := range u.live {
		if !p.full() {
			return false
		}
	}
	return true
}

func (u *pusher) inbound(_ *peer, m Msg) (Msg, error) {
	if u.s.typ == Push {
		return nil, nil
	}
	return m, nil
}

// rendezvous is the peer with the highest hash of key and name: when a peer comes or goes,
// only the keys move that it gains or loses.
func rendezvous(key uint64, live []*peer) (best *peer) {
	var top uint64
	for _, p := range live {
		if w := mix(key ^ bits.RotateLeft64(mix(p.hash), 17)); best == nil || w > top {
			best, top = p, w
		}
	}
	return best
}

// mix is the finalizer of splitmix64: every bit of x changes half of the result's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// puller is PULL: everything that comes in is the application's.
type puller struct{ s *Socket }

func (u *puller) attach(*peer) error                  { return nil }
func (u *puller) detach(*peer, *queue[item])          {}
func (u *puller) send(item) error                     { return wrongType("Send", u.s.typ) }
func (u *puller) room()                               {}
func (u *puller) inbound(_ *peer, m Msg) (Msg, error) { return m, nil }
