package zmq

import (
	"context"
	"sync"
	"time"
)

// inbox is the receiving half of a socket: the peers that have messages, in turn, and XPUB's
// subscription changes.
type inbox struct {
	mu       sync.Mutex
	ready    queue[*peer] // peers whose queue is not empty, each once
	changes  changes      // XPUB only; go before messages
	waiting  int          // Recvs that sleep
	wake     chan struct{}
	shut     chan struct{} // closed by Close
	closed   bool
	received uint64
	unread   int

	conflated uint64
}

func (b *inbox) init() {
	b.wake, b.shut = make(chan struct{}, 1), make(chan struct{})
}

// deliver queues batch as p's, waiting while p's queue is full. False when the socket closed.
func (b *inbox) deliver(p *peer, batch []Msg) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, m := range batch {
		for p.queued.len() >= p.s.opt.RcvHWM || p.inBytes >= int64(p.s.opt.RcvBytes) {
			if !b.waitRoom(p) {
				b.unread += len(batch) - i
				return false
			}
		}
		for p.s.opt.Conflate && p.queued.len() > 0 {
			p.inBytes -= newItem(p.queued.pop()).size
			b.unread--
			b.conflated++
		}
		b.put(p, m)
	}
	b.signal()
	return true
}

// put queues m as p's. mu is held.
func (b *inbox) put(p *peer, m Msg) {
	p.queued.push(m)
	p.inBytes += newItem(m).size
	p.received++
	b.received++
	b.unread++
	if !p.scheduled {
		p.scheduled = true
		b.ready.push(p)
	}
}

// leave tells XPUB's Recv, after all else of p, which topics nobody wants any more. They were
// bounded when p asked for them.
func (b *inbox) leave(p *peer, topics []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, topic := range topics {
		b.put(p, change(topic, false))
	}
	b.signal()
}

// stalled reports whether p's reader waits for room, and so hears nothing.
func (b *inbox) stalled(p *peer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return p.starved
}

// waitRoom sleeps until half of p's queue is free, as libzmq does, or the socket closes. It
// outlasts the connection, as what was received is to be given to the application.
func (b *inbox) waitRoom(p *peer) bool {
	p.starved = true
	b.signal()
	b.mu.Unlock()
	defer b.mu.Lock()
	t := time.NewTicker(stillThere)
	defer t.Stop()
	for {
		select {
		case <-p.room:
			return true
		case <-b.shut:
			return false
		case <-t.C:
			p.reassure()
		}
	}
}

// signal wakes one Recv if any sleeps. mu is held.
func (b *inbox) signal() {
	if b.waiting > 0 {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}

// nudge wakes a sleeping Recv so that it looks at the socket's state again.
func (b *inbox) nudge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signal()
}

// take gives the next message, if any. mu is held.
func (b *inbox) take() (*peer, Msg) {
	if b.ready.len() == 0 {
		return nil, nil
	}
	p := b.ready.pop()
	m := p.queued.pop()
	p.inBytes -= newItem(m).size
	b.unread--
	if p.queued.len() > 0 {
		b.ready.push(p)
	} else {
		p.scheduled = false
	}
	if p.starved && 2*p.queued.len() <= p.s.opt.RcvHWM && 2*p.inBytes <= int64(p.s.opt.RcvBytes) {
		p.starved = false
		select {
		case p.room <- struct{}{}:
		default:
		}
	}
	return p, m
}

// flush throws away what waits and says how many messages that were.
func (b *inbox) flush() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, _ := b.take(); p != nil; p, _ = b.take() {
		n++
	}
	return n
}

// sleep waits, with mu held before and after, until something may have changed.
func (b *inbox) sleep(ctx context.Context) error {
	b.waiting++
	b.mu.Unlock()
	var err error
	select {
	case <-b.wake:
	case <-b.shut:
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	b.waiting--
	return err
}

// pop waits for the next message.
func (b *inbox) pop(ctx context.Context) (*peer, Msg, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.closed {
			return nil, nil, ErrClosed
		}
		if p, m := b.take(); p != nil {
			b.pass()
			return p, m, nil
		}
		if err := b.sleep(ctx); err != nil {
			return nil, nil, err
		}
	}
}

// tryPop gives the next message if there is one now, and nil otherwise.
func (b *inbox) tryPop() (Msg, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	_, m := b.take()
	b.pass()
	return m, nil
}

// popBatch waits for at least one message and appends up to cap(dst) of them to dst.
func (b *inbox) popBatch(ctx context.Context, dst []Msg) ([]Msg, error) {
	_, m, err := b.pop(ctx)
	if err != nil {
		return dst, err
	}
	dst = append(dst, m)
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(dst) < cap(dst) {
		p, m := b.take()
		if p == nil {
			break
		}
		dst = append(dst, m)
	}
	return dst, nil
}

// pass wakes another Recv when there is something left for it. mu is held.
func (b *inbox) pass() {
	if b.ready.len() > 0 || b.changes.len() > 0 {
		b.signal()
	}
}

// close ends all Recvs and says how many messages nobody asked for.
func (b *inbox) close() (unread int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.shut)
	}
	return b.unread
}

// changes are the topics that gained their first or lost their last subscriber and that Recv
// did not give yet. A change that is taken back before it was seen is never seen, so that
// there is at most one for each topic.
type changes struct {
	order   queue[string]
	pending map[string]bool
}

func (c *changes) len() int { return len(c.pending) }

func (c *changes) add(topic string, on bool) {
	if was, ok := c.pending[topic]; ok && was != on {
		delete(c.pending, topic)
		return
	}
	if c.pending == nil {
		c.pending = map[string]bool{}
	}
	c.pending[topic] = on
	c.order.push(topic)
	if c.order.len() > 2*len(c.pending)+64 {
		c.compact()
	}
}

// compact forgets the places of changes that were taken back.
func (c *changes) compact() {
	var kept queue[string]
	seen := make(map[string]bool, len(c.pending))
	for c.order.len() > 0 {
		topic := c.order.pop()
		if _, ok := c.pending[topic]; ok && !seen[topic] {
			seen[topic] = true
			kept.push(topic)
		}
	}
	c.order = kept
}

// pop gives the oldest change as XPUB's Recv does, nil when there is none.
func (c *changes) pop() Msg {
	for c.order.len() > 0 {
		topic := c.order.pop()
		on, ok := c.pending[topic]
		if !ok {
			continue
		}
		delete(c.pending, topic)
		return change(topic, on)
	}
	return nil
}

// change is a subscription as a message.
func change(topic string, on bool) Msg {
	frame := make([]byte, 1, 1+len(topic))
	if on {
		frame[0] = 1
	}
	return Msg{append(frame, topic...)}
}
