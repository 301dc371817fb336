package run

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/config"
	"eventspine/internal/fault"
)

// roles are processes that tests of one operating system start.
var roles = map[string]func() error{}

// TestMain also plays the processes that tests start.
func TestMain(m *testing.M) {
	if role := os.Getenv("RUN_TEST_ROLE"); role != "" {
		play(role)
		return
	}
	goleak.VerifyTestMain(m)
}

type settings struct {
	config.Common
	Port int `env:"PORT" doc:"a port"`
}

func service(open, serve error) Service[settings, string] {
	return Service[settings, string]{
		Name: "demo", Prefix: "DEMO_", Config: settings{Common: config.Common{InstanceID: "demo-1"}, Port: 1},
		Open: func(_ context.Context, c settings) (string, error) {
			if c.Log == nil {
				return "", errors.New("no logger")
			}
			return "deps", open
		},
		Run: func(_ context.Context, _ settings, deps string) error {
			if deps != "deps" {
				return errors.New("other deps")
			}
			return serve
		},
	}
}

func TestExecExitCodes(t *testing.T) {
	failed := errors.New("it broke")
	for name, c := range map[string]struct {
		s       Service[settings, string]
		environ []string
		code    int
		stdout  string
		stderr  string
	}{
		"clean end":           {service(nil, nil), nil, ExitOK, "stopped", ""},
		"cancelled":           {service(nil, context.Canceled), nil, ExitOK, "stopped", ""},
		"failed":              {service(nil, failed), nil, ExitFailure, `"error":"it broke"`, ""},
		"failed to open":      {service(fault.Errorf("bind", fault.Unavailable, "taken"), nil), nil, ExitFailure, `"kind":"unavailable"`, ""},
		"wrong in Open":       {service(fault.BadFields("open", fault.Field{Name: "PORT", Reason: "is odd"}), nil), nil, ExitUsage, "", "PORT is odd"},
		"wrong value":         {service(nil, nil), []string{"PORT=x"}, ExitUsage, "", "eventspine demo: PORT cannot be"},
		"unknown setting":     {service(nil, nil), []string{"DEMO_X=1"}, ExitUsage, "", "eventspine demo: DEMO_X is not a setting"},
		"two wrong, two rows": {service(nil, nil), []string{"DEMO_X=1", "PORT=x"}, ExitUsage, "", "\neventspine demo: PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Exec[settings, string, *settings](t.Context(), c.s, c.environ, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("code %d\nstdout %s\nstderr %s", code, &stdout, &stderr)
			}
			if (c.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("stderr %s", &stderr)
			}
			for line := range strings.Lines(stdout.String()) {
				var fields map[string]any
				if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["service"] != "demo" || fields["instance"] != "demo-1" {
					t.Errorf("the log line %s: %v", line, err)
				}
			}
		})
	}
}

func TestLoggerKeepsToItsLevel(t *testing.T) {
	var out bytes.Buffer
	log := Logger(&out, "demo", &config.Common{LogLevel: slog.LevelWarn})
	log.Info("quiet")
	log.Warn("loud")
	if strings.Contains(out.String(), "quiet") || !strings.Contains(out.String(), "loud") {
		t.Errorf("logged %s", &out)
	}
}

func TestCode(t *testing.T) {
	for err, want := range map[error]int{
		nil: ExitOK, io.EOF: ExitFailure, fault.Errorf("x", fault.Invalid, "x"): ExitUsage, fault.Errorf("x", fault.Internal, "x"): ExitFailure,
	} {
		if got := Code(err); got != want {
			t.Errorf("%v: %d", err, got)
		}
	}
}

func TestStopReleasesTheSignals(t *testing.T) {
	ctx, stop := Signals(t.Context())
	if ctx.Err() != nil {
		t.Error("ended before any signal")
	}
	stop()
	if ctx.Err() == nil {
		t.Error("stop did not end the context")
	}
}

// play is the process under test: it prints ready, and then what became of it.
func play(role string) {
	if do := roles[role]; do != nil {
		if err := do(); err != nil {
			panic(err)
		}
		return
	}
	s := service(nil, nil)
	s.Run = func(ctx context.Context, _ settings, _ string) error {
		_, _ = io.WriteString(os.Stdout, "ready\n")
		<-ctx.Done()
		_, _ = io.WriteString(os.Stdout, "draining\n")
		if role == "stuck" {
			select {}
		}
		return nil
	}
	Main[settings, string, *settings](s)
}

func TestSignalsEndTheProcess(t *testing.T) {
	for name, c := range map[string]struct {
		role string
		kill []syscall.Signal
		code int
	}{
		"SIGTERM drains":         {"clean", []syscall.Signal{syscall.SIGTERM}, ExitOK},
		"SIGINT drains":          {"clean", []syscall.Signal{syscall.SIGINT}, ExitOK},
		"a second one ends it":   {"stuck", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, ExitFailure},
		"also when they differ ": {"stuck", []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, ExitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), "RUN_TEST_ROLE="+c.role)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for i, after := range []string{"ready", "draining"} {
				for lines.Scan() && lines.Text() != after {
					continue
				}
				if i < len(c.kill) {
					if err := cmd.Process.Signal(c.kill[i]); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, _ = io.Copy(io.Discard, out)
			err = cmd.Wait()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != c.code {
				t.Errorf("ended with %v, want code %d", err, c.code)
			}
		})
	}
}

// TestCollector: GOGC wins over ours, also when it is empty or off.
func TestCollector(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for _, c := range []struct {
		environ []string
		want    int
	}{
		{nil, GCHolding},
		{[]string{"PATH=/bin", "GOGCX=7"}, GCHolding},
		{[]string{"GOGC=50"}, 100},
		{[]string{"PATH=/bin", "GOGC=off"}, 100},
		{[]string{"GOGC="}, 100},
	} {
		debug.SetGCPercent(100)
		Collector(c.environ, GCHolding)
		if got := debug.SetGCPercent(100); got != c.want {
			t.Errorf("%q: %d %%, want %d", c.environ, got, c.want)
		}
	}
}
