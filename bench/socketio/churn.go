package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	residents = 200 // clients that stay all the time
	visit     = 2 * time.Second
	samples   = 12 // lines of the table
)

// churn lets visitors come, o.rate a second for o.churn, each a user of its own that stays for a
// moment: half of them speak Engine.IO 3, and half say nothing when they leave. It prints what the
// server keeps meanwhile, and before and after with nobody but the residents.
func churn(ctx context.Context, o options, out io.Writer, self string) (err error) {
	s, err := launch(ctx, self, "serve")
	if err != nil {
		return err
	}
	defer s.stop()
	h, err := gather(dialer{s.addr, 4}, residents)
	if err != nil {
		return err
	}
	defer h.close()
	_, _ = fmt.Fprintf(out, "%8s %8s %8s %12s %11s  %s\n", "after", "visits", "refused", "connections", "goroutines", "KiB, garbage collected")
	v := visitors{s: s}
	line := func(after time.Duration, count reply) error {
		kept, err := s.kept()
		_, _ = fmt.Fprintf(out, "%8s %8d %8d %12d %11d  %.0f\n", after.Round(time.Second), v.came.Load(), v.refused.Load(), count.N, count.Goroutines, kept)
		return err
	}
	quiet := func(after time.Duration) error {
		pause(rest)
		count, err := s.settle(residents)
		return errors.Join(err, line(after, count))
	}
	if err := quiet(0); err != nil {
		return err
	}
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for next := o.churn / samples; ctx.Err() == nil && time.Since(began) < o.churn; {
		<-tick.C
		for v.n < int(time.Since(began).Seconds()*float64(o.rate)) {
			v.come()
		}
		if time.Since(began) >= next {
			next += o.churn / samples
			count, err := s.do(command{Do: "count"})
			if err := errors.Join(err, line(time.Since(began), count)); err != nil {
				return err
			}
		}
	}
	v.here.Wait()
	return errors.Join(ctx.Err(), quiet(time.Since(began)))
}

type visitors struct {
	s             *server
	n             int
	came, refused atomic.Int64
	here          sync.WaitGroup
}

// come lets one visitor come and go by itself.
func (v *visitors) come() {
	v.n++
	d, user, polite := dialer{v.s.addr, 3 + v.n%2}, "visitor-"+strconv.Itoa(v.n), v.n%4 < 2
	v.here.Go(func() {
		c, err := d.dial(user, 0)
		if err != nil {
			v.refused.Add(1)
			return
		}
		v.came.Add(1)
		pause(visit/2 + rand.N(visit))
		if polite {
			_ = c.send([]byte("41")) // it may be gone already
		}
		_ = c.conn.Close()
	})
}
