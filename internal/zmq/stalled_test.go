package zmq

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"eventspine/internal/zmq/zmtp"
)

// audience are subscribers that note how long each message took.
type audience struct {
	subs []*Socket
	took [][]time.Duration
	wg   sync.WaitGroup
}

// BenchmarkStalledSubscriber compares, in turns, what four subscribers wait for a message of 256 bytes
// at 5,000 messages a second while a fifth one reads nothing, and after it has gone. An operation is one
// turn of each, 300 ms, and the ratio the median of theirs: run it with -benchtime 101x.
func BenchmarkStalledSubscriber(b *testing.B) {
	pub, ep := bound(b, Pub, Options{})
	a := &audience{took: make([][]time.Duration, 4)}
	for range a.took {
		s := connected(b, Sub, Options{}, ep)
		subscribe(b, s, "t")
		a.subs = append(a.subs, s)
	}
	subscriptions(b, pub, len(a.subs))
	a.turn(b, pub) // warm
	var with, without []float64
	b.ResetTimer()
	for i := range b.N {
		turns := []func(){
			func() {
				stall(b, pub, ep, len(a.subs))() // the same before both
				without = append(without, a.turn(b, pub))
			},
			func() {
				end := stall(b, pub, ep, len(a.subs))
				with = append(with, a.turn(b, pub))
				end()
			},
		}
		turns[i%2]()
		turns[1-i%2]()
	}
	ratios := make([]float64, len(with))
	for i := range with {
		ratios[i] = with[i] / without[i]
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(without), "p99-without-µs")
	b.ReportMetric(median(with), "p99-with-µs")
	b.ReportMetric(0, "ns/op")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// stall connects a subscriber that reads nothing and waits until its messages are dropped.
func stall(b *testing.B, pub *Socket, ep string, others int) (end func()) {
	b.Helper()
	c := raw(b, ep)
	if _, err := c.Write(append(hello("SUB"), zmtp.EncodeSubscription("", true)...)); err != nil {
		b.Fatal(err)
	}
	subscriptions(b, pub, others+1)
	before, body := pub.Stats().Dropped, make([]byte, kib64)
	eventually(b, "its first drop", func() bool {
		for range 100 {
			if err := pub.TrySend(Msg{[]byte("fill"), body}); err != nil {
				b.Fatal(err)
			}
		}
		return pub.Stats().Dropped > before+1000
	})
	return func() {
		_ = c.Close()
		peersOf(b, others, pub)
	}
}

// turn publishes for 150 ms and gives the 99th percentile of all waits in microseconds.
func (a *audience) turn(b *testing.B, pub *Socket) float64 {
	b.Helper()
	const batches, size = 150, 5
	for i, s := range a.subs {
		a.took[i] = a.took[i][:0]
		a.wg.Go(func() {
			for range batches * size {
				m, err := s.Recv(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				a.took[i] = append(a.took[i], time.Duration(time.Now().UnixNano()-int64(binary.BigEndian.Uint64(m[1]))))
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range batches {
		<-tick.C
		for range size {
			body := binary.BigEndian.AppendUint64(make([]byte, 0, 256), uint64(time.Now().UnixNano()))
			if err := pub.TrySend(Msg{[]byte("t"), body[:256]}); err != nil {
				b.Fatal(err)
			}
		}
	}
	a.wg.Wait()
	all := slices.Concat(a.took...)
	slices.Sort(all)
	return float64(all[len(all)*99/100]) / float64(time.Microsecond)
}
