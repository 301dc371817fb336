package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"eventspine/internal/archive"
)

// drain takes a backlog of o.Drain events while Elasticsearch is away, lets it come back, and shows
// how fast the backlog goes into the index, and what delay live events at the rate have meanwhile.
func drain(ctx context.Context, o options, out io.Writer) error {
	if o.ES == "" {
		return errors.New("-drain needs an Elasticsearch: give -es")
	}
	g, err := openGate(ctx, o.ES)
	if err != nil {
		return err
	}
	defer g.close()
	o.ES = g.url
	return system(ctx, o, func(l *load) error {
		if err := l.warmUp(ctx); err != nil {
			return err
		}
		g.shut(true)
		backlog := newPart("backlog", l.mark, o.Drain)
		took, err := l.take(ctx, backlog)
		if err != nil {
			return err
		}
		spool, err := diskUse(filepath.Join(l.o.dir, "indexer-1"))
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(out, "backlog: %d events taken and in the browsers in %.1f s; the spool has %.0f MB\n", o.Drain, took.Seconds(), spool/(1<<20))
		live, drained, err := l.beside(ctx, g, backlog)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "drained: %d events in %.1f s, %.0f a second\nlive, %d events/s beside it: p50 %.1f ms, p95 %.1f ms, p99 %.1f ms\n%s\n",
			o.Drain, drained.Seconds(), float64(o.Drain)/drained.Seconds(), o.Rate, live.P50, live.P95, live.P99, live.Machine)
		if live.Received != live.Accepted || live.Repeated > 0 {
			err = errors.Join(err, fmt.Errorf("%d live events accepted, %d received, %d repeated", live.Accepted, live.Received, live.Repeated))
		}
		return err
	})
}

// take sends all events of the part in batches and waits until the browsers have them.
func (l *load) take(ctx context.Context, p *part) (time.Duration, error) {
	if err := l.begin(ctx, p); err != nil {
		return 0, err
	}
	if err := l.sendBatches(p); err != nil {
		return 0, err
	}
	late := time.NewTimer(drainPatience)
	defer late.Stop()
	select {
	case <-p.full:
	case <-late.C:
		return 0, fmt.Errorf("%d of %d events of the backlog are in the browsers", p.received.Load(), len(p.seen))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return time.Since(p.began), nil
}

const drainPatience = 15 * time.Minute

// beside opens the gate and sends live events until the backlog is in the index.
func (l *load) beside(ctx context.Context, g *gate, backlog *part) (live *figures, took time.Duration, err error) {
	var both errgroup.Group
	began := time.Now()
	g.shut(false)
	both.Go(func() error {
		var err error
		took, err = l.awaitIndexed(ctx, backlog, began)
		return err
	})
	both.Go(func() (err error) {
		live, err = l.steady(ctx, newPart("live", l.mark, int(float64(l.o.Rate)*l.o.For.Seconds())))
		return err
	})
	return live, took, both.Wait()
}

// awaitIndexed waits until all events of the part are in the index.
func (l *load) awaitIndexed(ctx context.Context, p *part, began time.Time) (time.Duration, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Since(began) < drainPatience {
		n, err := l.archive.Count(ctx, archive.Query{Type: p.typ, AnyUser: true})
		if err == nil && n == int64(len(p.seen)) {
			return time.Since(began), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, fmt.Errorf("the backlog is not in the index after %s", drainPatience)
}

// gate is a way to Elasticsearch that can be shut: connections end, and new ones are refused.
type gate struct {
	url, to string
	listen  net.Listener
	work    sync.WaitGroup
	mu      sync.Mutex
	isShut  bool
	conns   map[net.Conn]struct{}
}

func openGate(ctx context.Context, to string) (*gate, error) {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "http" {
		return nil, fmt.Errorf("%s is not the address of an Elasticsearch: %w", to, errors.Join(err, http.ErrNotSupported))
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{url: "http://" + l.Addr().String(), to: u.Host, listen: l, conns: map[net.Conn]struct{}{}}
	g.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.work.Go(func() { g.pass(ctx, c) })
		}
	})
	return g, nil
}

// pass carries one connection.
func (g *gate) pass(ctx context.Context, in net.Conn) {
	defer g.drop(in)
	if !g.hold(in) {
		return
	}
	to, err := new(net.Dialer).DialContext(ctx, "tcp", g.to)
	if err != nil {
		return
	}
	defer g.drop(to)
	if !g.hold(to) {
		return
	}
	back := make(chan struct{})
	go func() {
		_, _ = io.Copy(in, to) // either end may go
		_ = in.Close()
		close(back)
	}()
	_, _ = io.Copy(to, in)
	_ = to.Close()
	<-back
}

// hold keeps a connection to be ended with the gate; false when that is shut.
func (g *gate) hold(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c] = struct{}{}
	return !g.isShut
}

func (g *gate) drop(c net.Conn) {
	_ = c.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

func (g *gate) shut(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isShut = shut
	for c := range g.conns {
		if shut {
			_ = c.Close()
		}
	}
}

func (g *gate) close() {
	_ = g.listen.Close()
	g.shut(true)
	g.work.Wait()
}
