// Command bench drives the five programs, each in its own process, with a load generator and
// connected clients on the same machine, and prints what it measured as a table and as JSON.
//
// It has two parts: a steady rate, and a burst; or, with -soak, one long part that shows what
// grows; or, with -drain, a backlog that Elasticsearch was away for. Latency runs from the moment
// an event was due to be sent, not from when the generator got round to it, until its browser got
// it, so that waiting counts. The exit code is 1 when anything that was accepted was lost or repeated.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"eventspine/internal/run"
	"eventspine/test/harness"
)

type options struct {
	Rate    int           // events a second
	For     time.Duration // of the steady part
	WarmUp  time.Duration // of Elasticsearch, before it, not counted
	Clients int
	Burst   int      // events
	Workers int      // worker processes
	Senders int      // keep-alive connections of the generator
	Procs   int      // processors that each service uses at once
	Env     []string // NAME=VALUE for every service
	Redis   string
	ES      string
	Verbose bool
	Soak    time.Duration // 0: the two parts
	Drain   int           // events; 0: likewise

	dir string // of the services' files
}

func main() {
	run.Relax() // as the services: the load takes from the same processors
	var o options
	flag.IntVar(&o.Rate, "rate", 2000, "events a second of the steady part")
	flag.DurationVar(&o.For, "for", 30*time.Second, "length of the steady part")
	flag.DurationVar(&o.WarmUp, "warmup", 90*time.Second, "warm-up of Elasticsearch before the steady part, and half of it at the rate: a cold JVM is slow for so long")
	flag.IntVar(&o.Clients, "clients", 200, "connected Socket.IO clients, one user each")
	flag.IntVar(&o.Burst, "burst", 20000, "events of the burst; 0: none")
	flag.IntVar(&o.Workers, "workers", 1, "worker processes")
	flag.IntVar(&o.Senders, "senders", 32, "keep-alive connections of the load generator")
	flag.IntVar(&o.Procs, "procs", 1, "GOMAXPROCS of each service: they share the machine's processors, and one alone wakes fewer threads; 0: all")
	flag.StringVar(&o.ES, "es", os.Getenv("EVENTSPINE_TEST_ES"), "URL of an Elasticsearch; empty: the embedded index")
	flag.Func("env", "NAME=VALUE for every service; may be given several times", func(v string) error {
		o.Env = append(o.Env, v)
		return nil
	})
	flag.BoolVar(&o.Verbose, "v", false, "print the services' logs at the end")
	flag.DurationVar(&o.Soak, "soak", 0, "instead of the two parts: send at the rate for so long and print what grows")
	flag.IntVar(&o.Drain, "drain", 0, "instead: take so many events while Elasticsearch is away, and print how fast they go into the index when it is back")
	flag.Parse()
	ctx, stop := run.Signals(context.Background())
	code := bench(ctx, o, os.Stdout)
	stop()
	os.Exit(code)
}

func bench(ctx context.Context, o options, out io.Writer) int {
	var other func(context.Context, options, io.Writer) error
	switch {
	case o.Soak > 0:
		other = soak
	case o.Drain > 0:
		other = drain
	}
	if other != nil {
		if err := other(ctx, o, out); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return run.ExitFailure
		}
		return run.ExitOK
	}
	var r *result
	err := system(ctx, o, func(l *load) (err error) {
		r, err = l.parts(ctx)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return run.ExitFailure
	}
	if err := errors.Join(r.table(out), json.NewEncoder(out).Encode(r)); err != nil {
		return run.ExitFailure
	}
	if r.lost() {
		fmt.Fprintln(os.Stderr, "bench: events were lost or repeated")
		return run.ExitFailure
	}
	return run.ExitOK
}

// environment is what every service gets beside its own settings.
func (o *options) environment() []string {
	env := []string{"LOG_LEVEL=WARN"}
	if o.Procs > 0 {
		env = append(env, "GOMAXPROCS="+strconv.Itoa(o.Procs))
	}
	return append(env, o.Env...)
}

// system starts everything, does what is to be measured, and stops everything.
func system(ctx context.Context, o options, do func(*load) error) (err error) {
	dir, err := os.MkdirTemp("", "eventspine-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.dir = dir
	if err := harness.Build(ctx, dir, false); err != nil {
		return err
	}
	if o.Redis == "" {
		p, url, err := harness.Redis(ctx, dir, "--appendonly", "yes", "--appendfsync", "everysec")
		if err != nil {
			return err
		}
		defer func() { _ = p.Stop(5 * time.Second) }()
		o.Redis = url
	}
	s, err := harness.Start(ctx, harness.Options{Bin: dir, Dir: dir, Workers: o.Workers, Redis: o.Redis, ES: o.ES, Env: o.environment()})
	if err != nil {
		return err
	}
	defer func() {
		if o.Verbose || err != nil {
			fmt.Fprintln(os.Stderr, s.Logs())
		}
		err = errors.Join(err, s.Stop())
	}()
	l, err := newLoad(ctx, s, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return do(l)
}
