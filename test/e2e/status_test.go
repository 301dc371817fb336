package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/test/harness"
)

// eventspine runs the operator's command and returns what it printed and its exit code.
func eventspine(t *testing.T, args ...string) (stdout string, code int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), filepath.Join(bin, "eventspine"), args...)
	c.Dir = t.TempDir()
	out, err := c.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// states is what `eventspine status` says of each instance; "none" when no control plane answers.
func states(t *testing.T, s *harness.System) string {
	t.Helper()
	out, code := eventspine(t, "status", "--json", "--control", strings.Join(s.Control, ","))
	if code != 0 {
		return "none"
	}
	var reports []struct{ Instance, State string }
	if err := json.Unmarshal([]byte(out), &reports); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all []string
	for _, r := range reports {
		all = append(all, r.Instance+" "+r.State)
	}
	return strings.Join(all, ", ")
}

// TestStatus kills what `eventspine status` watches, and then the control plane itself.
func TestStatus(t *testing.T) {
	s := startWith(t, harness.Options{Workers: 2, Proxies: 2})
	await := func(want string) {
		t.Helper()
		got := ""
		eventually(t, 20*time.Second, func() bool { got = states(t, s); return got == want },
			func() string { return fmt.Sprintf("status says %s\nwant %s", got, want) })
	}
	const rest = "api-1 alive, bridge-1 alive, indexer-1 alive, proxy-1 alive, proxy-2 alive, worker-1 alive, "
	await(rest + "worker-2 alive")
	victim := s.Workers[1]
	if err := victim.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(rest + "worker-2 gone")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	await(rest + "worker-2 alive")

	// The second control plane answers while the first is away, and the first knows all again.
	first := s.Proxies[0]
	if err := first.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(strings.Replace(rest, "proxy-1 alive", "proxy-1 gone", 1) + "worker-2 alive")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	await(rest + "worker-2 alive")

	var endpoints []string
	for _, at := range s.Ping {
		endpoints = append(endpoints, at)
	}
	out, code := eventspine(t, append([]string{"ping"}, endpoints...)...)
	if code != 0 || strings.Count(out, "PONG") != len(endpoints) {
		t.Errorf("code %d\n%s", code, out)
	}
}
