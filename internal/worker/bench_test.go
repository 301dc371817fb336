package worker

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/testkit"
)

// cpu is the processor time this process has used, which a busy machine does not distort.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWorker drives one worker on a real Redis, from the send queue of an api to a
// subscriber behind a proxy, all in this process but for Redis: events of 256 bytes for 1,000
// users, every second one deliverable.
func BenchmarkWorker(b *testing.B) {
	s := newStage(b, testkit.StartRedis(b, "--maxmemory-policy", "noeviction").URL())
	w := s.worker(b, nil)
	snd := sender(b, w.Endpoint())
	const batch = 500
	pad := strings.Repeat("x", 110)
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; n < b.N; {
			m, err := s.sub.Recv(context.Background())
			if err != nil {
				return
			}
			if m.Topic[0] != '_' {
				n++
			}
		}
	}()
	for sent := 0; sent < b.N; {
		events := make([]event.Event, 0, batch)
		for range min(batch, b.N-sent) {
			typ := "audit.x"
			if sent%2 == 0 {
				typ = "notification.x"
			}
			e := event.Event{ID: fmt.Sprintf("0190a7c4-0000-7000-8000-%012d", sent), Type: typ, UserID: fmt.Sprintf("user-%d", sent%1000)}
			e.Raw = fmt.Appendf(nil, `{"id":%q,"type":%q,"userId":%q,"timestamp":1700000000000,"source":"api-1","data":{"text":%q}}`, e.ID, e.Type, e.UserID, pad)
			events = append(events, e)
			sent++
		}
		sendAll(b, snd, events)
	}
	<-done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N)/1e3, "cpu-µs/event")
}
