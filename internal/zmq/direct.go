package zmq

import "time"

// A message for a peer to whom nothing was sent for a while is written by its sender itself, if the network
// takes it at once: that saves waking the writer, which costs more than the write. In a
// rush the writer does it, as it gathers many messages into one write.
const (
	lull        = 30 * time.Microsecond // since the last write to the peer
	directPeers = 4                     // that one call writes to itself
	directBytes = 16 << 10              // of messages, to a peer
	directBatch = 16                    // messages that a proxy moves at once
)

// claims are the peers that the holder of the socket's mu will write to as soon as it lets go.
type claims struct {
	welcome bool // the holder is a sender, and not in a rush
	peers   [directPeers]*peer
	n       int
}

// claim makes the sender who holds s.mu, if one does, write to p in the writer's place.
func (s *Socket) claim(p *peer) bool {
	c := &s.claims
	if !c.welcome || c.n == directPeers || p.outBytes > directBytes || !p.conn.Direct() || time.Since(p.since)-p.wrote < lull {
		return false
	}
	p.claimed = true
	c.peers[c.n] = p
	c.n++
	return true
}

// lock takes mu for a sender.
func (s *Socket) lock() {
	s.mu.Lock()
	s.claims.welcome = true
}

// unlock lets go of mu and writes to the peers that were claimed. It never waits for a peer.
func (s *Socket) unlock() {
	c := s.claims
	if c.n > 0 {
		s.claims = claims{}
		for _, p := range c.peers[:c.n] {
			p.load()
		}
	}
	s.claims.welcome = false
	s.mu.Unlock()
	for _, p := range c.peers[:c.n] {
		p.direct()
	}
}

// direct writes the loaded batch as far as the network takes it now, and leaves the rest, and what has
// been queued meanwhile, to the writer.
func (p *peer) direct() {
	p.encode()
	n, done, err := p.conn.TryFlush()
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.taken += n
	p.claimed = false
	switch {
	case err != nil:
		p.giveBack()
		p.abort(err)
	case done:
		p.settle()
	default:
		p.begun = true
	}
	if p.begun || p.pending() || p.ended() {
		p.wake <- struct{}{}
		return
	}
	p.idle = true
}
