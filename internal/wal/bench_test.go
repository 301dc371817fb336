package wal

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ appenders, records int }{{1, 1}, {16, 1}, {64, 1}, {256, 1}, {64, 100}} {
		b.Run(fmt.Sprintf("appenders=%d/records=%d", c.appenders, c.records), func(b *testing.B) {
			l := open(b, Options{Dir: b.TempDir(), MinFree: -1, MaxBytes: 1 << 40})
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range c.appenders {
				wg.Go(func() {
					records := make([][]byte, c.records)
					for i := range records {
						records[i] = make([]byte, 256)
					}
					for left.Add(-1) >= 0 {
						if _, err := l.Append(b.Context(), records, nil); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N*c.records)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func million(tb testing.TB) Options {
	tb.Helper()
	o := Options{Dir: tb.TempDir(), MinFree: -1}
	l := open(tb, o)
	records := make([][]byte, 10_000)
	for i := range records {
		records[i] = make([]byte, 300)
	}
	for range 100 {
		if _, err := l.Append(tb.Context(), records, nil); err != nil {
			tb.Fatal(err)
		}
	}
	_ = l.Close()
	return o
}

func BenchmarkOpenAMillion(b *testing.B) {
	o := million(b)
	for b.Loop() {
		l, err := Open(o)
		if err != nil || l.End() != 1_000_001 {
			b.Fatal(err)
		}
		_ = l.Close()
	}
}

func BenchmarkRead(b *testing.B) {
	o := million(b)
	l := open(b, o)
	r := l.Reader(1)
	defer func() { _ = r.Close() }()
	b.SetBytes(300)
	for b.Loop() {
		i, _, err := r.Next(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if i == 1_000_000 {
			r.Seek(1)
		}
	}
}

// The bound: a restart with a million records is accepting again in 2 s.
func TestAMillionOpensFast(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 300 MB")
	}
	o := million(t)
	began := time.Now()
	l := open(t, o)
	fill(t, l, 1)
	if took := time.Since(began); took > 2*time.Second || l.End() != 1_000_002 {
		t.Errorf("%v, end %d", took, l.End())
	}
	_ = l.Close()
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Error(err)
	}
}
