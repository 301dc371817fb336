package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
	"eventspine/internal/mdp"
	"eventspine/internal/run"
	"eventspine/internal/status"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// server answers each message on a REP socket by fn, until the test ends.
func server(t *testing.T, fn func(zmq.Msg) string) string {
	t.Helper()
	rep := zmq.New(zmq.Rep, zmq.Options{})
	at, err := rep.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spawn(t, func(ctx context.Context) error {
		for {
			m, err := rep.Recv(ctx)
			if err != nil {
				return rep.Close(context.Background())
			}
			if err := rep.Send(ctx, zmq.Msg{[]byte(fn(m))}); err != nil {
				return err
			}
		}
	})
	return at
}

// spawn runs fn until the test ends, or until the returned function is called.
func spawn(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fn(ctx) }()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestPing(t *testing.T) {
	alive := server(t, func(m zmq.Msg) string {
		if string(m[0]) == "PING" {
			return "PONG"
		}
		return "ERROR"
	})
	odd := server(t, func(zmq.Msg) string { return "what?" })
	const nobody = "tcp://127.0.0.1:1"
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"one that lives", []string{alive}, run.ExitOK, []string{alive + "  PONG  "}},
		{"one that is away", []string{alive, nobody}, run.ExitFailure, []string{alive + "  PONG", nobody + "  no answer"}},
		{"one that says something else", []string{odd}, run.ExitFailure, []string{odd, `["what?"], not PONG`}},
		{"without retries", []string{nobody, "--retries", "0"}, run.ExitFailure, []string{"1 tries"}},
		{"as JSON", []string{alive, "--json"}, run.ExitOK, []string{`"alive":true`, alive}},
		{"no endpoint", []string{"nonsense"}, run.ExitUsage, nil},
		{"no timeout", []string{"--timeout", "0s"}, run.ExitUsage, nil},
		{"fewer than no retries", []string{"--retries", "-1"}, run.ExitUsage, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _, err := call(t, append([]string{"ping", "--timeout", "500ms"}, c.args...)...)
			if run.Code(err) != c.code {
				t.Errorf("%v, code %d", err, run.Code(err))
			}
			for _, s := range c.says {
				if !strings.Contains(out, s) {
					t.Errorf("%q is missing in %s", s, out)
				}
			}
		})
	}
	t.Setenv("ZMQ_HEALTH", alive)
	if out, _, err := call(t, "ping"); err != nil || !strings.Contains(out, alive) {
		t.Errorf("%s, %v", out, err)
	}
}

func TestStatus(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("ZMQ_CONTROL", "")
	b, err := mdp.Listen(t.Context(), "tcp://127.0.0.1:0", mdp.BrokerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spawn(t, b.Run)
	at := b.Endpoint()
	if out, _, err := call(t, "status", "--control", at); err != nil || !strings.Contains(out, "no service is registered") {
		t.Errorf("%s, %v", out, err)
	}
	reg := prometheus.NewRegistry()
	waiting := prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_ingest_waiting_messages_count", Help: "h"})
	waiting.Set(7)
	reg.MustRegister(waiting)
	for instance, figures := range map[string]prometheus.Gatherer{"worker-1": reg, "worker-2": nil} {
		r, err := status.New(status.Options{Service: "worker", Instance: instance, Brokers: []string{at}, Figures: figures})
		if err != nil {
			t.Fatal(err)
		}
		stop := spawn(t, r.Run)
		testkit.Eventually(t, 5*time.Second, func() bool {
			out, _, err := call(t, "status", "--control", at)
			return err == nil && strings.Contains(out, instance+"  alive")
		}, instance+" is alive")
		if instance == "worker-2" {
			stop()
		}
	}
	testkit.Eventually(t, 5*time.Second, func() bool {
		out, _, err := call(t, "status", "--control", at)
		return err == nil && strings.Contains(out, "worker-2  gone")
	}, "worker-2 is gone")

	// A running `eventspine dev` says where the control plane is.
	if err := os.Mkdir(defaultDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (local{Control: at}).save(defaultDir); err != nil {
		t.Fatal(err)
	}
	out, _, err := call(t, "status")
	if err != nil || !strings.Contains(out, "ingest_waiting_messages 7") || !strings.Contains(out, " ago") {
		t.Errorf("%s, %v", out, err)
	}
	out, _, err = call(t, "status", "--json")
	var reports []status.Report
	if err != nil || json.Unmarshal([]byte(out), &reports) != nil || len(reports) != 2 || reports[0].Status.Queues["ingest_waiting_messages"] != 7 {
		t.Errorf("%s, %v", out, err)
	}
}

func TestStatusWithoutControlPlane(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := call(t, "status", "--control", "tcp://127.0.0.1:1", "--timeout", "50ms"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	if _, _, err := call(t, "status", "--control", "nonsense"); run.Code(err) != run.ExitUsage {
		t.Errorf("got %v", err)
	}
	if _, _, err := call(t, "status", "now"); run.Code(err) != run.ExitUsage {
		t.Errorf("got %v", err)
	}
	if err := os.MkdirAll(defaultDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(defaultDir, localFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := call(t, "status"); err == nil {
		t.Error("a broken dev.json is not told")
	}
}

func TestStatusTable(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := statusTable(&out, []status.Report{
		{Service: "api", Instance: "api-1", State: status.Alive, Processes: 1, Status: &status.Status{Since: now.Add(-90 * time.Second), Version: "v1",
			Queues: map[string]float64{"a": 0, "b": 2}, Rates: map[string]float64{"w": 1, "x": 2.25, "y": 30, "z": 4}}},
		{Service: "api", Instance: "api-2", State: status.Alive, Processes: 2, Status: &status.Status{Since: now, Version: "v1"}},
		{Service: "bridge", Instance: "bridge-1", State: status.Silent, Processes: 1, Error: "no answer"},
		{Service: "worker", Instance: "worker-1", State: status.Gone, Seen: now.Add(-time.Minute)},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for l := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(l), " "))
	}
	for i, want := range []string{"SERVICE INSTANCE STATE SINCE VERSION WAITING PER SECOND",
		"api api-1 alive 2026-03-01 11:58:30 (1m30s) v1 b 2 y 30.0, z 4.0, x 2.2",
		"api api-2 alive (2 processes of this name) 2026-03-01 12:00:00 (0s) v1 - -",
		"bridge bridge-1 silent no answer",
		"worker worker-1 gone 1m0s ago"} {
		if i >= len(got) || got[i] != want {
			t.Errorf("line %d is not %q in\n%s", i, want, out.String())
		}
	}
}
