package testkit

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// RedisCluster starts a Redis Cluster of three masters for the test and returns its URL, with
// all three hosts. It takes about two seconds.
func RedisCluster(t testing.TB) string {
	t.Helper()
	const nodes, slots = 3, 16384
	servers := make([]*RedisServer, nodes)
	addrs := make([]string, nodes)
	buses := make([]string, nodes)
	for i := range servers {
		_, buses[i], _ = net.SplitHostPort(FreeAddr(t))
		servers[i] = StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", buses[i], "--cluster-node-timeout", "5000")
		addrs[i] = servers[i].addr
	}
	for i, s := range servers {
		s.do("+OK", "CLUSTER ADDSLOTSRANGE %d %d", i*slots/nodes, (i+1)*slots/nodes-1)
		s.do("+OK", "CLUSTER SET-CONFIG-EPOCH %d", i+1)
	}
	for i, s := range servers[1:] {
		host, port, _ := net.SplitHostPort(s.addr)
		servers[0].do("+OK", "CLUSTER MEET %s %s %s", host, port, buses[i+1])
	}
	for _, s := range servers {
		Eventually(t, 10*time.Second, func() bool {
			return s.ask("cluster_state:ok", "CLUSTER INFO") && s.ask(fmt.Sprintf("cluster_known_nodes:%d", nodes), "CLUSTER INFO")
		}, "the cluster is ready")
	}
	return "redis://" + strings.Join(addrs, ",")
}

// do sends one command and wants an answer that begins with want.
func (s *RedisServer) do(want, format string, args ...any) {
	s.t.Helper()
	if !s.ask(want, format, args...) {
		s.t.Fatalf("redis at %s does not answer %q with %s", s.addr, fmt.Sprintf(format, args...), want)
	}
}

// ask sends one command and reports whether a line of the answer begins with want.
func (s *RedisServer) ask(want, format string, args ...any) bool {
	conn, err := s.dial()
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, format+"\r\nQUIT\r\n", args...); err != nil {
		return false
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), want) {
			return true
		}
	}
	return false
}
