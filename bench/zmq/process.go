package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one role in a process of its own.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	calls string // file that a counter writes
	err   strings.Builder
}

// implementation is a program that plays the roles.
type implementation struct {
	name    string
	command []string
	counter counter
}

// counter runs a program and counts its system calls.
type counter struct {
	name    string
	command []string // before the program, ends with the name of a file to write
	parse   func(text string) (float64, error)
}

// counters are tried in turn. perf costs the program next to nothing; strace slows each call.
var counters = []counter{
	{"perf", []string{"perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"}, parsePerf},
	{"strace", []string{"strace", "-f", "-c", "-U", "calls", "-o"}, parseStrace},
}

// findCounter gives the first that works here; without any, its name is empty.
func findCounter(ctx context.Context, dir string) counter {
	for _, c := range counters {
		file := filepath.Join(dir, c.name)
		args := slices.Concat(c.command, []string{file, "true"})
		if exec.CommandContext(ctx, args[0], args[1:]...).Run() != nil {
			continue
		}
		if text, err := os.ReadFile(file); err == nil {
			if n, err := c.parse(string(text)); err == nil && n > 0 {
				return c
			}
		}
	}
	return counter{}
}

func parsePerf(text string) (float64, error) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "sys_enter") {
			count, _, _ := strings.Cut(line, ",")
			return strconv.ParseFloat(count, 64)
		}
	}
	return 0, errors.New("no count of system calls")
}

func parseStrace(text string) (float64, error) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] == "total" {
			return strconv.ParseFloat(fields[0], 64)
		}
	}
	return 0, errors.New("no count of system calls")
}

// start runs the role; count makes its system calls counted.
func (im *implementation) start(ctx context.Context, dir, name string, r role, count bool) (*process, error) {
	args := slices.Concat(im.command, []string{name}, r.arguments())
	p := &process{}
	if count {
		f, err := os.CreateTemp(dir, "calls")
		if err != nil {
			return nil, err
		}
		p.calls = f.Name()
		if err := f.Close(); err != nil {
			return nil, err
		}
		args = slices.Concat(im.counter.command, []string{p.calls}, args)
	}
	p.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	p.cmd.Stderr = &p.err
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stallTime
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.lines = bufio.NewScanner(out)
	return p, p.cmd.Start()
}

// said waits for the line that begins with word and gives the rest of it.
func (p *process) said(word string) (string, error) {
	for p.lines.Scan() {
		if rest, ok := strings.CutPrefix(p.lines.Text(), word+" "); ok {
			return rest, nil
		}
	}
	return "", fmt.Errorf("%s ended before it said %q: %w", strings.Join(p.cmd.Args, " "), word, errors.Join(p.lines.Err(), io.ErrUnexpectedEOF))
}

// end is what a process says and has used at its end.
type end struct {
	result
	cpu   time.Duration
	calls float64
}

// finish waits for the result and the process's end.
func (p *process) finish(im *implementation) (e end, err error) {
	line, err := p.said("result")
	if err == nil {
		e.result, err = parseResult(line)
	}
	more, waited := p.wait(im)
	e.cpu, e.calls = more.cpu, more.calls
	return e, errors.Join(err, waited)
}

// interrupt ends a proxy. One of libzmq's says nothing before it ends.
func (p *process) interrupt(im *implementation) (e end, err error) {
	if err := p.signal(); err != nil {
		return e, err
	}
	var said result
	if line, err := p.said("result"); err == nil {
		if said, err = parseResult(line); err != nil {
			return e, err
		}
	}
	e, err = p.wait(im)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	e.result = said
	return e, err
}

