package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"eventspine/internal/fault"
)

const maxPath = 107 // bytes of a Unix socket's path (sun_path without its final zero)

// ipc is a Unix socket: a file's path, or an abstract name after "@".
type ipc struct{}

func resolveIPC(endpoint, addr string) (Transport, string, error) {
	switch {
	case addr == "", addr == "@":
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q has no path", endpoint)
	case len(addr) > maxPath:
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q: path of %d bytes, the limit is %d", endpoint, len(addr), maxPath)
	case strings.ContainsRune(addr, 0):
		return nil, "", fault.Errorf("zmq", fault.Invalid, "endpoint %q: path with a zero byte", endpoint)
	}
	return ipc{}, addr, nil
}

// Listen takes the place of a socket file that nobody answers on; a file of another kind and
// one that is in use stay.
func (ipc) Listen(ctx context.Context, addr string) (net.Listener, error) {
	if addr == "*" {
		addr = filepath.Join(os.TempDir(), "zmq-"+rand.Text())
	}
	var c net.ListenConfig
	l, err := c.Listen(ctx, "unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) && stale(ctx, addr) {
		if err := os.Remove(addr); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err = c.Listen(ctx, "unix", addr)
	}
	return l, err
}

func stale(ctx context.Context, path string) bool {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func (ipc) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", addr)
}

func (ipc) Dialable(addr string) bool { return addr != "*" }

func (ipc) Endpoint(a net.Addr) string { return "ipc://" + a.String() }
