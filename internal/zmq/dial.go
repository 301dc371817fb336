package zmq

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"eventspine/internal/fault"
)

// dialer keeps one endpoint connected.
type dialer struct {
	endpoint string
	addr     string
	t        transport

	// Guarded by the socket's mu.
	kept queue[item] // what a publisher's last connection did not send
	soon bool        // redial without waiting: we ended the connection ourselves
}

// Connect keeps the socket connected to endpoint from now on: it dials and redials in the
// background with jittered, doubling waits between ReconnectMin and ReconnectMax. It returns
// at once; the error is Invalid for an endpoint we cannot read.
func (s *Socket) Connect(endpoint string) error {
	t, addr, err := s.resolve(endpoint)
	if err != nil {
		return err
	}
	if !t.dialable(addr) {
		return fault.Errorf("zmq.Connect", fault.Invalid, "endpoint %q does not name one place to connect to", endpoint)
	}
	d := &dialer{endpoint: endpoint, addr: addr, t: t}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return ErrClosed
	}
	s.dialers = append(s.dialers, d)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.keepConnected(d)
	}()
	s.wakeSenders() // a PUSH may queue for it already
	return nil
}

func (s *Socket) keepConnected(d *dialer) {
	backoff := s.opt.ReconnectMin
	for s.stopped.Err() == nil {
		began := time.Now()
		ok, err := s.dial(d)
		if ok && time.Since(began) > s.opt.ReconnectMin {
			backoff = s.opt.ReconnectMin
		}
		if s.redialNow(d) {
			continue
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		backoff = min(2*backoff, s.opt.ReconnectMax)
		if s.stopped.Err() == nil {
			s.emit(Event{Kind: Retrying, Endpoint: d.endpoint, Err: err, Wait: wait})
		}
		if !s.pause(wait) {
			return
		}
	}
}

func (s *Socket) redialNow(d *dialer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	soon := d.soon
	d.soon = false
	return soon
}

// dial makes one connection and serves it to its end.
func (s *Socket) dial(d *dialer) (ok bool, err error) {
	c, err := s.reach(d)
	if err != nil {
		return false, err
	}
	if !s.adoptDialled(c) {
		return false, ErrClosed
	}
	return s.run(c, d, d.endpoint)
}

// reach dials within the handshake's time; a name in the process is waited for.
func (s *Socket) reach(d *dialer) (net.Conn, error) {
	if in, ok := d.t.(*InprocNetwork); ok {
		return in.dial(s.stopped, d.addr)
	}
	ctx, cancel := context.WithTimeout(s.stopped, s.opt.HandshakeTimeout)
	defer cancel()
	return d.t.dial(ctx, d.addr)
}

// adoptDialled is adopt for a dialer's goroutine, which is counted already. While Close
// lingers, unsent messages still get their connection.
func (s *Socket) adoptDialled(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}
