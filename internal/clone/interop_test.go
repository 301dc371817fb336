package clone

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"eventspine/internal/testkit"
)

// peer runs test/interop/chp_peer.py, an independent client or server on libzmq.
func peer(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	testkit.Pyzmq(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // outlives the test's own, to end in order
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "python3", append([]string{"../../test/interop/chp_peer.py"}, args...)...)
	c.Stderr = os.Stderr
	return c
}

func TestAnIndependentClient(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	at := s.Endpoints()
	ours := join(t, at, "")
	ours.mustSet(t, "/a/x", "1")
	ours.mustSet(t, "/a/y", "2")
	ours.mustSet(t, "/b/z", "3")
	out, err := peer(t, "client", at.Snapshot, at.Updates, at.Changes).Output()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%s, %v", out, err)
	}
	ours.has(t, "/a/y", "2", "/b/z", "3", "/a/new", "again", "/b/new", strings.Repeat("\x00\xff", 20000), "/a/last", "after nonsense")
}

// A server that knows nothing of our properties: no epoch, no count, no prev.
func TestAnIndependentServer(t *testing.T) {
	p := peer(t, "server")
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := p.Wait(); err != nil {
			t.Errorf("chp_peer.py: %v", err)
		}
	})
	lines := bufio.NewScanner(stdout)
	line := func() string {
		if !lines.Scan() {
			t.Fatal("chp_peer.py says nothing")
		}
		return lines.Text()
	}
	at := Endpoints{line(), line(), line()}
	rules, all := join(t, at, "/rules/"), join(t, at, "")
	rules.has(t, "/rules/x", "one")
	all.has(t, "/rules/x", "one", "/other/x", "two")
	rules.mustSet(t, "/rules/y", "new")
	all.has(t, "/rules/x", "one", "/rules/y", "new", "/other/x", "two")
	all.mustSet(t, "/other/x", "changed")
	if err := rules.Delete(soon(t), "/rules/x"); err != nil {
		t.Fatal(err)
	}
	rules.has(t, "/rules/y", "new")
	if err := rules.Set(soon(t), "/rules/short", []byte("lived"), time.Second); err != nil {
		t.Fatal(err)
	}
	rules.has(t, "/rules/y", "new")
	join(t, at, "").has(t, "/rules/y", "new", "/other/x", "changed")
}
