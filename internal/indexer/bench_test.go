package indexer

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/retry"
	"eventspine/internal/wal"
)

// BenchmarkDrain indexes a backlog of 100,000 events of about 400 bytes from the spool into a
// genuine Elasticsearch.
func BenchmarkDrain(b *testing.B) {
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		b.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	const events = 100_000
	a, err := archive.New(archive.Options{URLs: []string{url}, Index: "drain"})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	ctx := context.WithoutCancel(b.Context())
	defer func() { _ = a.DeleteIndex(ctx, a.IndexOf(time.UnixMilli(1_700_000_000_000))) }()
	log := slog.New(slog.DiscardHandler)
	for b.Loop() {
		b.StopTimer()
		_ = a.DeleteIndex(ctx, a.IndexOf(time.UnixMilli(1_700_000_000_000))) // the first time there is none
		dir := b.TempDir()
		spool, err := wal.Open(wal.Options{Dir: dir, MinFree: -1})
		if err != nil {
			b.Fatal(err)
		}
		m := newMetrics(prometheus.NewRegistry())
		x, _, err := newBacklog(spool, 0, 1<<30, time.Hour, m, log)
		if err != nil {
			b.Fatal(err)
		}
		for i := range events {
			e, err := event.ParseStored(fmt.Appendf(nil, `{"id":"0193%08x-7000-8000-%012x","type":"order.created","userId":"user-%d","timestamp":%d,"source":"api-1","data":{"orderId":%d,"amount":%d.5,"currency":"EUR","items":[{"sku":"SKU-%d","name":"Blue cotton shirt","qty":2}]},"processed":true,"processedAt":1700000000123,"latencyMs":1.25,"partition":3,"seq":%d,"prev":{"user":0,"feed":0},"epoch":1}`,
				i, i*7919, i%1000, 1_700_000_000_000+i/100, i, i%500, i%977, i+2))
			if err != nil {
				b.Fatal(err)
			}
			if err := x.put(ctx, item{event: e, prev: uint64(i + 1), at: time.Now()}); err != nil {
				b.Fatal(err)
			}
		}
		if err := x.toSpool(ctx); err != nil {
			b.Fatal(err)
		}
		s := &sender{index: a, dead: &deadFile{path: filepath.Join(dir, "dead")}, m: m, log: log, retry: retry.Policy{}}
		b.StartTimer()
		done := make(chan struct{})
		go func() { defer close(done); s.collect(ctx, x, 100, time.Millisecond) }()
		for x.state().Done <= events {
			pause(ctx, time.Millisecond)
		}
		b.StopTimer()
		x.close()
		<-done
		_ = x.reader.Close()
		_ = spool.Close()
		b.StartTimer()
	}
	b.ReportMetric(events*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
