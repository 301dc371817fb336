// Command zmq measures our ZeroMQ sockets beside libzmq: the same exchanges, the same processes,
// on the same machine in one run, in turn, and prints medians and ratios as a table and as JSON.
//
// Each role of an exchange is a process of its own: a C program (libzmq/peer.c, which
// `make bench-zmq` compiles) for libzmq, this program itself (peer.go) for ours. Slow is not an
// error; the exit code is 1 only when messages were lost or wrong, or nothing could be measured.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"eventspine/internal/run"
	"eventspine/internal/zmq/curve"
)

type options struct {
	Libzmq  string
	Repeats int
	Scale   float64
	Only    string
	Verbose bool
}

func main() {
	run.Collector(os.Environ(), run.GCMoving) // as in the services
	ctx, stop := run.Signals(context.Background())
	code := start(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func start(ctx context.Context, args []string) int {
	var err error
	if len(args) > 1 && args[0] == "peer" {
		var r role
		if r, err = parseRole(args[2:]); err == nil {
			err = play(ctx, args[1], r, os.Stdout)
		}
	} else {
		err = compare(ctx, args, os.Stdout)
	}
	if errors.Is(err, flag.ErrHelp) {
		return run.ExitOK
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/zmq:", err)
		return run.ExitFailure
	}
	return run.ExitOK
}

func compare(ctx context.Context, args []string, out io.Writer) (err error) {
	var o options
	f := flag.NewFlagSet("bench/zmq", flag.ContinueOnError)
	f.StringVar(&o.Libzmq, "libzmq", "", "the compiled libzmq/peer.c")
	f.IntVar(&o.Repeats, "repeats", 5, "runs of each implementation")
	f.Float64Var(&o.Scale, "scale", 1, "how many messages, relative to a run of about a second")
	f.StringVar(&o.Only, "only", "", "measure only what has this in its name")
	f.BoolVar(&o.Verbose, "v", false, "say what each run came to")
	if err := f.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "eventspine-bench-zmq-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	count := findCounter(ctx, dir)
	b := &bench{dir: dir, repeats: max(o.Repeats, 1), log: io.Discard, sides: [2]*implementation{
		{name: "ours", command: []string{self, "peer"}, counter: count},
		{name: "libzmq", command: []string{o.Libzmq}, counter: count}}}
	if o.Verbose {
		b.log = os.Stderr
	}
	rows, err := b.rows(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(table(out, rows, count.name), json.NewEncoder(out).Encode(rows))
}

func (b *bench) rows(ctx context.Context, o options) (rows []*row, err error) {
	keys, err := certificates()
	if err != nil {
		return nil, err
	}
	var left []measure
	for _, m := range measures(o.Scale, keys) {
		if strings.Contains(m.Name, o.Only) {
			left = append(left, m)
		}
	}
	for len(left) > 0 {
		n := 1
		if len(left) > 1 && left[1].after {
			n = 2
		}
		more, err := b.together(ctx, left[:n]...)
		if err != nil {
			return nil, err
		}
		rows, left = append(rows, more...), left[n:]
	}
	return rows, nil
}

// certificates is a new server's and a new client's keys as the roles read them.
func certificates() (string, error) {
	var all string
	for range 2 {
		pair, err := curve.GenerateKeys()
		if err != nil {
			return "", err
		}
		all += pair.Public.Z85() + pair.Secret.Z85()
	}
	return all, nil
}
