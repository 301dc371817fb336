package socketio

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/socketio/client"
	"eventspine/internal/socketio/hub"
)

// BenchmarkClients measures 2,000 websocket clients of one process that holds both sides: one
// event to one user, sent and received, and one event to everybody until the last has it.
func BenchmarkClients(b *testing.B) {
	const clients = 2000
	h := hub.New(10, clients, hub.Options{})
	s, err := New(Options{Hub: h, HandshakeRate: 10_000, Verify: func(_ context.Context, t string) (User, error) { return User{ID: t}, nil }})
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(s)
	transport := &http.Transport{}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	all := make([]*client.Client, clients)
	for i := range all {
		if all[i], err = client.Dial(context.Background(), web.URL, fmt.Sprint("user-", i), client.Options{HTTP: &http.Client{Transport: transport}}); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d clients connected in %v, %d goroutines", clients, time.Since(began), runtime.NumGoroutine())
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.Logf("%.1f KiB a connection, heap and stacks, both sides", float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/1024/clients)

	var got atomic.Int64
	var readers sync.WaitGroup
	wake := make(chan struct{}, 1)
	var due atomic.Int64
	for _, c := range all {
		readers.Go(func() {
			for {
				if _, _, err := c.Recv(context.Background()); err != nil {
					return
				}
				if got.Add(1) == due.Load() {
					wake <- struct{}{}
				}
			}
		})
	}
	payload := []byte(`{"id":"0190a0b0-0000-7000-8000-000000000000","type":"notification.order","data":"` + strings.Repeat("x", 200) + `"}`)
	b.Run("ToUser", func(b *testing.B) {
		took := make([]time.Duration, 0, b.N)
		for i := 0; b.Loop(); i++ {
			due.Store(got.Load() + 1)
			began := time.Now()
			h.ToUser(fmt.Sprint("user-", i%clients), "notification", payload, hub.Position{})
			<-wake
			took = append(took, time.Since(began))
		}
		percentiles(b, took)
	})
	b.Run("ToAll", func(b *testing.B) {
		took := make([]time.Duration, 0, b.N)
		cpu := processCPU(b)
		for b.Loop() {
			due.Store(got.Load() + clients)
			began := time.Now()
			h.ToAll("notification", payload, hub.Position{})
			<-wake
			took = append(took, time.Since(began))
		}
		percentiles(b, took)
		b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/float64(b.N)/clients, "cpu-µs/delivery")
	})
	for _, c := range all {
		_ = c.Close()
	}
	readers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.Close(ctx)
	web.Close()
	transport.CloseIdleConnections()
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// processCPU is what this process has used, servers and clients together.
func processCPU(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
