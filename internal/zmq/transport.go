package zmq

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/fault"
)

// transport makes connections for one endpoint scheme.
type transport interface {
	listen(ctx context.Context, addr string) (net.Listener, error)
	dial(ctx context.Context, addr string) (net.Conn, error)
	dialable(addr string) bool  // false for a wildcard, which only a listener takes
	endpoint(a net.Addr) string // the endpoint that reaches a listener with this address
}

// resolve splits an endpoint into its transport and the address there. net may be nil.
func resolve(endpoint string, net *InprocNetwork) (transport, string, error) {
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
	case net == nil:
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q needs Options.Inproc", endpoint)
	case addr == "":
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q has no name", endpoint)
	}
	return net, addr, nil
}

func resolveTCP(endpoint, addr string) (transport, string, error) {
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

func (tcp) listen(ctx context.Context, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: keepAlive()}
	return c.Listen(ctx, "tcp", addr)
}

// dial connects; the net package sets TCP_NODELAY on both sides.
func (tcp) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	return d.DialContext(ctx, "tcp", addr)
}

func (tcp) dialable(addr string) bool { return !strings.HasSuffix(addr, ":0") }

func (tcp) endpoint(a net.Addr) string { return "tcp://" + a.String() }
