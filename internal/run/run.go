// Package run turns a service into a process: it reads the settings, makes the logger,
// ends the service on a signal, and is the only package that knows signals and exit codes.
package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"eventspine/internal/config"
	"eventspine/internal/fault"
)

// The exit codes of every eventspine process.
const (
	ExitOK      = 0
	ExitFailure = 1 // the service failed while it ran
	ExitUsage   = 2 // a setting or an argument is wrong
)

// Service describes a node to Main: its name, its default settings and its two functions.
// C is the Config, D what Open made: the bound sockets and opened clients that Run owns.
type Service[C any, D any] struct {
	Name       string
	Prefix     string // of the settings that are its own, such as WORKER_
	GCPercent  int    // for Collector; default GCMoving
	Background bool   // others of the machine go first: nobody waits for what it does
	Config     C
	Open       func(context.Context, C) (D, error)
	Run        func(context.Context, C, D) error
}

// Main runs the service until SIGTERM or SIGINT and ends the process. The first signal asks
// for a clean drain, a second one ends at once. *C must be a config.Service. With the argument
// healthcheck it asks the running service whether it is ready instead, with version it says which it is.
func Main[C any, D any, P interface {
	*C
	config.Service
}](s Service[C, D]) {
	if len(os.Args) == 1 {
		if s.Background {
			giveWay()
		}
		Relax()
	}
	Collector(os.Environ(), cmp.Or(s.GCPercent, GCMoving))
	ctx, stop := Signals(context.Background())
	code := command[C, D, P](ctx, s, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exec is Main without the process: it returns the exit code.
func Exec[C any, D any, P interface {
	*C
	config.Service
}](ctx context.Context, s Service[C, D], environ []string, stdout, stderr io.Writer) int {
	cfg := P(&s.Config)
	if err := config.Load(cfg, environ, s.Prefix); err != nil {
		return refuse(stderr, s.Name, err)
	}
	base := cfg.Base()
	base.Service = s.Name
	base.Log = Logger(stdout, s.Name, base)
	deps, err := s.Open(ctx, s.Config)
	if fault.KindOf(err) == fault.Invalid && err != nil {
		_, _ = fmt.Fprintf(stderr, "eventspine %s: %v\n", s.Name, err)
		return ExitUsage
	}
	if err == nil {
		base.Log.Info("started", "version", version)
		m := managerOf(environ, base.Log)
		ended := m.began(ctx, deps)
		err = s.Run(ctx, s.Config, deps)
		ended()
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		base.Log.Error("failed", "error", explained(err), "kind", fault.KindOf(err))
		return ExitFailure
	}
	base.Log.Info("stopped")
	return ExitOK
}

// explained adds to what the kernel says of an address what that means.
func explained(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (it is no address of this machine; `ip address` lists those that are)", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (another process listens there; `ss -ltnp` says which)", err)
	}
	return err
}

// How much a process may allocate between two garbage collections, in percent of what it holds. At
// Go's 100 a process that holds 4 MB and moves 500 MB a second collects a hundred times a second,
// for a third of its CPU.
const (
	GCMoving  = 400 // for a process that holds little
	GCHolding = 200 // for one that holds something for each of thousands of clients
)

// Collector sets the garbage collector of this process to the percentage, unless GOGC is in the
// environment. Call it once, from main.
func Collector(environ []string, percent int) {
	for _, v := range environ {
		if strings.HasPrefix(v, "GOGC=") {
			return
		}
	}
	debug.SetGCPercent(percent)
}

// Logger is the JSON logger of a service.
func Logger(w io.Writer, name string, c *config.Common) *slog.Logger {
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: c.LogLevel})
	return slog.New(h).With("service", name, "instance", c.InstanceID)
}

// Code is the exit code that an error means.
func Code(err error) int {
	switch {
	case err == nil:
		return ExitOK
	case fault.KindOf(err) == fault.Invalid:
		return ExitUsage
	}
	return ExitFailure
}

// Signals returns a context that ends at the first SIGINT or SIGTERM. A second signal ends
// the process at once with code 1. stop releases both.
func Signals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	got := make(chan os.Signal, 2) // both signals may come before the goroutine runs
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-got:
			cancel()
		case <-done:
			return
		}
		select {
		case <-got:
			os.Exit(ExitFailure)
		case <-done:
		}
	}()
	return ctx, func() { signal.Stop(got); close(done); cancel() }
}
