package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// What is measured, in the order of the table.
const (
	perConnection = iota
	connects
	perDelivery
	slowest
	slowest99
	targetP50
	targetP99
	targetInside
	targetCPU
	stalledP99
	stalledKiB
	churnKiB
	churnGoroutines
	kinds
)

var names = [kinds]string{
	"KiB a connection", "connects a second", "CPU of a broadcast delivery, µs", "slowest receiver of a broadcast, median, ms",
	"slowest receiver of a broadcast, p99, ms", "5,000 targeted/s, p50, ms", "5,000 targeted/s, p99, ms", "of it in the server until written, p99, ms", "5,000 targeted/s, % of a core",
	"p99 with a stalled client, of that without", "a stalled client, KiB", "after 5,000 came and went, KiB more", "after 5,000 came and went, goroutines more",
}

type figures [kinds]float64

func (f *figures) at(i int) float64 { return f[i] }

const (
	eventBytes = 256
	warmUps    = 5
	rest       = 2 * time.Second
)

// bench is one server with its clients.
type bench struct {
	s *server
	d dialer
	h *herd
	o options
	f figures
}

// measure does all steps with one server.
func measure(ctx context.Context, o options, args ...string) (figures, error) {
	s, err := launch(ctx, args...)
	if err != nil {
		return figures{}, err
	}
	defer s.stop()
	b := &bench{s: s, d: dialer{s.addr, o.eio}, o: o}
	if err := b.connect(); err != nil {
		return b.f, err
	}
	defer b.h.close()
	for _, step := range []struct {
		name string
		do   func() error
	}{{"broadcast", b.broadcast}, {"targeted", b.targeted}, {"stalled", b.stalled}, {"churn", b.churn}} {
		if !strings.Contains(o.steps, step.name) {
			continue
		}
		if err := step.do(); err != nil {
			return b.f, err
		}
	}
	return b.f, ctx.Err()
}

func (b *bench) connect() error {
	one, err := b.d.dial("first", 0) // what is loaded late is loaded now
	if err != nil {
		return err
	}
	_ = one.conn.Close()
	pause(rest)
	before, err := b.s.memory()
	if err != nil {
		return err
	}
	began := time.Now()
	if b.h, err = gather(b.d, b.o.clients); err != nil {
		return err
	}
	b.f[connects] = float64(b.o.clients) / time.Since(began).Seconds()
	if _, err := b.s.settle(b.o.clients); err != nil {
		return err
	}
	pause(rest)
	after, err := b.s.memory()
	b.f[perConnection] = (after - before) / float64(b.o.clients)
	return err
}

// shout broadcasts once and waits until everybody has it.
func (b *bench) shout(size int) ([]time.Duration, error) {
	if _, err := b.s.do(command{Do: "broadcast", Size: size}); err != nil {
		return nil, err
	}
	return b.h.await(len(b.h.all))
}

func (b *bench) broadcast() error {
	for range warmUps {
		if _, err := b.shout(eventBytes); err != nil {
			return err
		}
	}
	n := max(20, 100_000/b.o.clients)
	last := make([]time.Duration, 0, n)
	before, err := b.s.cpu()
	if err != nil {
		return err
	}
	for range n {
		took, err := b.shout(eventBytes)
		if err != nil {
			return err
		}
		last = append(last, took[len(took)-1])
		pause(20 * time.Millisecond)
	}
	after, err := b.s.cpu()
	b.f[perDelivery] = float64((after - before).Microseconds()) / float64(n*b.o.clients)
	b.f[slowest], b.f[slowest99] = percentile(last, 50), percentile(last, 99)
	return err
}

// percentile is in milliseconds; the durations are sorted in place.
func percentile(took []time.Duration, p int) float64 {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return float64(took[min(len(took)-1, len(took)*p/100)].Microseconds()) / 1000
}

func (b *bench) targeted() error {
	c := command{Do: "targeted", Size: eventBytes, Rate: 5000, Seconds: 1, Users: b.o.clients}
	for i := range 2 { // the first warms up
		c.Seconds = 1 + 5*i
		before, err := b.s.cpu()
		if err != nil {
			return err
		}
		said, err := b.s.do(c)
		if err != nil {
			return err
		}
		took, err := b.h.await(c.Rate * c.Seconds)
		if err != nil {
			return err
		}
		after, err := b.s.cpu()
		if err != nil {
			return err
		}
		b.f[targetP50], b.f[targetP99] = percentile(took, 50), percentile(took, 99)
		b.f[targetInside] = float64(said.P99Micros) / 1000
		b.f[targetCPU] = (after - before).Seconds() / float64(c.Seconds) * 100
	}
	return nil
}

// stalled compares broadcasts of 1 KiB to those while one more client does not read.
func (b *bench) stalled() error {
	round := func() (float64, error) {
		var all []time.Duration
		for range max(10, 40_000/b.o.clients) {
			took, err := b.shout(1024)
			if err != nil {
				return 0, err
			}
			all = append(all, took...)
			pause(10 * time.Millisecond)
		}
		return percentile(all, 99), nil
	}
	alone, err := round()
	if err != nil {
		return err
	}
	before, err := b.s.kept()
	if err != nil {
		return err
	}
	c, err := b.d.dial("stalled", 4096)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	// More than the kernel's buffers take, so that the server has to keep what it sends, or let go.
	if _, err := b.s.do(command{Do: "flood", Size: 1024, Rate: 12_000}); err != nil {
		return err
	}
	after, err := b.s.kept()
	if err != nil {
		return err
	}
	beside, err := round()
	b.f[stalledP99], b.f[stalledKiB] = beside/alone, after-before
	return err
}

func (b *bench) churn() error {
	count, err := b.s.settle(len(b.h.all))
	if err != nil {
		return err
	}
	before, err := b.s.kept()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(dialAtOnce)
	for range 5000 {
		g.Go(func() error {
			c, err := b.d.dial("passing", 0)
			if err != nil {
				return err
			}
			return c.conn.Close()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	left, err := b.s.settle(len(b.h.all))
	if err != nil {
		return err
	}
	pause(rest)
	after, err := b.s.kept()
	b.f[churnKiB], b.f[churnGoroutines] = after-before, float64(left.Goroutines-count.Goroutines)
	return err
}
