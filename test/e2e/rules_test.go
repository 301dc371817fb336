package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/test/harness"
)

// TestLiveRules changes the rules of two running workers with one command, and again after
// the proxy that keeps them and a worker were killed.
func TestLiveRules(t *testing.T) {
	s := start(t, embedded, 2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rules := func(stdin string, args ...string) (string, error) {
		c := exec.CommandContext(ctx, bin+"/eventspine", append([]string{"rules", "--clone", strings.Join(s.Clone, ",")}, args...)...)
		c.Stdin = strings.NewReader(stdin)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	must := func(stdin string, args ...string) string {
		t.Helper()
		out, err := rules(stdin, args...)
		if err != nil {
			t.Fatalf("rules %v: %v\n%s", args, err, out)
		}
		return out
	}
	inForce := func(changes int) {
		t.Helper()
		eventually(t, 20*time.Second, func() bool {
			for _, w := range s.Workers {
				if metric(t, s.Ready[w.Name], "eventspine_worker_rule_changes_total") < float64(changes) {
					return false
				}
			}
			return true
		}, func() string { return "not every worker has the rules" })
	}
	const users = 8 // of both workers
	send := func(round string) {
		t.Helper()
		for i := range users {
			body := fmt.Sprintf(`{"id":"%s-%d","type":"alert.test","userId":"u%d"}`, round, i, i)
			if status, answer := post(t, s.APIURL+"/api/events", harness.Token("sender", "emit"), "application/json", []byte(body)); status != http.StatusAccepted {
				t.Fatalf("POST: %d %s", status, answer)
			}
		}
	}
	filtered := func() (n float64) {
		for _, w := range s.Workers {
			n += metric(t, s.Ready[w.Name], `eventspine_worker_filtered_events_total{rule="quiet"}`)
		}
		return n
	}
	dropped := func(want float64) {
		t.Helper()
		eventually(t, 10*time.Second, func() bool { return filtered() >= want }, func() string { return fmt.Sprintf("%v of %v events dropped", filtered(), want) })
	}
	inForce(1) // none yet: each worker has heard so

	if out, err := rules("name: quiet\nmatch: alert.*\nwhen: nonsense\ndrop: true", "set", "quiet"); err == nil || !strings.Contains(out, "quiet:3:") {
		t.Errorf("a rule that does not compile: %v %s", err, out)
	}
	must("name: quiet\nmatch: alert.*\ndrop: true\n", "set", "quiet")
	inForce(2)
	send("a")
	dropped(users)

	if err := s.Proxies[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.Workers[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*harness.Process{s.Proxies[0], s.Workers[1]} {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AllReady(ctx, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := must("", "list"); !strings.Contains(got, "  - name: quiet\n    match: alert.*") {
		t.Errorf("list: %s", got)
	}
	inForce(1)
	before := filtered()
	send("b")
	dropped(before + users)

	must("", "rm", "quiet")
	if out, err := rules("", "get", "quiet"); err == nil {
		t.Errorf("get after rm: %s", out)
	}
}
