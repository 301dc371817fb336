package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// server is one of the two servers, in a process of its own.
type server struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	addr  string
}

// launch starts the program and waits for its address. It ends with ctx, or when stop is called.
func launch(ctx context.Context, args ...string) (*server, error) {
	s := &server{cmd: exec.CommandContext(ctx, args[0], args[1:]...)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.lines = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	said, err := s.hear()
	if err != nil {
		s.stop()
		return nil, err
	}
	s.addr = said.Addr
	return s, nil
}

func (s *server) hear() (r reply, err error) {
	if !s.lines.Scan() {
		return r, errors.Join(errors.New("the server said nothing"), s.lines.Err())
	}
	return r, json.Unmarshal(s.lines.Bytes(), &r)
}

// do gives a command and waits for its reply.
func (s *server) do(c command) (reply, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return reply{}, err
	}
	if _, err := s.in.Write(append(b, '\n')); err != nil {
		return reply{}, err
	}
	return s.hear()
}

func (s *server) stop() {
	_ = s.in.Close()
	_ = s.cmd.Wait() // its exit code is no result
}

// settle waits until the server has n clients.
func (s *server) settle(n int) (reply, error) {
	for range 200 {
		r, err := s.do(command{Do: "count"})
		if err != nil || r.N == n {
			return r, err
		}
		pause(50 * time.Millisecond)
	}
	return reply{}, fmt.Errorf("the server never had %d clients", n)
}

// kept is the memory of the process after a garbage collection, in KiB.
func (s *server) kept() (float64, error) {
	for range 2 {
		if _, err := s.do(command{Do: "collect"}); err != nil {
			return 0, err
		}
	}
	return s.memory()
}

// memory is the resident memory of the process, in KiB.
func (s *server) memory() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	return strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
}

const ticks = 100 // of /proc/PID/stat a second, on Linux

// cpu is the time that the process has used.
func (s *server) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is short")
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / ticks, errors.Join(err1, err2)
}

// pause lets time pass between two steps of a measurement.
func pause(d time.Duration) { <-time.After(d) }
