package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"eventspine/internal/fault"
	"eventspine/internal/mdp"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const beat = 100 * time.Millisecond

type gauges struct {
	reg     *prometheus.Registry
	stored  *prometheus.CounterVec
	waiting prometheus.Gauge
}

func registry() *gauges {
	g := &gauges{prometheus.NewRegistry(),
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eventspine_worker_stored_events_total", Help: "h"}, []string{"kind"}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_ingest_waiting_messages_count", Help: "h"})}
	g.reg.MustRegister(g.stored, g.waiting,
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "eventspine_ingest_producers_count", Help: "h"}),
		prometheus.NewCounter(prometheus.CounterOpts{Name: "other_things_total", Help: "h"}),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: "eventspine_worker_commit_seconds", Help: "h"}))
	return g
}

func TestRatesAreCountedOverTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := registry()
		f := newFigures(g.reg)
		if _, rates, err := f.read(); err != nil || len(rates) != 0 {
			t.Errorf("before the first sample: %v, %v", rates, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := f.watch(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		g.stored.WithLabelValues("a").Add(30)
		g.stored.WithLabelValues("b").Add(10)
		g.waiting.Set(7)
		time.Sleep(4 * time.Second)
		queues, rates, err := f.read()
		if err != nil || rates["worker_stored_events"] != 10 || len(rates) != 1 {
			t.Errorf("rates %v, %v", rates, err)
		}
		if queues["ingest_waiting_messages"] != 7 || len(queues) != 1 {
			t.Errorf("queues %v", queues)
		}
		time.Sleep(20 * time.Second)
		g.stored.WithLabelValues("a").Add(70) // 4 s after the newest sample, 9 s after the one before
		if _, rates, _ = f.read(); rates["worker_stored_events"] < 70.0/10 || rates["worker_stored_events"] > 70.0/5 {
			t.Errorf("rates %v", rates)
		}
		time.Sleep(time.Minute)
		if _, rates, _ = f.read(); rates["worker_stored_events"] != 0 {
			t.Errorf("rates %v when nothing happens", rates)
		}
		g.stored.Reset()
		g.stored.WithLabelValues("a").Add(5)
		if _, rates, _ = f.read(); rates["worker_stored_events"] <= 0 {
			t.Errorf("after a reset the rate is %v", rates)
		}
		cancel()
		wg.Wait()
	})
}

func TestOnlyWhatWaitsIsAQueue(t *testing.T) {
	for name, want := range map[string]bool{"ingest_waiting_messages_count": true, "mdp_queued_requests_count": true,
		"indexer_lag_milliseconds": true, "indexer_spool_bytes": true, "ingest_producers_count": false, "go_goroutines": false} {
		if measuresQueue(name) != want {
			t.Error(name)
		}
	}
}

// broken is a registry that cannot be read.
func broken() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "eventspine_x_total", Help: "h"}, func() float64 { return 1 }))
	r.MustRegister(liar{})
	return r
}

// liar collects what it does not describe as it should.
type liar struct{}

func (liar) Describe(ch chan<- *prometheus.Desc) {
	ch <- prometheus.NewDesc("eventspine_y", "h", nil, nil)
}

func (liar) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("eventspine_y", "h", nil, nil), errBroken)
}

var errBroken = errors.New("cannot gather")

func TestWhatIsAnsweredWhenThereIsNoAnswer(t *testing.T) {
	for _, c := range []struct {
		says    string
		figures prometheus.Gatherer
		body    zmq.Msg
	}{
		{"send the one frame", nil, zmq.Msg{[]byte("coffee")}},
		{"send the one frame", nil, zmq.Msg{[]byte(Request), nil}},
		{"cannot gather", broken(), zmq.Msg{[]byte(Request)}},
	} {
		r, err := New(Options{Service: "api", Instance: "api-1", Figures: c.figures})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(r.handle(t.Context(), c.body)[0], &got); err != nil || !strings.Contains(got["error"], c.says) {
			t.Errorf("%v, %v", got, err)
		}
	}
}