// signal asks the program itself, which may be a child of a counter's.
func (p *process) signal() error {
	if p.calls == "" {
		return p.cmd.Process.Signal(syscall.SIGTERM)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *process) wait(im *implementation) (e end, err error) {
	for p.lines.Scan() { // to the end, or Wait would not return
		continue
	}
	if err := p.cmd.Wait(); err != nil {
		return e, fmt.Errorf("%s: %w\n%s", strings.Join(p.cmd.Args, " "), err, p.err.String())
	}
	e.cpu = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	if p.calls == "" {
		return e, nil
	}
	text, err := os.ReadFile(p.calls)
	if err == nil {
		e.calls, err = im.counter.parse(string(text))
	}
	return e, err
}

// outcome is what one exchange came to.
type outcome struct {
	rate        float64            // messages a second at the slowest receiver
	p50, p99    time.Duration      // on the way, at the slower receiver
	cpu         time.Duration      // of all processes, a message
	calls       map[string]float64 // system calls a message, by role
	allocations map[string]float64 // a message, by role
}

// shape starts the roles of one kind of exchange and sees them to their end.
type shape func(x *crew, r role) error

// crew is the processes of one exchange.
type crew struct {
	ctx     context.Context
	dir     string
	im      *implementation
	count   bool
	running []*process
	ends    map[string][]end
}

// exchange runs all roles of one exchange and checks that nothing was lost.
func exchange(ctx context.Context, dir string, im *implementation, how shape, r role, count bool) (*outcome, error) {
	ctx, stop := context.WithCancel(ctx)
	x := &crew{ctx: ctx, dir: dir, im: im, count: count, ends: map[string][]end{}}
	err := how(x, r)
	stop()
	for _, p := range x.running { // after an error
		_, _ = p.wait(im)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", im.name, err)
	}
	return x.outcome(r)
}

func (x *crew) start(name string, r role) (*process, error) {
	p, err := x.im.start(x.ctx, x.dir, name, r, x.count)
	if err == nil {
		x.running = append(x.running, p)
	}
	return p, err
}

// ended notes what finish or interrupt says of the process.
func (x *crew) ended(name string, p *process, finish func(*implementation) (end, error)) error {
	x.running = slices.DeleteFunc(x.running, func(q *process) bool { return q == p })
	e, err := finish(x.im)
	x.ends[name] = append(x.ends[name], e)
	return err
}

func (x *crew) outcome(r role) (*outcome, error) {
	o := &outcome{calls: map[string]float64{}, allocations: map[string]float64{}}
	var took time.Duration
	for name, ends := range x.ends {
		for _, e := range ends {
			o.cpu += e.cpu / time.Duration(r.Count)
			o.calls[name] = max(o.calls[name], e.calls/float64(r.Count))
			o.allocations[name] = max(o.allocations[name], e.Allocations)
			if name != "pull" && name != "sub" {
				continue
			}
			took = max(took, e.Last.Sub(e.First))
			o.p50, o.p99 = max(o.p50, e.P50), max(o.p99, e.P99)
			if e.Received != r.Count || e.Wrong > 0 {
				return nil, fmt.Errorf("%s: %w: %s got %d of %d, %d of them wrong", x.im.name, errLost, name, e.Received, r.Count, e.Wrong)
			}
		}
	}
	o.rate = float64(r.Count-1) / took.Seconds()
	return o, nil
}

var errLost = errors.New("messages lost or wrong")

// pushPull is one producer and one consumer.
func pushPull(x *crew, r role) error {
	pull, err := x.start("pull", r)
	if err != nil {
		return err
	}
	if r.Front, err = pull.said("endpoint"); err != nil {
		return err
	}
	push, err := x.start("push", r)
	if err != nil {
		return err
	}
	return errors.Join(x.ended("pull", pull, pull.finish), x.ended("push", push, push.finish))
}

// forward is a publisher, a proxy and two subscribers.
func forward(x *crew, r role) error {
	proxy, err := x.start("proxy", r)
	if err != nil {
		return err
	}
	if r.Front, err = proxy.said("endpoint"); err != nil {
		return err
	}
	if r.Back, err = proxy.said("back"); err != nil {
		return err
	}
	r.Subs = 2
	if err := publish(x, r); err != nil {
		return err
	}
	return x.ended("proxy", proxy, proxy.interrupt)
}

// direct is a publisher and a subscriber.
func direct(x *crew, r role) error {
	r.Subs = 1
	return publish(x, r)
}

// publish plays publisher and subscribers.
func publish(x *crew, r role) error {
	pub, err := x.start("pub", r)
	if err != nil {
		return err
	}
	if r.Pace, err = pub.said("pace"); err != nil {
		return err
	}
	if r.Front == "" {
		if r.Back, err = pub.said("endpoint"); err != nil {
			return err
		}
	}
	subs := make([]*process, r.Subs)
	for r.ID = range subs {
		if subs[r.ID], err = x.start("sub", r); err != nil {
			return err
		}
	}
	for _, sub := range subs {
		err = errors.Join(err, x.ended("sub", sub, sub.finish))
	}
	return errors.Join(err, x.ended("pub", pub, pub.finish))
}
