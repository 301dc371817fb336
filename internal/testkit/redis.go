package testkit

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/testkit/ports"
)

// RedisServer is a redis-server process that belongs to one test. Its methods are for the
// test's own goroutine.
type RedisServer struct {
	t    testing.TB
	addr string
	lead []string // arguments before all others
	args []string
	cmd  *exec.Cmd
	log  *bytes.Buffer
}

// StartRedis starts a redis-server process on a free loopback port. args are added to its
// command line, such as "--requirepass", "secret"; persistence is off unless they turn it
// on. The process is killed when the test ends.
func StartRedis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	needRedis(t)
	s := &RedisServer{t: t, args: append([]string{"--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)}
	t.Cleanup(s.Kill)
	for range 5 { // another process may take the port between the choice and the bind
		s.addr = FreeAddr(t)
		if s.start() {
			return s
		}
	}
	t.Fatalf("redis-server did not start:\n%s", s.log)
	return nil
}

func needRedis(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err == nil {
		return
	}
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
		t.Fatal("redis-server is not installed and EVENTSPINE_REQUIRE_SERVERS is set")
	}
	t.Skip("redis-server is not installed")
}

// FreeAddr is a loopback address (host:port) that was free a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	at, err := ports.Addr()
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// URL is where the server listens, without credentials.
func (s *RedisServer) URL() string { return "redis://" + s.addr }

// Addr is the server's host:port.
func (s *RedisServer) Addr() string { return s.addr }

// Kill ends the process at once (SIGKILL) and waits for its end. It may be called again.
func (s *RedisServer) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Stop freezes the process (SIGSTOP): connections stay open and nothing answers.
func (s *RedisServer) Stop() { s.signal(syscall.SIGSTOP) }

// Continue lets a stopped process go on.
func (s *RedisServer) Continue() { s.signal(syscall.SIGCONT) }

func (s *RedisServer) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Restart starts the process again after Kill, on the same port and with the same
// arguments and directory.
func (s *RedisServer) Restart() {
	s.t.Helper()
	s.Kill()
	if !s.start() {
		s.t.Fatalf("redis-server did not start again:\n%s", s.log)
	}
}

// start reports whether the process runs and listens within five seconds.
func (s *RedisServer) start() bool {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(s.addr)
	s.log = &bytes.Buffer{}
	// Not the test's context: it ends before the clean-ups, which may need the server.
	s.cmd = exec.CommandContext(context.Background(), "redis-server", slices.Concat(s.lead, []string{"--bind", host, "--port", port}, s.args)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		<-tick.C
		if s.answers() {
			return true
		}
		if syscall.Kill(s.cmd.Process.Pid, 0) != nil || s.exited() {
			break
		}
	}
	s.Kill()
	return false
}

// exited reports whether the process is over but was not waited for.
func (s *RedisServer) exited() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

// answers reports whether this very process, not another one on its port, takes commands.
// A server that wants a password counts as one that answers.
func (s *RedisServer) answers() bool {
	conn, err := s.dial()
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("INFO server\r\n")); err != nil {
		return false
	}
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if strings.HasPrefix(line, "-NOAUTH") {
			return true
		}
		if strings.HasPrefix(line, "-") {
			return false
		}
		if id, ok := strings.CutPrefix(line, "process_id:"); ok {
			return strings.TrimSpace(id) == strconv.Itoa(s.cmd.Process.Pid)
		}
	}
}

// dial connects for one exchange of at most a second.
func (s *RedisServer) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(context.Background(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(time.Second))
}
