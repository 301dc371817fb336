package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"eventspine/internal/run"
)

// TestMain lets the test's own program play the roles, as the benchmark's does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "peer" {
		ctx, stop := run.Signals(context.Background())
		code := start(ctx, os.Args[1:])
		stop()
		os.Exit(code)
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the roles' processes
	goleak.VerifyTestMain(m)
}

func self(t *testing.T) *implementation {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &implementation{name: "ours", command: []string{exe, "peer"}}
}

// TestEveryMeasureOnce runs each exchange of the benchmark with few messages.
func TestEveryMeasureOnce(t *testing.T) {
	keys, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range measures(0.001, keys) {
		t.Run(m.Name, func(t *testing.T) {
			o, err := exchange(t.Context(), t.TempDir(), self(t), m.how, m.role, false)
			if err != nil {
				t.Fatal(err)
			}
			if m.of(o) <= 0 {
				t.Errorf("came to %v %s", m.of(o), m.unit)
			}
		})
	}
}

// TestLossIsSeen plays a producer that sends too little, and one whose messages are not those
// that were asked for.
func TestLossIsSeen(t *testing.T) {
	r := role{Size: 64, Count: 100, HWM: 1000, Topics: 1, Subscribe: 1}
	x := &crew{im: &implementation{name: "ours"}, ends: map[string][]end{"pull": {{result: result{Received: 100}}}}}
	if _, err := x.outcome(r); err != nil {
		t.Fatalf("a good run: %v", err)
	}
	for name, bad := range map[string]result{"lost": {Received: 99}, "wrong": {Received: 100, Wrong: 1}} {
		x.ends["pull"][0].result = bad
		if _, err := x.outcome(r); !errors.Is(err, errLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
	shorter := func(x *crew, r role) error {
		return pushPull(x, role{Size: r.Size + 1, Count: r.Count, HWM: r.HWM, Topics: 1, Subscribe: 1})
	}
	other := func(x *crew, r role) error {
		pull, err := x.start("pull", r)
		if err != nil {
			return err
		}
		if r.Front, err = pull.said("endpoint"); err != nil {
			return err
		}
		r.Size++
		push, err := x.start("push", r)
		if err != nil {
			return err
		}
		return errors.Join(x.ended("pull", pull, pull.finish), x.ended("push", push, push.finish))
	}
	if _, err := exchange(t.Context(), t.TempDir(), self(t), shorter, r, false); err != nil {
		t.Errorf("both ends agree: %v", err)
	}
	if _, err := exchange(t.Context(), t.TempDir(), self(t), other, r, false); !errors.Is(err, errLost) {
		t.Errorf("messages of another size: %v", err)
	}
}

// TestAPeerThatFailsEndsTheRun wants an error and no process left, not a wait.
func TestAPeerThatFailsEndsTheRun(t *testing.T) {
	im := self(t)
	im.command = append(im.command, "no-such-role")
	_, err := exchange(t.Context(), t.TempDir(), im, pushPull, role{Size: 64, Count: 10, Topics: 1}, false)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestRolesReadTheirOwnArguments(t *testing.T) {
	want := role{Front: "tcp://a:1", Back: "tcp://b:2", Pace: "tcp://c:3", Curve: "k", Size: 64, Count: 3, Rate: 4, Window: 5, Subs: 6, ID: 7, Topics: 8, Subscribe: 9, HWM: 10}
	if got, err := parseRole(want.arguments()); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"size=x", "what=1", "size=8"} {
		if _, err := parseRole(append(want.arguments(), bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestCountersAreRead(t *testing.T) {
	perf := "# started\n\n12345,,raw_syscalls:sys_enter,99,100.00,,\n"
	if n, err := parsePerf(perf); err != nil || n != 12345 {
		t.Errorf("perf: %v, %v", n, err)
	}
	strace := "    calls syscall\n--------- ------\n       17 read\n       25 mmap\n--------- ------\n       42 total\n"
	if n, err := parseStrace(strace); err != nil || n != 42 {
		t.Errorf("strace: %v, %v", n, err)
	}
	for _, parse := range []func(string) (float64, error){parsePerf, parseStrace} {
		if _, err := parse("nothing"); err == nil {
			t.Error("a count was read from nothing")
		}
	}
}

func TestRatiosAreJudged(t *testing.T) {
	for _, c := range []struct {
		ratio, goal float64
		less, met   bool
	}{{0.95, 0.9, false, true}, {0.85, 0.9, false, false}, {1.4, 1.5, true, true}, {1.6, 1.5, true, false}} {
		var r row
		if r.judge(c.ratio, c.goal, c.less); *r.Met != c.met {
			t.Errorf("%+v: %s", c, r.Goal)
		}
	}
	one := func(rates ...float64) (runs []*outcome) {
		for _, v := range rates {
			runs = append(runs, &outcome{rate: v})
		}
		return runs
	}
	ms := []measure{{Name: "1", of: rate, unit: "msg/s"}, {Name: "many", of: rate}}
	runs := [][2][]*outcome{{one(1000, 100, 500), one(2000, 2000, 2000)}, {one(800, 85, 450), one(1000, 1000, 1000)}}
	r := cost(ms, runs)
	if r.Name != "many / 1" || r.Ours != 0.85 || r.Libzmq != 0.5 || *r.Met {
		t.Errorf("%+v", r)
	}
	rows := []*row{ms[0].row(runs[0]), r}
	if rows[0].Ours != 500 || rows[0].Ratio != 0.25 {
		t.Errorf("%+v", rows[0])
	}
	var out bytes.Buffer
	if err := table(&out, rows, "perf"); err != nil || !strings.Contains(out.String(), "MISSED") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
