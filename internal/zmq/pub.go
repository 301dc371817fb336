package zmq

import (
	"context"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/topics"
)

// publisher is PUB and XPUB: each message goes to every peer that subscribed to a beginning
// of its first frame, once, unless that peer is full.
type publisher struct {
	s     *Socket
	index topics.Index[*peer]
	hits  []*peer // scratch of send
}

// attach gives a dialled peer what its connection before did not send.
func (u *publisher) attach(p *peer) error {
	for p.dialer != nil && p.dialer.kept.len() > 0 {
		p.push(p.dialer.kept.pop())
	}
	return nil
}

func (u *publisher) detach(p *peer, unsent *queue[item]) {
	if last := u.index.Drop(p); u.s.opt.Verbose {
		u.s.in.leave(p, last)
	} else {
		u.notify(last, false)
	}
	if p.dialer != nil && !p.dialer.dropped && !u.s.halted {
		p.dialer.kept, *unsent = *unsent, queue[item]{}
	}
}

func (u *publisher) send(it item) error {
	u.hits = u.index.Match(it.msg[0], u.hits[:0])
	u.offer(it)
	return nil
}

// offer gives the message to each of hits that has room.
func (u *publisher) offer(it item) {
	u.s.marks++
	for _, p := range u.hits {
		if p.mark == u.s.marks {
			continue // another subscription of the same peer
		}
		p.mark = u.s.marks
		if p.full() {
			p.dropped++
			u.s.count.dropped++
			continue
		}
		p.push(it)
	}
}

func (u *publisher) room() {}

// inbound takes subscriptions as ZMTP 3.0 sends them, as messages. XPUB passes everything
// else on to the application; PUB ignores it.
func (u *publisher) inbound(p *peer, m Msg) (Msg, error) {
	if len(m) == 1 && len(m[0]) > 0 && m[0][0] <= 1 {
		return u.subscribe(p, string(m[0][1:]), m[0][0] == 1)
	}
	if u.s.typ == XPub {
		return m, nil
	}
	return nil, nil
}

// subscribe notes what p wants. With Verbose what XPUB's Recv gives comes back as a message, in
// order with the others of p; otherwise notify gathers it.
func (u *publisher) subscribe(p *peer, topic string, on bool) (Msg, error) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	cost := topics.Cost(topic)
	if !on {
		gone, last := u.index.Remove(p, topic)
		if gone {
			p.subBytes -= cost
		}
		return u.tell(topic, false, last), nil
	}
	if p.subBytes+cost > int64(u.s.opt.RcvBytes) {
		return nil, fault.Errorf("zmq", fault.TooLarge, "%w: subscriptions of more than %d bytes", ErrProtocol, u.s.opt.RcvBytes)
	}
	fresh, first := u.index.Add(p, topic)
	if fresh {
		p.subBytes += cost
	}
	return u.tell(topic, true, first), nil
}

func (u *publisher) tell(topic string, on, changed bool) Msg {
	if u.s.opt.Verbose && (on || changed) {
		return change(topic, on)
	}
	if changed {
		u.notify([]string{topic}, on)
	}
	return nil
}

// notify tells XPUB's Recv of topics that gained their first or lost their last subscriber.
func (u *publisher) notify(changed []string, on bool) {
	if u.s.typ != XPub || len(changed) == 0 {
		return
	}
	b := &u.s.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, topic := range changed {
		b.changes.add(topic, on)
	}
	b.signal()
}

// recv gives XPUB subscription changes before messages.
func (u *publisher) recv(ctx context.Context) (Msg, error) {
	if u.s.typ == Pub {
		return nil, wrongType("Recv", u.s.typ)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := &u.s.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.closed {
			return nil, ErrClosed
		}
		m := b.changes.pop()
		if m == nil {
			_, m = b.take()
		}
		if m != nil {
			b.pass()
			return m, nil
		}
		if err := b.sleep(ctx); err != nil {
			return nil, err
		}
	}
}
