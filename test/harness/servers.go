package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"

	"eventspine/internal/testkit/ports"
)

// Redis starts a real redis-server on a free port that keeps its data in dir, and returns it
// and its URL.
func Redis(ctx context.Context, dir string, args ...string) (*Process, string, error) {
	return RedisIn(ctx, Place{}, dir, args...)
}

// RedisIn is Redis in another place.
func RedisIn(ctx context.Context, at Place, dir string, args ...string) (*Process, string, error) {
	free, err := ports.Free(1)
	if err != nil {
		return nil, "", err
	}
	return redis(ctx, at, free[0], dir, args...)
}

// RedisAt is Redis on a given port.
func RedisAt(ctx context.Context, port int, dir string, args ...string) (*Process, string, error) {
	return redis(ctx, Place{}, port, dir, args...)
}

func redis(ctx context.Context, at Place, port int, dir string, args ...string) (*Process, string, error) {
	argv := append([]string{"redis-server", "--port", fmt.Sprint(port), "--bind", at.host(), "--dir", dir,
		"--save", "", "--maxmemory-policy", "noeviction"}, args...)
	if at.Host != "" {
		argv = append(argv, "--protected-mode", "no") // the network is the test's own
	}
	p, err := launchAt(at, "redis", dir, nil, argv...)
	if err != nil {
		return nil, "", err
	}
	err = Until(ctx, 10*time.Second, func() error {
		return exec.CommandContext(ctx, "redis-cli", "-h", at.host(), "-p", fmt.Sprint(port), "ping").Run()
	})
	if err != nil {
		return nil, "", errors.Join(err, p.Stop(time.Second))
	}
	return p, fmt.Sprintf("redis://%s:%d/0", at.host(), port), nil
}

// Relay listens at addr and passes every connection on to the server of an http:// URL, so
// that a server can appear and vanish under an address. Close ends it and its connections.
func Relay(addr, url string) (io.Closer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &relay{l: l, target: strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")}
	r.wg.Go(r.accept)
	return r, nil
}

type relay struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup
	mu     sync.Mutex
	open   []net.Conn
}

func (r *relay) accept() {
	for {
		in, err := r.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.open = append(r.open, in, out)
		r.mu.Unlock()
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			r.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				_, _ = pair[0].Close(), pair[1].Close()
			})
		}
	}
}

func (r *relay) Close() error {
	err := r.l.Close()
	r.mu.Lock()
	for _, c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
	return err
}
