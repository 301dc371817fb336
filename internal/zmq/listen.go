package zmq

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/transport"
	"eventspine/internal/zmq/zmtp"
)

const (
	acceptWaitMin = 5 * time.Millisecond // after an accept error such as too many open files
	acceptWaitMax = time.Second
)

// Bind listens on endpoint and returns it with the actual port; tcp://*:0 is any free port on
// all addresses. The others are ipc://path, ipc://@name (Linux: without a file), ipc://* (a new
// file in the directory for temporary ones) and inproc://name with Options.Inproc. A socket file
// that nobody listens on any more is replaced, and ours is removed when the socket closes. ctx is for the call only. Handshakes run beside the accept loop, each within
// HandshakeTimeout. An endpoint we cannot read is Invalid, a taken one Unavailable.
func (s *Socket) Bind(ctx context.Context, endpoint string) (string, error) {
	t, addr, err := s.resolve(endpoint, false)
	if err != nil {
		return "", err
	}
	l, err := t.Listen(ctx, addr)
	if err != nil {
		return "", fault.E("zmq.Bind", fault.Unavailable, err)
	}
	actual := t.Endpoint(l.Addr())
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		_ = l.Close()
		return "", ErrClosed
	}
	s.listeners = append(s.listeners, listener{l, actual})
	s.wg.Add(1)
	s.mu.Unlock()
	s.emit(Event{Kind: Listening, Endpoint: actual})
	go func() {
		defer s.wg.Done()
		s.accept(l, actual)
	}()
	return actual, nil
}

// Unbind stops listening on endpoint, as Bind returned it; connections that came through it
// stay. NotFound when we do not listen there.
func (s *Socket) Unbind(endpoint string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.listeners {
		if l.endpoint == endpoint {
			s.listeners = slices.Delete(s.listeners, i, i+1)
			_ = l.Close()
			return nil
		}
	}
	return fault.Errorf("zmq.Unbind", fault.NotFound, "not bound to %q", endpoint)
}

// listener is one Bind.
type listener struct {
	net.Listener
	endpoint string
}

func (s *Socket) resolve(endpoint string, dial bool) (transport.Transport, string, error) {
	if err := checkIdentity(s.opt.Identity); err != nil {
		return nil, "", fault.E("zmq", fault.Invalid, err)
	}
	if err := s.opt.Curve.check(endpoint, dial); err != nil {
		return nil, "", err
	}
	return transport.Resolve(endpoint, s.opt.Inproc)
}

// accept takes connections until l is closed, and outlives errors that pass.
func (s *Socket) accept(l net.Listener, endpoint string) {
	wait := acceptWaitMin
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			wait = acceptWaitMin
			if s.adopt(c) {
				go func() {
					defer s.wg.Done()
					_, _ = s.run(c, nil, endpoint)
				}()
			}
		case errors.Is(err, net.ErrClosed), !pause(s.stopped, wait):
			return
		default:
			wait = min(2*wait, acceptWaitMax)
		}
	}
}

// adopt notes a new connection so that Close ends it, and adds its goroutine.
func (s *Socket) adopt(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return true
}

// run does the handshake on an adopted connection and serves it to its end. It reports
// whether the connection became a peer, and the handshake's error.
func (s *Socket) run(c net.Conn, d *dialer, endpoint string) (bool, error) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	var z *zmtp.Conn
	keys, err := s.opt.Curve.secure(c, endpoint, d != nil)
	if err == nil {
		z, err = zmtp.Open(c, zmtp.Config{Type: s.typ.String(), Identity: s.opt.Identity, Server: d == nil,
			Timeout: s.opt.HandshakeTimeout, Compatible: s.typ.compatible, Limits: s.opt.limits(), Curve: keys})
	}
	if err == nil {
		err = newPeer(s, z, d, endpoint).serve()
	}
	if err != nil && !errors.Is(err, ErrClosed) {
		s.refused(z, endpoint, c.RemoteAddr().String(), err)
	}
	return err == nil, err
}

func (s *Socket) refused(z *zmtp.Conn, endpoint, remote string, err error) {
	s.mu.Lock()
	s.count.handshakeFailures++
	if errors.Is(err, ErrProtocol) {
		s.count.protocolErrors++
	}
	s.mu.Unlock()
	if s.stopped.Err() != nil {
		return
	}
	e := Event{Kind: HandshakeFailed, Endpoint: endpoint, Remote: remote, Err: err}
	if z != nil {
		e.PeerType, e.Identity = z.PeerType, z.PeerIdentity
	}
	s.emit(e)
}

// pause waits d and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
