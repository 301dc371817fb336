package netns

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
)

const (
	marker   = "EVENTSPINE_NETNS" // in the child: the namespace of its parent
	self     = "/proc/self/ns/net"
	earlier  = 5 * time.Second // the child's time limit before its parent's, so that it can say where it was
	lastWord = time.Second     // for the output of processes that the child left behind
)

// Rerun reports true inside a network namespace of t's own: then the test goes on. Outside it runs t
// alone once more, in a process with such a namespace, waits for it, gives t its outcome and
// reports false: then the test has only to return.
//
// In the namespace there is loopback and nothing else: no server of the machine can be reached,
// also none that listens on 127.0.0.1, and every port is free. The environment and the directory
// are the same. What TestMain does, and the test before the call, is done twice.
//
// Where Available says no, t is skipped with the reason. It fails instead where
// EVENTSPINE_REQUIRE_SERVERS is set and only a program is missing.
func Rerun(t *testing.T) bool {
	t.Helper()
	if parent := os.Getenv(marker); parent != "" {
		if err := private(); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("ip link set lo up: %v\n%s", err, out)
		}
		return true
	}
	if err := Available(t.Context()); err != nil {
		if fault.KindOf(err) == fault.NotFound && os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	here, err := os.Readlink(self)
	if err != nil {
		t.Fatal(err)
	}
	cmd := again(t)
	cmd.Env = append(os.Environ(), marker+"="+here)
	isolate(cmd)
	runtime.LockOSThread() // the child ends with the thread that started it
	defer runtime.UnlockOSThread()
	var out strings.Builder
	cmd.Stdout = &out
	if testing.Verbose() { // a long test is watched
		cmd.Stdout = io.MultiWriter(&out, os.Stdout)
	}
	cmd.Stderr = cmd.Stdout
	err = cmd.Run()
	switch text := out.String(); {
	case err != nil:
		t.Errorf("in a network namespace: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP: "+t.Name()+" ("):
		t.Skipf("in a network namespace:\n%s", text)
	case !strings.Contains(text, "--- PASS: "+t.Name()+" ("):
		t.Errorf("in a network namespace the test did not run:\n%s", text)
	case !testing.Verbose():
		t.Logf("in a network namespace:\n%s", text)
	}
	return false
}

// again is the command that runs t alone.
func again(t *testing.T) *exec.Cmd {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(t.Name(), "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	limit := time.Duration(0) // none
	if end, ok := t.Deadline(); ok {
		limit = max(time.Until(end)-earlier, time.Second)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run="+strings.Join(parts, "/"), "-test.v", "-test.count=1",
		fmt.Sprintf("-test.short=%v", testing.Short()), "-test.timeout="+limit.String())
	cmd.WaitDelay = lastWord
	return cmd
}

// private makes sure that this process has a network namespace other than the one Rerun was called
// in. The error is of kind Forbidden.
func private() error {
	const op = "drop packets"
	parent := os.Getenv(marker)
	if parent == "" {
		return fault.Errorf(op, fault.Forbidden, "this is not a network namespace of the test's own: call Rerun first")
	}
	here, err := os.Readlink(self)
	if err != nil {
		return fault.E(op, fault.Forbidden, err)
	}
	if here == parent {
		return fault.Errorf(op, fault.Forbidden, "%s is the network namespace of the parent", here)
	}
	return nil
}

// Available reports whether this machine can do what the package does, by doing it in a namespace
// that ends at once. Errors are of kind NotFound without ip or nft, and of kind Unavailable for
// everything else: another system than Linux, or a kernel that refuses, maybe only who is not root.
func Available(ctx context.Context) error {
	const op = "make a network namespace"
	if runtime.GOOS != "linux" {
		return fault.Errorf(op, fault.Unavailable, "%s has none", runtime.GOOS)
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return fault.E(op, fault.NotFound, err)
		}
	}
	rules := exec.CommandContext(ctx, "nft", "-f", "-")
	rules.Stdin = strings.NewReader(table("trial") + rule("trial", "numgen random mod 100 < 1", "tcp sport { 1, 2 }"))
	for _, cmd := range []*exec.Cmd{exec.CommandContext(ctx, "ip", "link", "set", "lo", "up"), rules} {
		isolate(cmd)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fault.Errorf(op, fault.Unavailable, "%s: %w: %s", cmd.Args[0], err, out)
		}
	}
	return nil
}
