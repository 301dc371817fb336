package zmq

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"

	"eventspine/internal/fault"
)

var (
	errTaken    = fault.E("zmq", fault.Conflict, errors.New("another peer with this identity is connected"))
	errHandover = fault.E("zmq", fault.Conflict, errors.New("another peer took over this identity"))
)

// router is ROUTER: the first frame of each message names the peer, on the way in and out.
type router struct {
	s    *Socket
	byID map[string]*peer
	last uint32 // the newest generated identity
}

func newRouter(s *Socket) *router {
	return &router{s: s, byID: map[string]*peer{}, last: rand.Uint32()}
}

// attach names the peer. Identities that begin with zero are ours to give, so that no peer can
// pass for one that has none.
func (u *router) attach(p *peer) error {
	if err := checkIdentity(p.identity); err != nil {
		return fault.Errorf("zmq", fault.Invalid, "%w: %w", ErrProtocol, err)
	}
	if p.identity == "" {
		p.identity = u.generate()
	}
	if old := u.byID[p.identity]; old != nil {
		if !u.s.opt.Handover && !old.ended() {
			return errTaken
		}
		old.abort(errHandover)
	}
	u.byID[p.identity] = p
	return nil
}

func (u *router) generate() string {
	for {
		u.last++
		id := string(binary.BigEndian.AppendUint32([]byte{0}, u.last))
		if u.byID[id] == nil {
			return id
		}
	}
}

func (u *router) detach(p *peer, _ *queue[item]) {
	if u.byID[p.identity] == p {
		delete(u.byID, p.identity)
	}
}

func (u *router) send(it item) error {
	if len(it.msg) < 2 {
		return fault.Errorf("zmq.Send", fault.Invalid, "message for a ROUTER without an identity and a body")
	}
	p := u.byID[string(it.msg[0])]
	switch {
	case p != nil && !p.full():
		p.push(newItem(it.msg[1:]))
		return nil
	case u.s.opt.RouterDrop:
		u.s.count.dropped++
		if p != nil {
			p.dropped++
		}
		return nil
	case p == nil:
		return ErrUnroutable
	}
	return ErrWouldBlock
}

func (u *router) room() {}

func (u *router) inbound(p *peer, m Msg) (Msg, error) {
	addressed := make(Msg, 1, 1+len(m))
	addressed[0] = []byte(p.identity)
	return append(addressed, m...), nil
}

func checkIdentity(id string) error {
	switch {
	case len(id) > maxIdentity:
		return fault.Errorf("zmq", fault.Invalid, "identity of %d bytes, the limit is %d", len(id), maxIdentity)
	case id != "" && id[0] == 0:
		return fault.Errorf("zmq", fault.Invalid, "identity begins with a zero byte")
	}
	return nil
}
