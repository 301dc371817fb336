package journal_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/testkit"
)

// BenchmarkAppend stores 256-byte events in batches of 100 on a real redis-server, spread over
// a number of partitions and over 1,000 users. It reports events/s and Redis's memory an event.
func BenchmarkAppend(b *testing.B) {
	for _, partitions := range []int{1, 4, 16} {
		for _, callers := range []int{1, 4} {
			b.Run(fmt.Sprintf("partitions=%d/callers=%d", partitions, callers), func(b *testing.B) {
				benchmarkAppend(b, partitions, callers)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, partitions, callers int) {
	client := open(b, testkit.Redis(b))
	j := start(b, client, func(o *journal.Options) { o.Partitions = partitions; o.JournalMax = 1 << 30; o.ReplayMax = 1 << 20 })
	before := figure(b, client.Info(b.Context(), "memory").Val(), "used_memory")
	var user atomic.Int64
	events := atomic.Int64{}
	b.SetParallelism(callers)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		batch := make([]journal.Entry, 100)
		for pb.Next() {
			for i := range batch {
				batch[i] = sized(uuid.Must(uuid.NewV7()).String(), "u"+strconv.FormatInt(user.Add(1)%1000, 10))
			}
			if _, err := j.Append(b.Context(), batch); err != nil {
				b.Error(err)
			}
			events.Add(100)
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(events.Load())/b.Elapsed().Seconds(), "events/s")
	after := client.Info(b.Context(), "memory").Val()
	b.ReportMetric((figure(b, after, "used_memory")-before)/float64(events.Load()), "redis-B/event")
	cpu := client.Info(b.Context(), "cpu").Val()
	b.ReportMetric((figure(b, cpu, "used_cpu_user")+figure(b, cpu, "used_cpu_sys"))*1e6/float64(events.Load()), "redis-µs/event")
}

func sized(id, userID string) journal.Entry {
	raw := fmt.Appendf(nil, `{"id":%q,"type":"notification.test","userId":%q,"data":"`, id, userID)
	for len(raw) < 254 {
		raw = append(raw, "abcdefghij"[len(raw)%10])
	}
	return journal.Entry{Event: event.Event{ID: id, Type: "notification.test", UserID: userID, Raw: append(raw, `"}`...)}, Deliverable: true}
}

// figure reads one number from the text of INFO.
func figure(b *testing.B, info, name string) float64 {
	b.Helper()
	_, rest, _ := strings.Cut(info, name+":")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkApply stores what a worker does in one round: a numbered batch in each of 8 partitions.
// It reports what that costs, in the server's processor time.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{1, 2, 8, 32} {
		b.Run(fmt.Sprint("events=", size), func(b *testing.B) {
			client := open(b, testkit.Redis(b))
			j := start(b, client, func(o *journal.Options) { o.Partitions = 8 })
			number := uint64(0)
			cpu := client.Info(b.Context(), "cpu").Val()
			before := (figure(b, cpu, "used_cpu_user") + figure(b, cpu, "used_cpu_sys")) * 1e6
			b.ResetTimer()
			for range b.N {
				batches := make([]*journal.Batch, 8)
				for p := range batches {
					at := &journal.Batch{Partition: p, Source: "api-1/1", First: number + 1, Last: number + uint64(size), Start: true}
					for i := range size {
						e := sized(uuid.Must(uuid.NewV7()).String(), "u"+strconv.Itoa((int(number)+i)%25+1000*p))
						e.Number = number + uint64(i) + 1
						at.Entries = append(at.Entries, e)
					}
					batches[p] = at
				}
				number += uint64(size)
				if err := j.Apply(b.Context(), batches); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			cpu = client.Info(b.Context(), "cpu").Val()
			used := (figure(b, cpu, "used_cpu_user")+figure(b, cpu, "used_cpu_sys"))*1e6 - before
			b.ReportMetric(used/float64(8*b.N), "redis-µs/batch")
			b.ReportMetric(used/float64(8*b.N*size), "redis-µs/event")
		})
	}
}
