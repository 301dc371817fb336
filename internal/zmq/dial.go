package zmq

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/transport"
)

// dialer keeps one endpoint connected.
type dialer struct {
	endpoint string
	addr     string
	t        transport.Transport
	stop     context.CancelFunc // ends the dialling
	stopped  context.Context

	// Guarded by the socket's mu.
	kept    queue[item] // what a publisher's last connection did not send
	dropped bool        // Disconnect was called
	soon    bool        // redial without waiting: we ended the connection ourselves
}

// Connect keeps the socket connected to endpoint from now on: it dials and redials in the
// background with jittered, doubling waits between ReconnectMin and ReconnectMax. It returns
// at once; the error is Invalid for an endpoint we cannot read.
func (s *Socket) Connect(endpoint string) error {
	t, addr, err := s.resolve(endpoint, true)
	if err != nil {
		return err
	}
	if !t.Dialable(addr) {
		return fault.Errorf("zmq.Connect", fault.Invalid, "endpoint %q does not name one place to connect to", endpoint)
	}
	d := &dialer{endpoint: endpoint, addr: addr, t: t}
	d.stopped, d.stop = context.WithCancel(s.stopped)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		d.stop()
		return ErrClosed
	}
	s.dialers = append(s.dialers, d)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer d.stop()
		s.keepConnected(d)
	}()
	s.wakeSenders() // a PUSH may queue for it already
	return nil
}

// Disconnect takes one Connect of the same endpoint back: its connection ends at once, and what
// that had not sent goes to another PUSH, DEALER or PAIR peer or is dropped and counted. NotFound when there
// was no such Connect.
func (s *Socket) Disconnect(endpoint string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range s.dialers {
		if d.endpoint != endpoint {
			continue
		}
		s.dialers = slices.Delete(s.dialers, i, i+1)
		s.count.dropped += uint64(d.kept.len())
		d.kept, d.dropped = queue[item]{}, true
		d.stop()
		for _, p := range s.peers {
			if p.dialer == d {
				p.abort(nil)
			}
		}
		return nil
	}
	return fault.Errorf("zmq.Disconnect", fault.NotFound, "not connected to %q", endpoint)
}

func (s *Socket) keepConnected(d *dialer) {
	backoff := s.opt.ReconnectMin
	for d.stopped.Err() == nil {
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
		if d.stopped.Err() == nil {
			s.emit(Event{Kind: Retrying, Endpoint: d.endpoint, Err: err, Wait: wait})
		}
		if !pause(d.stopped, wait) {
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
	if !s.adoptDialled(c, d) {
		return false, ErrClosed
	}
	return s.run(c, d, d.endpoint)
}

// reach dials within the handshake's time; a name in the process is waited for.
func (s *Socket) reach(d *dialer) (net.Conn, error) {
	if in, ok := d.t.(*transport.Inproc); ok {
		return in.Dial(d.stopped, d.addr)
	}
	ctx, cancel := context.WithTimeout(d.stopped, s.opt.HandshakeTimeout)
	defer cancel()
	return d.t.Dial(ctx, d.addr)
}

// adoptDialled is adopt for a dialer's goroutine, which is counted already. While Close
// lingers, unsent messages still get their connection.
func (s *Socket) adoptDialled(c net.Conn, d *dialer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted || d.dropped {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}
