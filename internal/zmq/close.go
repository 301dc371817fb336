package zmq

import (
	"context"
	"time"

	"eventspine/internal/fault"
)

const farewell = 250 * time.Millisecond // how long peers may take to read what is on the way

// Close stops accepting, waits at most Linger and until ctx ends for queued messages to be
// taken by the network, and closes every connection. When it returns, no goroutine of the
// socket is left. The error (Unavailable) says how many messages were dropped. A second Close waits
// for the first one and returns nil.
func (s *Socket) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closing = true
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.wakeSenders()
	s.checkDrained()
	s.mu.Unlock()
	unread := s.in.close()
	limit, cancel := context.WithTimeout(ctx, max(s.opt.Linger, 0))
	defer cancel()
	select {
	case <-s.drained:
	case <-limit.Done():
	}
	before := s.halt(unread)
	s.sayFarewell(limit)
	s.wg.Wait()
	close(s.done)
	if lost := s.Stats().Dropped - before; lost > 0 {
		return fault.Errorf("zmq.Close", fault.Unavailable, "%d unsent messages dropped", lost)
	}
	return nil
}

// halt lets no new connection in and counts what is in no peer's queue; what the peers have
// left is counted as they end. It returns how much had been dropped before.
func (s *Socket) halt(unread int) (dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halted = true
	dropped = s.count.dropped
	s.count.discarded += uint64(unread)
	s.count.dropped += uint64(s.waiting())
	if u, ok := s.pat.(*pusher); ok {
		u.backlog, u.bytes = queue[item]{}, 0
	}
	for _, d := range s.dialers {
		d.kept = queue[item]{}
	}
	s.stop()
	return dropped
}

// sayFarewell closes the connections: first our half, so that peers read to the end before
// they close theirs, then whatever is left.
func (s *Socket) sayFarewell(limit context.Context) {
	s.mu.Lock()
	open := false
	for _, p := range s.peers {
		if c, ok := p.conn.Conn.(interface{ CloseWrite() error }); ok && p.sent > 0 && p.outMsgs == 0 {
			open = c.CloseWrite() == nil || open
		} else {
			p.abort(nil)
		}
	}
	s.mu.Unlock()
	if open {
		s.awaitPeers(limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.peers {
		p.abort(nil)
	}
	for c := range s.conns {
		_ = c.Close()
	}
}

func (s *Socket) awaitPeers(limit context.Context) {
	t := time.NewTimer(farewell)
	defer t.Stop()
	for {
		s.mu.Lock()
		n, roomy := len(s.peers), s.roomy
		s.waiters++
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-roomy:
		case <-t.C:
			return
		case <-limit.Done():
			return
		}
	}
}

// checkDrained tells Close when nothing is left to send. mu is held.
func (s *Socket) checkDrained() {
	if !s.closing || s.unsent() > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// unsent counts the messages that no network has taken. mu is held.
func (s *Socket) unsent() (n int) {
	for _, p := range s.peers {
		n += p.outMsgs
	}
	return n + s.waiting()
}

// waiting counts the messages that are in no peer's queue. mu is held.
func (s *Socket) waiting() (n int) {
	if u, ok := s.pat.(*pusher); ok {
		n = u.backlog.len()
	}
	for _, d := range s.dialers {
		n += d.kept.len()
	}
	return n
}
