package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is one running program of the system, started from a real executable. Its output
// goes to a file. Safe for concurrent use.
type Process struct {
	Name string
	Log  string // path of the file that holds its standard output and error

	argv  []string
	env   []string
	dir   string
	place Place

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	err  error         // how it ended
}

// Launch starts a program. env holds the only variables it sees besides PATH and HOME.
func Launch(name, dir string, env []string, argv ...string) (*Process, error) {
	return launchAt(Place{}, name, dir, env, argv...)
}

// launchAt is Launch in that place.
func launchAt(at Place, name, dir string, env []string, argv ...string) (*Process, error) {
	p := prepare(name, dir, env, argv...)
	p.place = at
	return p, p.Start()
}

// prepare is Launch that does not start it yet.
func prepare(name, dir string, env []string, argv ...string) *Process {
	env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	return &Process{Name: name, argv: argv, env: env, dir: dir, Log: filepath.Join(dir, name+".log")}
}

// Start runs the program, also again after it ended; its output is appended to the same file.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.env, p.dir, out, out
	start := p.place.Start
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(cmd); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.Name, err), out.Close())
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = errors.Join(err, out.Close())
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// PID is the process id.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Signal sends a signal, and for SIGKILL waits for the end.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	err := cmd.Process.Signal(s)
	if s == syscall.SIGKILL {
		<-done
	}
	return err
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop asks with SIGTERM and waits up to limit, then kills. It returns an error when the
// process did not end by itself with code 0.
func (p *Process) Stop(limit time.Duration) error {
	if !p.Running() {
		return p.ended()
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-p.done:
		return p.ended()
	case <-late.C:
		return errors.Join(fmt.Errorf("%s did not stop within %s", p.Name, limit), p.Signal(syscall.SIGKILL))
	}
}

// Wait waits for the end, at most limit, and returns the exit code.
func (p *Process) Wait(limit time.Duration) (int, error) {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-p.done:
	case <-late.C:
		return 0, fmt.Errorf("%s still runs after %s", p.Name, limit)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.ProcessState.ExitCode(), nil
}

func (p *Process) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.Name, p.err)
	}
	return nil
}

// Until calls try every 20 ms until it returns nil or limit is over, and returns its last error.
func Until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// OK asks url and returns an error unless the answer is 200.
func OK(url string) error {
	client := http.Client{Timeout: 3 * time.Second}
	r, err := client.Get(url)
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", url, r.Status, body)
	}
	return err
}
