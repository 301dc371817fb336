package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eventspine/internal/clone"
	"eventspine/internal/fault"
)

// keeper runs a server of live rules and gives its endpoints as the flag wants them.
func keeper(t *testing.T) string {
	t.Helper()
	const any = "tcp://127.0.0.1:0"
	s, err := clone.Listen(t.Context(), clone.ServerOptions{Endpoints: clone.Endpoints{Snapshot: any, Updates: any, Changes: any}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	at := s.Endpoints()
	return strings.Join([]string{at.Snapshot, at.Updates, at.Changes}, ",")
}

func callRules(t *testing.T, at, stdin string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	c := rulesCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(append(args, "--clone", at, "--dir", t.TempDir()))
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(&out)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

func TestRules(t *testing.T) {
	at := keeper(t)
	file := filepath.Join(t.TempDir(), "b.yaml")
	if err := os.WriteFile(file, []byte("name: b\nmatch: b.*\ndrop: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		stdin string
		args  []string
		out   string
		kind  fault.Kind // Internal: no error
	}{
		{"", []string{"list"}, "rules: []\n", 0},
		{"", []string{"set", "b", file}, "", 0},
		{"{name: a, match: a.*, drop: true}", []string{"set", "a"}, "", 0},
		{"", []string{"list"}, "rules:\n  - {name: a, match: a.*, drop: true}\n  - name: b\n    match: b.*\n    drop: true\n", 0},
		{"", []string{"watch", "--count", "1"}, "rules:\n  - {name: a, match: a.*, drop: true}\n  - name: b\n    match: b.*\n    drop: true\n", 0},
		{"", []string{"get", "b"}, "name: b\nmatch: b.*\ndrop: true\n", 0},
		{"", []string{"get", "c"}, "", fault.NotFound},
		{"name: c", []string{"set", "c"}, "", fault.Invalid},
		{"{name: a, match: a.*, drop: true}", []string{"set", "c"}, "", fault.Invalid},
		{"", []string{"set", "c", file + ".none"}, "", fault.Invalid},
		{"", []string{"rm", "b"}, "", 0},
		{"", []string{"rm", "b"}, "", fault.NotFound},
		{"", []string{"rm"}, "", fault.Invalid},
		{"", []string{"list"}, "rules:\n  - {name: a, match: a.*, drop: true}\n", 0},
	} {
		out, err := callRules(t, at, step.stdin, step.args...)
		if out != step.out || (err != nil) != (step.kind != 0) || err != nil && fault.KindOf(err) != step.kind {
			t.Errorf("rules %v: %v\n%s", step.args, err, out)
		}
	}
}

func TestRulesWithoutAProxy(t *testing.T) {
	for _, verb := range [][]string{{"list"}, {"watch"}, {"get", "a"}, {"rm", "a"}} {
		_, err := callRules(t, "tcp://127.0.0.1:1,tcp://127.0.0.1:1,tcp://127.0.0.1:1", "", append(verb, "--timeout", "50ms")...)
		if fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v: %v", verb, err)
		}
	}
	if _, err := callRules(t, "here", "", "list"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad endpoint: %v", err)
	}
}
