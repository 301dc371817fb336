// Package client_test builds the package clients/js, runs its own tests, and then those against the
// real programs: a bridge that is killed and started again, tokens that end, a Chromium that
// reloads its page.
package client_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/auth"
	"eventspine/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = "../../clients/js"

// install makes sure that what the package is built and tested with is there. Without Node it
// skips the test, or fails it where servers are required.
func install(t *testing.T, programs ...string) {
	t.Helper()
	required := os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != ""
	for _, name := range append([]string{"node", "npm"}, programs...) {
		if _, err := exec.LookPath(name); err != nil && required {
			t.Fatal(err)
		} else if err != nil {
			t.Skip(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "vitest")); err == nil {
		return
	}
	if !required {
		t.Skip("make test installs the packages")
	}
	npm(t, nil, "ci", "--no-audit", "--no-fund")
}

func npm(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "npm", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), append(env, "NO_COLOR=1")...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("npm %v: %v", args, err)
	}
}

// The package compiles, is small, its examples work, and its tests against the official server pass.
func TestPackage(t *testing.T) {
	install(t)
	npm(t, nil, "test")
}

// The package, unmodified clients from npm, and Chromium, each with the real bridge.
func TestRealBridge(t *testing.T) {
	install(t, "chromium", "redis-server")
	bin, data := t.TempDir(), t.TempDir()
	if err := harness.Build(t.Context(), bin, false); err != nil {
		t.Fatal(err)
	}
	redis, url, err := harness.Redis(t.Context(), t.TempDir(), "--appendonly", "no")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Stop(5 * time.Second) })
	s, err := harness.Start(t.Context(), harness.Options{Bin: bin, Dir: data, Redis: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Logs())
		}
		if err := s.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	control := httptest.NewServer(controls(s))
	t.Cleanup(control.Close)
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	npm(t, nil, "run", "build")
	npm(t, []string{"EVENTSPINE_CONTROL=" + control.URL, "EVENTSPINE_CHROMIUM=" + chromium}, "run", "test:bridge")
}

// controls is what the tests in JavaScript do to the system: GET / says where it is, POST /token
// signs a token, POST /bridge/kill, /bridge/stop and /bridge/start do that.
func controls(s *harness.System) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"api": s.APIURL, "bridge": s.BridgeURL}, nil)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		ttl, err := time.ParseDuration(q.Get("ttl"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		token, err := auth.Sign(harness.Secret, auth.Claims{Subject: q.Get("user"), Scopes: q["scope"], TTL: ttl})
		answer(w, token, err)
	})
	mux.HandleFunc("POST /bridge/{do}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, "done", bridge(s, r))
	})
	return mux
}

func bridge(s *harness.System, r *http.Request) error {
	switch what := r.PathValue("do"); what {
	case "kill":
		return s.Bridge.Signal(syscall.SIGKILL)
	case "stop":
		return s.Bridge.Stop(30 * time.Second)
	case "start":
		if err := s.Bridge.Start(); err != nil {
			return err
		}
		return harness.Until(r.Context(), 20*time.Second, func() error { return harness.OK(s.Ready[s.Bridge.Name] + "/readyz") })
	default:
		return fmt.Errorf("cannot %s a bridge", what)
	}
}
