package chaos

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"eventspine/test/harness"
)

// clockEnv names a file of eight bytes in the environment of a program that BuildSteppable made:
// nanoseconds, of the machine's byte order, by which its clock is wrong. The program maps the file,
// so that a write to it is a step of its clock.
const clockEnv = "CHAOS_CLOCK_FILE"

// steppable is put into Go's own time.Now, where the time of day is read. Only the time of day is
// wrong: what counts the time that passes (timers, time.Since) is not, as in a real clock step.
const steppable = `package time

import (
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

var chaosOnce sync.Once
var chaosClock atomic.Pointer[int64]

func chaosStep() int64 {
	chaosOnce.Do(func() {
		name, ok := syscall.Getenv("` + clockEnv + `")
		if !ok {
			return
		}
		fd, err := syscall.Open(name, syscall.O_RDONLY, 0)
		if err != nil {
			return
		}
		mem, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
		if err == nil {
			chaosClock.Store((*int64)(unsafe.Pointer(&mem[0])))
		}
		_ = syscall.Close(fd)
	})
	if at := chaosClock.Load(); at != nil {
		return atomic.LoadInt64(at)
	}
	return 0
}

func chaosNow(sec int64, nsec int32, mono int64) (int64, int32, int64) {
	at := sec*1e9 + int64(nsec) + chaosStep()
	return at / 1e9, int32(at % 1e9), mono
}
`

// overlay writes what goes into Go's package time below dir, and returns the file for go build -overlay.
func overlay(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	text, err := os.ReadFile(filepath.Join(src, "time.go"))
	if err != nil {
		return "", err
	}
	const reads = "sec, nsec, mono := runtimeNow()"
	if strings.Count(string(text), reads) != 1 {
		return "", errors.New("this Go's time.Now reads the clock in another way than test/chaos/clock.go knows")
	}
	changed, added, list := filepath.Join(dir, "time.go.txt"), filepath.Join(dir, "step.go.txt"), filepath.Join(dir, "overlay.json")
	names, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(src, "time.go"): changed, filepath.Join(src, "chaos_step.go"): added}})
	if err != nil {
		return "", err
	}
	for name, b := range map[string][]byte{
		changed: []byte(strings.Replace(string(text), reads, "sec, nsec, mono := chaosNow(runtimeNow())", 1)),
		added:   []byte(steppable), list: names,
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return "", err
		}
	}
	return list, nil
}

// BuildSteppable compiles the programs into dir, the services with a clock of their own. It needs no
// privilege: the compiler is given another time.Now (go build -overlay). The first time takes some
// minutes, as everything is compiled with it.
func BuildSteppable(ctx context.Context, dir string) error {
	if err := harness.Build(ctx, dir, false); err != nil {
		return err
	}
	list, err := overlay(ctx, dir)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", list, "-o", dir+string(filepath.Separator), "./cmd/api", "./cmd/worker", "./cmd/proxy", "./cmd/indexer", "./cmd/bridge")
	if cmd.Dir, err = harness.Root(); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// misset sets clocks wrong, and right again.
func (w *world) misset(ctx context.Context, f Fault) error {
	for _, by := range []time.Duration{f.Step(), 0} {
		for _, name := range f.Targets {
			if err := w.step(name, by); err != nil {
				return err
			}
		}
		if by != 0 {
			pause(ctx, f.For)
		}
	}
	return nil
}

// step sets a process's clock wrong by so much. 0 puts it right.
func (w *world) step(name string, by time.Duration) error {
	b := make([]byte, 8)
	binary.NativeEndian.PutUint64(b, uint64(by.Nanoseconds()))
	f, err := os.OpenFile(w.clock(name), os.O_CREATE|os.O_WRONLY, 0o600) // never cut short: it is mapped
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

func (w *world) clock(name string) string { return filepath.Join(w.o.Dir, "clock-"+name) }
