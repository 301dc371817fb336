package zmq

import (
	"context"
	"fmt"
	"testing"
	"time"
)

var benchSizes = []struct {
	name string
	n    int
}{{"256B", 256}, {"1KiB", 1024}, {"64KiB", 64 << 10}}

func BenchmarkPushPull(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(size.name, func(b *testing.B) {
			benchmarkPushPull(b, size.n, Options{}, Options{})
		})
	}
}

func benchmarkPushPull(b *testing.B, size int, server, client Options) {
	pull, ep := bound(b, Pull, server)
	push := connected(b, Push, client, ep)
	peersOf(b, 1, push, pull)
	body := make([]byte, size)
	done := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { done <- drain(pull, b.N) }()
	for range b.N {
		if err := push.Send(b.Context(), Msg{body}); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkForward sends at the pace of the slower subscriber, so that nothing is dropped.
func BenchmarkForward(b *testing.B) {
	for _, size := range benchSizes[:2] {
		b.Run(size.name, func(b *testing.B) {
			const window = 20_000
			big := Options{SndHWM: 4 * window, RcvHWM: 4 * window}
			front, in := bound(b, XSub, big)
			back, out := bound(b, XPub, big)
			ctx, stop := context.WithCancel(b.Context())
			defer stop()
			go func() { _ = Forward(ctx, front, back) }()
			pub := connected(b, Pub, big, in)
			one, two := connected(b, Sub, big, out), connected(b, Sub, big, out)
			for _, s := range []*Socket{one, two} {
				if err := s.Subscribe(""); err != nil {
					b.Fatal(err)
				}
			}
			subscriptions(b, pub, 1)
			subscriptions(b, back, 2)
			body := make([]byte, size.n)
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; {
				n := min(left, window)
				done := make(chan error, 2)
				go func() { done <- drain(one, n) }()
				go func() { done <- drain(two, n) }()
				for range n {
					if err := pub.Send(ctx, Msg{body}); err != nil {
						b.Fatal(err)
					}
				}
				for range 2 {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
				left -= n
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

func drain(s *Socket, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range n {
		if _, err := s.Recv(ctx); err != nil {
			return fmt.Errorf("after %d of %d: %w", i, n, err)
		}
	}
	return nil
}

func BenchmarkCurve(b *testing.B) {
	server, client := curves(b)
	benchmarkPushPull(b, 256, server, client)
}
