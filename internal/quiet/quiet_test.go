package quiet

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/fault"
)

func TestOneLineOfAKindPerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(slog.New(slog.NewJSONHandler(&out, nil)), time.Second)
		for range 5 {
			l.Warn("bad event", "reason", "invalid")
		}
		l.Warn("bad message")
		if n := strings.Count(out.String(), "\n"); n != 2 {
			t.Fatalf("%d lines, want one of each message:\n%s", n, out.String())
		}
		out.Reset()
		time.Sleep(time.Second)
		if !l.Warn("bad event") || !strings.Contains(out.String(), `"more":4`) {
			t.Errorf("after the interval: %s", out.String())
		}
		out.Reset()
		time.Sleep(time.Second)
		if l.Warn("bad event"); strings.Contains(out.String(), "more") {
			t.Errorf("nothing was held back, but: %s", out.String())
		}
	})
}

func TestNoLogNoLine(t *testing.T) {
	var zero Logger
	if New(nil, time.Second).Warn("x") || zero.Warn("x") {
		t.Error("wrote without a log")
	}
}

func TestDependencyLogsChangesOnly(t *testing.T) {
	away := fault.Errorf("redis", fault.Unavailable, "away")
	var lines strings.Builder
	d := NewDependency("redis", slog.New(slog.NewTextHandler(&lines, nil)))
	if d.State() == nil {
		t.Error("ready before it was ever reached")
	}
	for range 5 {
		d.Failed(away)
	}
	d.Failed(errors.New("other"))
	d.Fine()
	d.Fine()
	if n := strings.Count(lines.String(), "\n"); n != 3 || d.State() != nil {
		t.Errorf("%d lines:\n%s", n, lines.String())
	}
}
