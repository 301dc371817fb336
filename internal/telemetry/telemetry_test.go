package telemetry

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eventspine/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheRegistryHoldsTheProcess(t *testing.T) {
	r := NewRegistry()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := ""
	for _, f := range families {
		names += f.GetName() + " "
	}
	for _, want := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes", "process_cpu_seconds_total", "process_resident_memory_bytes"} {
		if !strings.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "one_total"})) // each registry is its own
	NewRegistry().MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "one_total"}))
}

func TestStatsdSendsTheArticlesNames(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	s, err := OpenStatsd(server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.Received(3)
	s.Latency(250 * time.Millisecond)
	s.Latency(1500 * time.Microsecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	want := []string{"zmq.events.received:3|c", "zmq.events.latency:250", "zmq.events.latency:1.5"}
	got := ""
	buf := make([]byte, 1500)
	for n := 0; strings.Count(got, "zmq.") < len(want); got += string(buf[:n]) + "\n" {
		if n, _, err = server.ReadFrom(buf); err != nil {
			t.Fatalf("got %q, then %v", got, err)
		}
	}
	for _, line := range want {
		if !strings.Contains(got, line) {
			t.Errorf("got %q, which lacks %q", got, line)
		}
	}
}

func TestStatsdNeverBlocksWithoutAServer(t *testing.T) {
	s, err := OpenStatsd("127.0.0.1:9") // nobody there
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 10_000 {
		s.Received(1)
		s.Latency(time.Second)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := s.Close(); err != nil {
		t.Logf("closing said %v", err) // a refused packet may be reported late
	}
}

func TestNoStatsd(t *testing.T) {
	s, err := OpenStatsd("")
	if s != nil || err != nil {
		t.Fatalf("got %v, %v", s, err)
	}
	s.Received(1)
	s.Latency(time.Second)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStatsdRefusesAWrongAddress(t *testing.T) {
	for _, addr := range []string{"nowhere", "127.0.0.1", "127.0.0.1:port", fmt.Sprint("127.0.0.1:", 1<<20)} {
		s, err := OpenStatsd(addr)
		if fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v, %v", addr, s, err)
		}
		if s != nil {
			_ = s.Close()
		}
	}
}
