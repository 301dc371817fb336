package run

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRelaxed is what other tests run in a process of its own.
func TestRelaxed(t *testing.T) {
	given := os.Getenv("RUN_SLACK")
	if given == "" {
		t.Skip("only TestRelax uses this")
	}
	runtime.LockOSThread() // the slack is a thread's
	starts, err := os.OpenFile(os.Getenv("RUN_STARTS"), os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if before, err := starts.Stat(); err != nil || before.Size() == 0 { // the first of them
		own, err := time.ParseDuration(given)
		if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0) != nil {
			t.Fatal(given, err)
		}
	}
	_, _ = fmt.Fprintf(starts, "%d %q\n", os.Getpid(), os.Args)
	_ = starts.Close()
	Relax()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	slack, err := os.ReadFile("/proc/self/timerslack_ns")
	fmt.Printf("slack %s %v\n", slack, err)
}

// TestRelax: the program runs once more in the same process, with timers that may be late; a slack
// that somebody has chosen stays.
func TestRelax(t *testing.T) {
	for _, c := range []struct {
		given, want string
		starts      int
	}{
		{kernelSlack.String(), "slack 1000000", 2},
		{"200us", "slack 200000", 1},
	} {
		starts := filepath.Join(t.TempDir(), "starts")
		if err := os.WriteFile(starts, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRelaxed$", "-test.v")
		cmd.Env = append(os.Environ(), "RUN_SLACK="+c.given, "RUN_STARTS="+starts)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want+"\n") {
			t.Errorf("%s: want %s, got %v\n%s", c.given, c.want, err, out)
		}
		text, err := os.ReadFile(starts)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if len(lines) != c.starts || lines[0] != lines[len(lines)-1] {
			t.Errorf("%s: started as\n%s", c.given, text)
		}
	}
}
