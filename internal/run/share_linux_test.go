package run

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	roles["relax"], roles["give-way"] = playRelax, playGiveWay
}

// playRelax is the process of TestRelax.
func playRelax() error {
	runtime.LockOSThread() // the slack is a thread's
	starts, err := os.OpenFile(os.Getenv("RUN_STARTS"), os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if before, err := starts.Stat(); err != nil || before.Size() == 0 { // the first of them
		own, err := time.ParseDuration(os.Getenv("RUN_SLACK"))
		if err := cmp.Or(err, unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0)); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(starts, "%d %q\n", os.Getpid(), os.Args)
	_ = starts.Close()
	Relax()
	slack, err := os.ReadFile("/proc/self/timerslack_ns")
	fmt.Printf("slack %s", slack)
	return err
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
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "RUN_TEST_ROLE=relax", "RUN_SLACK="+c.given, "RUN_STARTS="+starts)
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

// playGiveWay is the process of TestGiveWay. It says the niceness of each of its threads.
func playGiveWay() error {
	nice, err := strconv.Atoi(os.Getenv("RUN_NICE"))
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the thread that asks has the niceness that was given
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil {
		return err
	}
	giveWay()
	var later sync.WaitGroup
	for range 4 { // threads that are made afterwards
		later.Go(func() { runtime.LockOSThread() })
	}
	later.Wait()
	threads, err := filepath.Glob("/proc/self/task/*")
	for _, path := range threads {
		id, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			return err
		}
		if now, err := niceness(id); err == nil { // it may have ended
			fmt.Println("niceness", now)
		}
	}
	return err
}

// TestGiveWay: all threads of a background process let others go first; a niceness that somebody has chosen stays.
func TestGiveWay(t *testing.T) {
	for _, c := range []struct {
		given string
		all   bool
		want  string
	}{
		{"0", true, "niceness 10"},
		{"5", false, "niceness 5"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "RUN_TEST_ROLE=give-way", "RUN_NICE="+c.given)
		out, err := cmd.CombinedOutput()
		said := regexp.MustCompile(`niceness \d+`).FindAllString(string(out), -1)
		if err != nil || len(said) < 2 || !slices.Contains(said, c.want) {
			t.Fatalf("%s: want %s, got %v\n%s", c.given, c.want, err, out)
		}
		for _, s := range said {
			if s != c.want && (c.all || s == "niceness 10") {
				t.Errorf("%s: a thread has %s", c.given, s)
			}
		}
	}
}
