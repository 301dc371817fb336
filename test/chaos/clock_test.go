package chaos

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestAClockIsSetWrong: a program that is built with the overlay has the time that its file says, also
// while it runs, and its timers do not care.
func TestAClockIsSetWrong(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles Go's own packages")
	}
	dir := t.TempDir()
	list, err := overlay(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "clock.go")
	const source = `package main

import ("bufio"; "fmt"; "os"; "time")

func main() {
	began := time.Now()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(time.Now().UnixMilli(), time.Since(began).Milliseconds())
	}
}
`
	if err := os.WriteFile(program, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "clock")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", list, "-o", bin, program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := &world{o: Options{Dir: dir}}
	if err := w.step("any", 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin)
	cmd.Env = append(os.Environ(), clockEnv+"="+w.clock("any"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	for _, by := range []time.Duration{0, time.Hour, -20 * time.Minute, 0} {
		if err := w.step("any", by); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write([]byte("now\n")); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 64)
		n, err := out.Read(line)
		if err != nil {
			t.Fatal(err)
		}
		at, since, _ := strings.Cut(strings.TrimSpace(string(line[:n])), " ")
		ms, _ := strconv.ParseInt(at, 10, 64)
		passed, _ := strconv.ParseInt(since, 10, 64)
		if off := time.Until(time.UnixMilli(ms)) - by; off.Abs() > 10*time.Second {
			t.Errorf("a clock that is wrong by %v says %v, now it is %v", by, time.UnixMilli(ms), time.Now())
		}
		if passed < 0 || passed > time.Minute.Milliseconds() {
			t.Errorf("with a clock that is wrong by %v, %d ms have passed", by, passed)
		}
	}
}
