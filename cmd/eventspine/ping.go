package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/fault"
	"eventspine/internal/pirate"
	"eventspine/internal/zmq"
)

func pingCommand() *cobra.Command {
	var p pinger
	c := &cobra.Command{
		Use:   "ping [ENDPOINT…]",
		Short: "Ask services whether they are alive",
		Long: "Send PING to the health sockets of services (ZMQ_HEALTH) and print what each answers. Without an endpoint,\n" +
			"the two of this machine are asked. A service that does not answer in time is asked again on a fresh\n" +
			"connection. The exit code is 1 when one of them is silent.",
		RunE: func(c *cobra.Command, args []string) error {
			if p.timeout <= 0 || p.retries < 0 {
				return usage(fmt.Errorf("--timeout must be above 0 and --retries at least 0, not %v and %d", p.timeout, p.retries))
			}
			l, err := readLocal(p.dir)
			if err != nil {
				return err
			}
			if p.curve, err = p.keys.options(l); err != nil {
				return err
			}
			if len(args) == 0 {
				args = healthEndpoints(l)
			}
			return p.run(c.Context(), c.OutOrStdout(), args)
		},
	}
	c.Flags().DurationVar(&p.timeout, "timeout", time.Second, "how long one try may take")
	c.Flags().IntVar(&p.retries, "retries", 2, "tries after the first")
	c.Flags().BoolVar(&p.json, "json", false, "print one JSON object a line")
	dirFlag(c, &p.dir)
	p.keys.flags(c)
	return c
}

type pinger struct {
	timeout time.Duration
	retries int
	json    bool
	dir     string
	keys    curveFlags
	curve   *zmq.CurveOptions // nil: plain
}

// healthEndpoints are those to ask when none was given.
func healthEndpoints(l local) []string {
	if at := os.Getenv("ZMQ_HEALTH"); at != "" {
		return []string{at}
	}
	if len(l.Health) > 0 {
		return l.Health
	}
	return []string{"tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"}
}

// pong is what one endpoint said.
type pong struct {
	Endpoint     string  `json:"endpoint"`
	Alive        bool    `json:"alive"`
	Milliseconds float64 `json:"milliseconds"`
	Error        string  `json:"error,omitempty"`
	err          error
}

func (p *pinger) run(ctx context.Context, out io.Writer, endpoints []string) error {
	pongs := make([]pong, len(endpoints))
	var wg sync.WaitGroup
	for i, at := range endpoints {
		wg.Go(func() { pongs[i] = p.ask(ctx, at) })
	}
	wg.Wait()
	silent := 0
	for _, g := range pongs {
		if fault.KindOf(g.err) == fault.Invalid && g.err != nil {
			return usage(fmt.Errorf("%s: %w", g.Endpoint, g.err))
		}
		if !g.Alive {
			silent++
		}
		if err := p.print(out, g); err != nil {
			return err
		}
	}
	if silent > 0 {
		return fault.Errorf("", fault.Unavailable, "%d of %d did not answer", silent, len(pongs))
	}
	return nil
}

func (p *pinger) ask(ctx context.Context, endpoint string) pong {
	g := pong{Endpoint: endpoint}
	began := time.Now()
	g.err = p.try(ctx, endpoint)
	g.Milliseconds = float64(time.Since(began).Microseconds()) / 1000
	if g.Alive = g.err == nil; !g.Alive {
		g.Error = g.err.Error()
	}
	return g
}

func (p *pinger) try(ctx context.Context, endpoint string) error {
	refused := make(chan error, 1) // the first reason why a handshake failed, which silence does not tell
	c, err := pirate.New(pirate.Options{Endpoints: []string{endpoint}, Timeout: p.timeout, Retries: cmp.Or(p.retries, -1),
		ZMQ: zmq.Options{Curve: p.curve, Monitor: func(e zmq.Event) {
			if e.Kind == zmq.HandshakeFailed {
				select {
				case refused <- e.Err:
				default:
				}
			}
		}}})
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := c.Ask(ctx, zmq.Msg{[]byte("PING")})
	if err != nil {
		select {
		case why := <-refused:
			return fault.E("", fault.KindOf(err), fmt.Errorf("%w; the handshake failed: %w", err, why))
		default:
			return err
		}
	}
	if len(m) != 1 || string(m[0]) != "PONG" {
		return fault.Errorf("", fault.Corrupt, "it answered %.40q, not PONG", m)
	}
	return nil
}

func (p *pinger) print(out io.Writer, g pong) error {
	if p.json {
		return json.NewEncoder(out).Encode(g)
	}
	said := fmt.Sprintf("PONG  %.1f ms", g.Milliseconds)
	if !g.Alive {
		said = g.Error
	}
	_, err := fmt.Fprintf(out, "%s  %s\n", g.Endpoint, said)
	return err
}
