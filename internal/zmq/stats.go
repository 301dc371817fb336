package zmq

import "time"

// counters are guarded by the socket's mu.
type counters struct {
	sent, dropped, requeued, discarded uint64
	protocolErrors, handshakeFailures  uint64
	connects, disconnects              uint64
	conflated                          uint64
}

// Stats is a snapshot of a socket. Counters only grow.
type Stats struct {
	Peers             int    // live connections
	Sent              uint64 // messages the network took, counted for each peer
	Received          uint64 // messages queued for Recv
	Dropped           uint64 // messages thrown away because a queue was full, or their peer or the socket ended
	Conflated         uint64 // messages replaced by a newer one, with Options.Conflate
	Requeued          uint64 // unsent messages taken back from dead PUSH peers
	Discarded         uint64 // messages received but not asked for: by a REQ out of turn, or when the socket closed
	Queued            int64  // messages waiting to be sent now
	QueuedBytes       int64  // what they count for
	Unread            int64  // messages waiting for Recv now
	ProtocolErrors    uint64 // connections closed for what the peer sent, in the handshake or after it
	HandshakeFailures uint64 // connections that never became a peer
	Connects          uint64
	Disconnects       uint64
}

// PeerStats is a snapshot of one live connection.
type PeerStats struct {
	Endpoint      string // what Bind or Connect was called with, with the actual port
	Remote        string // the peer's address
	Type          string // the peer's socket type, such as "PULL"
	Identity      string // what it announced, or what a ROUTER calls it
	Queued        int    // messages waiting to be sent
	QueuedBytes   int64  // what they count for
	Unread        int    // messages waiting for Recv
	UnreadBytes   int64  // what they count for
	Sent          uint64
	Received      uint64
	Dropped       uint64
	Subscriptions int // PUB and XPUB: different topics it wants
	Since         time.Time
}

// Stats takes the snapshot.
func (s *Socket) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.count
	st := Stats{Peers: len(s.peers), Sent: c.sent, Dropped: c.dropped, Requeued: c.requeued, Discarded: c.discarded,
		Queued: int64(s.unsent()), ProtocolErrors: c.protocolErrors, HandshakeFailures: c.handshakeFailures,
		Connects: c.connects, Disconnects: c.disconnects}
	for _, p := range s.peers {
		st.QueuedBytes += p.outBytes
	}
	if u, ok := s.pat.(*pusher); ok {
		st.QueuedBytes += u.bytes
	}
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	st.Conflated = c.conflated + s.in.conflated
	st.Received, st.Unread = s.in.received, int64(s.in.unread)
	return st
}

// Peers lists the live connections, oldest first.
func (s *Socket) Peers() []PeerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	list := make([]PeerStats, 0, len(s.peers))
	pub, _ := s.pat.(*publisher)
	for _, p := range s.peers {
		ps := PeerStats{Endpoint: p.endpoint, Remote: p.remote, Type: p.conn.PeerType, Identity: p.identity,
			Queued: p.outMsgs, QueuedBytes: p.outBytes, Unread: p.queued.len(), UnreadBytes: p.inBytes, Sent: p.sent, Received: p.received,
			Dropped: p.dropped, Since: p.since}
		if pub != nil {
			ps.Subscriptions = pub.index.Count(p)
		}
		list = append(list, ps)
	}
	return list
}
