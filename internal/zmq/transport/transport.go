// Package transport makes the connections that ZMTP is spoken on: tcp://, ipc:// and inproc://.
package transport

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/fault"
)

// Transport makes connections for one endpoint scheme. Its methods are safe for concurrent use.
type Transport interface {
	Listen(ctx context.Context, addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
	Dialable(addr string) bool  // false for a wildcard, which only a listener takes
	Endpoint(a net.Addr) string // the endpoint that reaches a listener with this address
}

// Resolve splits an endpoint into its transport and the address there. An endpoint that cannot be
// read is Invalid, and so is an inproc:// one when inproc is nil.
func Resolve(endpoint string, inproc *Inproc) (Transport, string, error) {
	scheme, addr, ok := strings.Cut(endpoint, "://")
	switch {
	case !ok:
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q: want tcp://host:port, ipc://path or inproc://name", endpoint)
	case scheme == "tcp":
		return resolveTCP(endpoint, addr)
	case scheme == "ipc":
		return resolveIPC(endpoint, addr)
	case scheme != "inproc":
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q: unknown transport %q", endpoint, scheme)
	case inproc == nil:
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q needs an inproc network", endpoint)
	case addr == "":
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q has no name", endpoint)
	}
	return inproc, addr, nil
}

func resolveTCP(endpoint, addr string) (Transport, string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q: %w", endpoint, err)
	}
	if host == "*" {
		host = ""
	}
	if port == "*" {
		port = "0"
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q: port %q is no number up to 65535", endpoint, port)
	}
	return tcp{}, net.JoinHostPort(host, port), nil
}

type tcp struct{}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
}

func (tcp) Listen(ctx context.Context, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: keepAlive()}
	return c.Listen(ctx, "tcp", addr)
}

// Dial connects; the net package sets TCP_NODELAY on both sides.
func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	return d.DialContext(ctx, "tcp", addr)
}

func (tcp) Dialable(addr string) bool { return !strings.HasSuffix(addr, ":0") }

func (tcp) Endpoint(a net.Addr) string { return "tcp://" + a.String() }
