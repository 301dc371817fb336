package zmq

import "eventspine/internal/zmq/topics"

// subscriber is SUB and XSUB: every publisher is told what is wanted, again after each
// reconnect, and what a SUB does not want any more is dropped on arrival.
type subscriber struct {
	s     *Socket
	index topics.Index[struct{}]
}

func (u *subscriber) attach(p *peer) error {
	for _, topic := range u.index.Topics() {
		p.subscription(topic, true)
	}
	return nil
}

func (u *subscriber) detach(*peer, *queue[item]) {}

// change counts a subscription and tells the publishers of the first and the last one of a
// topic. s.mu is held.
func (u *subscriber) change(topic string, on bool) {
	var tell bool
	if on {
		_, tell = u.index.Add(struct{}{}, topic)
	} else {
		_, tell = u.index.Remove(struct{}{}, topic)
	}
	if !tell {
		return
	}
	for _, p := range u.s.peers {
		p.subscription(topic, on)
	}
}

// send is XSUB's: a frame that begins with 1 or 0 subscribes or unsubscribes, anything else
// goes to every publisher that has room.
func (u *subscriber) send(it item) error {
	if u.s.typ == Sub {
		return wrongType("Send", u.s.typ)
	}
	if first := it.msg[0]; len(it.msg) == 1 && len(first) > 0 && first[0] <= 1 {
		u.change(string(first[1:]), first[0] == 1)
		return nil
	}
	for _, p := range u.s.peers {
		if p.full() {
			p.dropped++
			u.s.count.dropped++
			continue
		}
		p.push(it)
	}
	return nil
}

func (u *subscriber) room() {}

func (u *subscriber) inbound(_ *peer, m Msg) (Msg, error) {
	if u.s.typ == XSub {
		return m, nil
	}
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if !u.index.Any(m[0]) {
		return nil, nil
	}
	return m, nil
}
