package testkit

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// RedisSentinel starts a master, a replica of it and a Sentinel that promotes the replica about a
// second after the master is gone. It gives the servers and the URL of the master by way of the
// Sentinel. args go to both servers.
func RedisSentinel(t testing.TB, args ...string) (master, replica *RedisServer, url string) {
	t.Helper()
	master = StartRedis(t, args...)
	host, port, _ := net.SplitHostPort(master.addr)
	replica = StartRedis(t, append([]string{"--replicaof", host + " " + port, "--repl-diskless-sync-delay", "0"}, args...)...)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor spine %s %s 1\nsentinel down-after-milliseconds spine 500\nsentinel failover-timeout spine 2000\n", host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := &RedisServer{t: t, lead: []string{conf, "--sentinel"}}
	t.Cleanup(sentinel.Kill)
	sentinel.addr = FreeAddr(t)
	if !sentinel.start() {
		t.Fatalf("the Sentinel did not start:\n%s", sentinel.log)
	}
	Eventually(t, 20*time.Second, func() bool {
		return replica.ask("master_link_status:up", "INFO replication") && sentinel.ask("master0:name=spine,status=ok,address="+master.addr+",slaves=1", "INFO sentinel")
	}, "the replica follows and the Sentinel knows it")
	return master, replica, "redis+sentinel://" + sentinel.addr + "/spine"
}

// Cut ends the connections of the server's replicas.
func (s *RedisServer) Cut() {
	s.t.Helper()
	s.do(":", "CLIENT KILL TYPE replica")
}

// Do sends one command and wants an answer that begins with want.
func (s *RedisServer) Do(want, command string) {
	s.t.Helper()
	s.do(want, "%s", command)
}
