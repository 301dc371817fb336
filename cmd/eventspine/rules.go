package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/clone"
	"eventspine/internal/fault"
	"eventspine/internal/rules/live"
)

const defaultClone = "tcp://127.0.0.1:5563"

func rulesCommand() *cobra.Command {
	r := &liveRules{}
	c := &cobra.Command{
		Use:   "rules",
		Short: "Read and change the rules of all running workers at once",
		Long: "Read and change the live rules, which every worker puts in force at once and without a restart. A rule is\n" +
			"YAML as of one item of a rules file. Rules are tried in the order of their names. As long as there are live\n" +
			"rules, they alone are in force; without any, WORKER_RULES or the built-in rules are.",
	}
	c.PersistentFlags().StringVar(&r.at, "clone", os.Getenv("ZMQ_CLONE"), "endpoints of the live rules in the proxy (ZMQ_CLONE)")
	c.PersistentFlags().StringVar(&r.dir, "dir", defaultDir, "data directory of `eventspine dev`")
	r.keys.flags(c)
	c.PersistentFlags().DurationVar(&r.timeout, "timeout", 5*time.Second, "how long to wait for the proxy")
	set := r.verb("set NAME [FILE]", "Set a rule, from a file or standard input, once it compiles", cobra.RangeArgs(1, 2), r.set)
	set.Flags().DurationVar(&r.ttl, "ttl", 0, "how long the rule lives; 0: until it is removed")
	watch := r.verb("watch", "Print the rules whenever they change, until Ctrl-C", noArgs, r.watch)
	watch.Flags().IntVar(&r.count, "count", 0, "end after so many states of the rules; 0: at Ctrl-C")
	c.AddCommand(set, watch,
		r.verb("get NAME", "Print a rule", cobra.ExactArgs(1), r.get),
		r.verb("rm NAME", "Remove a rule", cobra.ExactArgs(1), r.remove),
		r.verb("list", "Print all rules, as a rules file", noArgs, r.list))
	return c
}

// liveRules is one call of the command.
type liveRules struct {
	at, dir string
	keys    curveFlags
	timeout time.Duration
	ttl     time.Duration
	count   int

	out     io.Writer
	in      io.Reader
	client  *clone.Client
	changed chan map[string][]byte // nil unless somebody watches
}

func (r *liveRules) verb(use, short string, args cobra.PositionalArgs, do func(context.Context, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return usage(err)
			}
			return nil
		},
		RunE: func(c *cobra.Command, a []string) error {
			r.out, r.in = c.OutOrStdout(), c.InOrStdin()
			return do(c.Context(), a)
		},
	}
}

// connected runs do beside a client that has all rules; do's context ends after the timeout.
func (r *liveRules) connected(ctx context.Context, do func(context.Context) error) (err error) {
	l, err := readLocal(r.dir)
	if err != nil {
		return err
	}
	list := strings.Split(r.at, ",")
	if r.at == "" {
		list = l.Clone
	}
	if len(list) == 0 {
		list = []string{defaultClone}
	}
	at, err := clone.ParseEndpoints(list)
	if err != nil {
		return usage(err)
	}
	curve, err := r.keys.options(l)
	if err != nil {
		return err
	}
	o := clone.ClientOptions{Endpoints: at, Subtree: live.Subtree, Curve: curve}
	inner, stop := context.WithCancel(ctx)
	if r.changed != nil {
		o.Changed = func(v map[string][]byte) {
			select {
			case r.changed <- v:
			case <-inner.Done():
			}
		}
	}
	if r.client, err = clone.Dial(o); err != nil {
		stop()
		return usage(err)
	}
	var running sync.WaitGroup
	var ended error
	running.Go(func() { ended = r.client.Run(inner) })
	defer func() {
		stop()
		running.Wait()
		err = errors.Join(err, ended)
	}()
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return do(limited)
}

func (r *liveRules) set(ctx context.Context, args []string) error {
	name := args[0]
	text, err := r.text(args[1:])
	if err != nil {
		return err
	}
	if err := live.Check(name, text); err != nil {
		return err
	}
	return r.connected(ctx, func(ctx context.Context) error { return r.client.Set(ctx, live.Subtree+name, text, r.ttl) })
}

func (r *liveRules) text(args []string) ([]byte, error) {
	if len(args) == 0 || args[0] == "-" {
		return io.ReadAll(io.LimitReader(r.in, clone.MaxValue+1))
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return nil, usage(err)
	}
	return text, nil
}

func (r *liveRules) get(ctx context.Context, args []string) error {
	return r.connected(ctx, func(ctx context.Context) error {
		text, err := r.find(ctx, args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(r.out, strings.TrimRight(string(text), "\n"))
		return err
	})
}

func (r *liveRules) find(ctx context.Context, name string) ([]byte, error) {
	if err := r.client.Wait(ctx); err != nil {
		return nil, err
	}
	values, _ := r.client.Values()
	text, there := values[live.Subtree+name]
	if !there {
		return nil, fault.Errorf("", fault.NotFound, "there is no live rule %s", name)
	}
	return text, nil
}

func (r *liveRules) remove(ctx context.Context, args []string) error {
	return r.connected(ctx, func(ctx context.Context) error {
		if _, err := r.find(ctx, args[0]); err != nil {
			return err
		}
		return r.client.Delete(ctx, live.Subtree+args[0])
	})
}

func (r *liveRules) list(ctx context.Context, _ []string) error {
	return r.connected(ctx, func(ctx context.Context) error {
		if err := r.client.Wait(ctx); err != nil {
			return err
		}
		values, _ := r.client.Values()
		return r.print(values)
	})
}

func (r *liveRules) watch(ctx context.Context, _ []string) error {
	r.changed = make(chan map[string][]byte)
	return r.connected(ctx, func(limited context.Context) error {
		for n, wait := 0, limited; r.count == 0 || n < r.count; n, wait = n+1, ctx {
			select {
			case values := <-r.changed:
				if err := r.print(values); err != nil {
					return err
				}
			case <-wait.Done():
				if ctx.Err() == nil {
					return r.client.Wait(wait) // says why nothing came
				}
				return nil //nolint:nilerr // Ctrl-C ends it well
			}
		}
		return nil
	})
}

// print writes the rules as a rules file, in the order in which they are tried.
func (r *liveRules) print(values map[string][]byte) error {
	if len(values) == 0 {
		_, err := fmt.Fprintln(r.out, "rules: []")
		return err
	}
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString("rules:\n")
	for _, key := range keys {
		text := strings.TrimRight(string(values[key]), " \r\n")
		b.WriteString("  - " + strings.ReplaceAll(text, "\n", "\n    ") + "\n")
	}
	_, err := io.WriteString(r.out, b.String())
	return err
}
