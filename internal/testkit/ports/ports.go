// Package ports finds TCP ports for servers that a test is about to start.
package ports

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

const (
	lowest = 10_000
	enough = 1_000 // ports to choose from
)

// last is where the walk through the ports is; each process begins somewhere else.
var last = func() *atomic.Uint32 {
	var at atomic.Uint32
	at.Store(rand.Uint32N(1 << 16))
	return &at
}()

// Free gives n ports of 127.0.0.1 at which nothing listens now, none of them twice before all were
// given. They lie below those that the kernel hands to outgoing connections: one of these would
// otherwise take the port before the server comes. It may be called by several goroutines.
func Free(n int) ([]int, error) {
	size := ephemeral() - lowest
	found := make([]int, 0, n)
	var failed error
	for range max(size, enough) {
		if len(found) == n {
			return found, nil
		}
		port := 0 // any
		if size >= enough {
			port = lowest + int(last.Add(1))%size
		}
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			failed = err
			continue
		}
		defer func() { _ = l.Close() }() // held until all are chosen
		found = append(found, l.Addr().(*net.TCPAddr).Port)
	}
	return nil, fmt.Errorf("%d free ports are not to be had: %w", n, failed)
}

// ephemeral is the first port of outgoing connections.
func ephemeral() int {
	const usual = 32_768
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	var low int
	if _, err := fmt.Sscan(string(b), &low); err != nil {
		return usual
	}
	return low
}

// Addr is one such port as host:port.
func Addr() (string, error) {
	found, err := Free(1)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(found[0])), nil
}