func TestWrongNames(t *testing.T) {
	for _, o := range []Options{{Service: "", Instance: "x"}, {Service: "api", Instance: "tab\t"}, {Service: "mmi.x", Instance: "x"}} {
		o.Brokers = []string{"tcp://127.0.0.1:1"}
		if _, err := New(o); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v gives %v", o, err)
		}
	}
	r, err := New(Options{Service: "api", Instance: "x", Brokers: []string{"nonsense"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "ZMQ_CONTROL") {
		t.Errorf("a bad endpoint gives %v", err)
	}
}

// run starts what a test needs and gives a function that ends it.
func runUntilEnd(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fn(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func broker(t *testing.T) string {
	t.Helper()
	b, err := mdp.Listen(t.Context(), "tcp://127.0.0.1:0", mdp.BrokerOptions{Heartbeat: beat, RequestTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	runUntilEnd(t, b.Run)
	return b.Endpoint()
}

func report(t *testing.T, service, instance string, figures prometheus.Gatherer, brokers ...string) (stop func()) {
	t.Helper()
	r, err := New(Options{Service: service, Instance: instance, Brokers: brokers, Figures: figures, Heartbeat: beat})
	if err != nil {
		t.Fatal(err)
	}
	return runUntilEnd(t, r.Run)
}

func options(at ...string) mdp.ClientOptions {
	return mdp.ClientOptions{Endpoints: at, Timeout: 2 * time.Second}
}

// table is the survey in short: service, instance and state of each.
func table(t *testing.T, at ...string) string {
	t.Helper()
	reports, err := Survey(t.Context(), options(at...))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range reports {
		lines = append(lines, fmt.Sprintf("%s %s %s", r.Service, r.Instance, r.State))
	}
	return strings.Join(lines, ", ")
}

func TestSurvey(t *testing.T) {
	at := broker(t)
	if got := table(t, at); got != "" {
		t.Errorf("nobody is there and the survey says %s", got)
	}
	g := registry()
	g.waiting.Set(3)
	report(t, "worker", "worker-2", g.reg, at)
	end := report(t, "worker", "worker-1", nil, at)
	report(t, "api", "api-1", nil, at)
	testkit.Eventually(t, 5*time.Second, func() bool {
		return table(t, at) == "api api-1 alive, worker worker-1 alive, worker worker-2 alive"
	}, "everybody is alive")
	reports, err := Survey(t.Context(), options(at))
	if err != nil {
		t.Fatal(err)
	}
	s := reports[2].Status
	if s.Instance != "worker-2" || s.Service != "worker" || time.Since(s.Since) > time.Minute || s.Version == "" ||
		s.Queues["ingest_waiting_messages"] != 3 || reports[2].Processes != 1 {
		t.Errorf("%+v", s)
	}
	end()
	testkit.Eventually(t, 5*time.Second, func() bool {
		return table(t, at) == "api api-1 alive, worker worker-1 gone, worker worker-2 alive"
	}, "worker-1 is gone")
	reports, err = Survey(t.Context(), options(at))
	if err != nil || time.Since(reports[1].Seen) > time.Minute || reports[1].Status != nil {
		t.Errorf("%+v, %v", reports[1], err)
	}
}

// A service registers with every broker, and the survey finds the one that lives.
func TestTwoBrokers(t *testing.T) {
	one, two := broker(t), broker(t)
	report(t, "api", "api-1", nil, one, two, "tcp://127.0.0.1:1")
	for _, at := range [][]string{{one}, {two}, {"tcp://127.0.0.1:1", two}} {
		testkit.Eventually(t, 10*time.Second, func() bool { return table(t, at...) == "api api-1 alive" }, "alive at "+fmt.Sprint(at))
	}
}

// One that is registered and does not answer, or answers nonsense, is told apart.
func TestTheSilentAndTheConfused(t *testing.T) {
	at := broker(t)
	for name, h := range map[string]mdp.Handler{
		"a/hung":     func(ctx context.Context, _ zmq.Msg) zmq.Msg { <-ctx.Done(); return nil },
		"b/confused": func(context.Context, zmq.Msg) zmq.Msg { return zmq.Msg{[]byte("{")} },
		"c/refusing": func(context.Context, zmq.Msg) zmq.Msg { return refusal(errBroken) },
		"alone":      func(context.Context, zmq.Msg) zmq.Msg { return nil },
	} {
		w, err := mdp.NewWorker(mdp.WorkerOptions{Service: name, Endpoint: at, Heartbeat: beat}, h)
		if err != nil {
			t.Fatal(err)
		}
		runUntilEnd(t, w.Run)
	}
	o := mdp.ClientOptions{Endpoints: []string{at}, Timeout: 300 * time.Millisecond, Retries: -1}
	var reports []Report
	testkit.Eventually(t, 5*time.Second, func() bool {
		var err error
		reports, err = Survey(t.Context(), o)
		return err == nil && len(reports) == 3
	}, "all are registered")
	for i, says := range []string{"no answer", "its answer", "cannot gather"} {
		if r := reports[i]; r.State != Silent || !strings.Contains(r.Error, says) || r.Status != nil {
			t.Errorf("%+v", r)
		}
	}
}

func TestNoBroker(t *testing.T) {
	o := mdp.ClientOptions{Endpoints: []string{"tcp://127.0.0.1:1"}, Timeout: 50 * time.Millisecond, Retries: -1}
	if _, err := Survey(t.Context(), o); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	if _, err := Survey(t.Context(), mdp.ClientOptions{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Survey(ended, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
