package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/fault"
)

// journal is the service manager's end of NOTIFY_SOCKET.
func journal(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, path
}

// heard is the next datagram, or empty when none comes within d.
func heard(t *testing.T, c *net.UnixConn, d time.Duration) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// patient is a service that is alive as long as its flag says so.
type patient struct{ sick atomic.Bool }

func (p *patient) Alive(context.Context) error {
	if p.sick.Load() {
		return errors.New("no pulse")
	}
	return nil
}

// watched runs a service whose watchdog has the given time, and stops it.
func watched(t *testing.T, environ []string, p *patient) (stop func() int, log *bytes.Buffer) {
	t.Helper()
	s := Service[settings, *patient]{Name: "demo", Open: func(context.Context, settings) (*patient, error) { return p, nil },
		Run: func(ctx context.Context, _ settings, _ *patient) error { <-ctx.Done(); return nil }}
	ctx, cancel := context.WithCancel(t.Context())
	log = &bytes.Buffer{}
	code := make(chan int, 1)
	go func() { code <- Exec[settings, *patient, *settings](ctx, s, environ, log, log) }()
	return func() int { cancel(); return <-code }, log
}

func TestTheManagerIsTold(t *testing.T) {
	c, path := journal(t)
	p := &patient{}
	stop, log := watched(t, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=90000", fmt.Sprintf("WATCHDOG_PID=%d", os.Getpid())}, p)
	if got := heard(t, c, 5*time.Second); got != "READY=1" {
		t.Fatalf("first %q", got)
	}
	for range 2 {
		if got := heard(t, c, 5*time.Second); got != "WATCHDOG=1" {
			t.Fatalf("then %q", got)
		}
	}
	p.sick.Store(true)
	for heard(t, c, 300*time.Millisecond) != "" { // one may have been on its way
	}
	p.sick.Store(false)
	if got := heard(t, c, 5*time.Second); got != "WATCHDOG=1" {
		t.Fatalf("when it is well again: %q", got)
	}
	if code := stop(); code != ExitOK {
		t.Errorf("code %d", code)
	}
	last := ""
	for got := heard(t, c, 100*time.Millisecond); got != ""; got = heard(t, c, 100*time.Millisecond) {
		last = got
	}
	if last != "STOPPING=1\nWATCHDOG=1" {
		t.Errorf("last %q", last)
	}
	if !strings.Contains(log.String(), "no pulse") {
		t.Errorf("the log does not say why it was silent: %s", log)
	}
}

func TestNoWatchdogNoPings(t *testing.T) {
	for name, environ := range map[string][]string{
		"none":               nil,
		"nonsense":           {"WATCHDOG_USEC=soon"},
		"of another process": {"WATCHDOG_USEC=30000", "WATCHDOG_PID=1"},
	} {
		t.Run(name, func(t *testing.T) {
			c, path := journal(t)
			stop, _ := watched(t, append([]string{"NOTIFY_SOCKET=" + path}, environ...), &patient{})
			if got := heard(t, c, 5*time.Second); got != "READY=1" {
				t.Errorf("first %q", got)
			}
			if got := heard(t, c, 150*time.Millisecond); got != "" {
				t.Errorf("then %q", got)
			}
			stop()
		})
	}
}

// A manager that is not there stops nobody from working.
func TestAManagerThatIsAway(t *testing.T) {
	stop, log := watched(t, []string{"NOTIFY_SOCKET=" + filepath.Join(t.TempDir(), "none"), "WATCHDOG_USEC=30000"}, &patient{})
	if code := stop(); code != ExitOK || !strings.Contains(log.String(), "was not told") {
		t.Errorf("code %d, %s", code, log)
	}
}

// TestAddressErrorsAreExplained: what the kernel says of an address comes with what it means.
func TestAddressErrorsAreExplained(t *testing.T) {
	for err, want := range map[error]string{
		syscall.EADDRNOTAVAIL: "no address of this machine",
		syscall.EADDRINUSE:    "another process",
	} {
		var out bytes.Buffer
		code := Exec[settings, string, *settings](t.Context(), service(fault.E("bind PORT", fault.Unavailable, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", err)}), nil), nil, &out, &out)
		if code != ExitFailure || strings.Count(out.String(), "\n") != 1 || !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "bind PORT") {
			t.Errorf("code %d, %s", code, &out)
		}
	}
}

// A dependency that is set up wrongly may be put right while we wait: that is no reason to
// stay down, as a wrong setting of ours is.
func TestWhatRunFindsWrongIsAFailure(t *testing.T) {
	var out bytes.Buffer
	if code := Exec[settings, string, *settings](t.Context(), service(nil, fault.Errorf("redis", fault.Invalid, "evicts")), nil, &out, &out); code != ExitFailure {
		t.Errorf("code %d", code)
	}
}
