// Command socketio measures the bridge's Socket.IO server beside the official one for Node: the
// same clients, the same steps, in one run, in turn, and prints figures and ratios.
//
// Each server is a process of its own, node/server.js and this program itself (serve.go), that
// takes commands on stdin. The clients are websockets in this process. Slow is not an error; the
// exit code is 1 only when something did not arrive.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"eventspine/internal/run"
)

type options struct {
	clients int
	node    string
	only    string
	eio     int
	steps   string
	churn   time.Duration
	rate    int
}

func main() {
	if slices.Equal(os.Args[1:], []string{"serve"}) {
		run.Relax()
	}
	run.Collector(os.Environ(), run.GCHolding) // as in the bridge
	ctx, stop := run.Signals(context.Background())
	code := start(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func start(ctx context.Context, args []string) int {
	var err error
	if slices.Equal(args, []string{"serve"}) {
		err = serve(ctx)
	} else {
		err = compare(ctx, args, os.Stdout)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return run.ExitOK
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench-socketio:", err)
		return 1
	}
	return run.ExitOK
}

func compare(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("socketio", flag.ContinueOnError)
	flags.IntVar(&o.clients, "clients", 2000, "websocket clients")
	flags.StringVar(&o.node, "node", "bench/socketio/node/server.js", "the official server's program")
	flags.StringVar(&o.only, "only", "", "node or ours; empty: both, and ratios")
	flags.IntVar(&o.eio, "eio", 4, "what the clients speak: Engine.IO 4, or with -only ours also 3")
	flags.StringVar(&o.steps, "steps", "broadcast,targeted,stalled,churn", "what to measure")
	flags.DurationVar(&o.churn, "churn", 0, "instead: let visitors come and go for so long, and print what our server keeps")
	flags.IntVar(&o.rate, "rate", 200, "visitors a second, with -churn")
	if err := flags.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.churn > 0 && o.rate > 0 {
		return churn(ctx, o, out, self)
	}
	var node, ours figures
	if o.only != "ours" {
		if node, err = measure(ctx, o, "bash", "-c", `ulimit -n "$(ulimit -Hn)"; exec node --expose-gc "$0"`, o.node); err != nil {
			return fmt.Errorf("node: %w", err)
		}
	}
	if o.only != "node" {
		if ours, err = measure(ctx, o, self, "serve"); err != nil {
			return fmt.Errorf("ours: %w", err)
		}
	}
	return print(out, o, node, ours)
}

func print(out io.Writer, o options, node, ours figures) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "%d clients\tnode\tours\tratio\n", o.clients)
	for i, name := range names {
		n, m := node.at(i), ours.at(i)
		if n == 0 && m == 0 {
			continue
		}
		ratio := "-"
		if n != 0 && m != 0 {
			ratio = fmt.Sprintf("%.2f", m/n)
		}
		_, _ = fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%s\n", name, n, m, ratio)
	}
	return w.Flush()
}
