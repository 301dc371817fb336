package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/test/harness"
)

const (
	snailWait  = 200 * time.Millisecond
	snailLimit = 2 * time.Second
)

// hasty are the settings of a system whose snails end themselves soon.
func hasty() harness.Options {
	var env []string
	for _, service := range []string{"BRIDGE", "INDEXER"} {
		env = append(env, service+"_SNAIL_WAIT="+snailWait.String(), service+"_SNAIL_LIMIT="+snailLimit.String())
	}
	return harness.Options{Env: env}
}

// flood publishes events of a user who is not connected, as if they had just been stored: their
// numbers are the next ones of a partition. They have no timestamp, so that the indexer looks at
// them and lets them be.
type flood struct {
	p          *fanout.Publisher
	n          int
	pad        string
	seq, epoch uint64
}

const floodPartition = 3

func newFlood(t *testing.T, s *harness.System) *flood {
	t.Helper()
	p, err := fanout.NewPublisher(fanout.Options{Endpoints: s.XSub})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) }) // what is still queued is for nobody
	ready, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Wait(ready); err != nil {
		t.Fatal(err)
	}
	f := &flood{p: p, pad: fmt.Sprintf("%0200d", 0)}
	if f.seq, f.epoch, err = openJournal(t, s).Head(t.Context(), floodPartition); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *flood) publish(n int) {
	for range n {
		f.n++
		f.seq++
		raw := fmt.Appendf(nil, `{"id":"flood-%d","type":"status","userId":"nobody","timestamp":0,"data":%q}`, f.n, f.pad)
		at := event.Position{Partition: floodPartition, Seq: f.seq, Epoch: f.epoch, Prev: event.Prev{Feed: f.seq - 1}}
		f.p.Publish("status.nobody", event.Splice(raw, event.AppendPosition(nil, at)))
	}
}

// every calls do at a steady pace until stop is closed.
func every(pace time.Duration, stop <-chan struct{}, do func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-stop:
			return
		}
	}
}

// slow lets the process run for one or two hundredths of the time only.
func slow(t *testing.T, p *harness.Process) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		every(100*time.Millisecond, stop, func() {
			if p.Running() {
				_ = p.Signal(syscall.SIGCONT) // it may have ended just now
				<-time.After(time.Millisecond)
				_ = p.Signal(syscall.SIGSTOP)
			}
		})
		_ = p.Signal(syscall.SIGCONT)
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// TestSnailsEndThemselves slows bridge and indexer down while 20,000 events a second come: each
// ends itself with code 1 and says why, and works again when it is started again.
func TestSnailsEndThemselves(t *testing.T) {
	for name, pick := range map[string]func(*harness.System) *harness.Process{
		"bridge":  func(s *harness.System) *harness.Process { return s.Bridge },
		"indexer": func(s *harness.System) *harness.Process { return s.Indexer },
	} {
		t.Run(name, func(t *testing.T) {
			s := startWith(t, hasty())
			snail, f := pick(s), newFlood(t, s)
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				every(10*time.Millisecond, stop, func() { f.publish(200) })
			}()
			t.Run("slow", func(t *testing.T) {
				slow(t, snail)
				if code, err := snail.Wait(90 * time.Second); err != nil || code != 1 {
					t.Errorf("it ended with code %d, %v", code, err)
				}
			})
			close(stop)
			<-done
			wantInLog(t, s, snail.Name, "cannot keep up and ends itself")
			if t.Failed() {
				return
			}
			if err := snail.Start(); err != nil {
				t.Fatal(err)
			}
			if err := s.AllReady(t.Context(), 20*time.Second); err != nil {
				t.Fatal(err)
			}
			ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
			if status, answer := post(t, s.APIURL+"/api/events", harness.Token("ana", "emit"), "application/json",
				[]byte(`{"type":"notification.check","userId":"ana"}`)); status != http.StatusAccepted {
				t.Fatalf("POST: %d %s", status, answer)
			}
			eventually(t, 20*time.Second, func() bool { return len(ana.events()) == 1 }, func() string { return "ana got nothing" })
		})
	}
}

// TestNoSnails does to bridge and indexer what is not their fault, or what they get through: a
// burst, and a stop of several times the limit while events come. Both go on.
func TestNoSnails(t *testing.T) {
	s := startWith(t, hasty())
	f := newFlood(t, s)
	through := func(what string) {
		t.Helper()
		for _, p := range []*harness.Process{s.Bridge, s.Indexer} {
			took := func() float64 { return metric(t, s.Ready[p.Name], "eventspine_fanout_received_messages_total") }
			eventually(t, 30*time.Second, func() bool { return took() >= float64(f.n) },
				func() string { return fmt.Sprintf("%s: %s took %v of %d", what, p.Name, took(), f.n) })
			if behind := metric(t, s.Ready[p.Name], "eventspine_fanout_subscribe_behind_seconds"); behind > snailLimit.Seconds() {
				t.Errorf("%s: %s is behind by %v s", what, p.Name, behind)
			}
		}
	}
	f.publish(20_000)
	through("a burst")
	for _, p := range []*harness.Process{s.Bridge, s.Indexer} {
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	end := time.After(3 * snailLimit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for stopped := true; stopped; {
		select {
		case <-tick.C:
			f.publish(100)
		case <-end:
			stopped = false
		}
	}
	for _, p := range []*harness.Process{s.Bridge, s.Indexer} {
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	through("a stop")
	for range int(2 * snailLimit / (50 * time.Millisecond)) {
		<-tick.C
		f.publish(10)
	}
	through("afterwards")
	for _, p := range s.Processes() {
		if !p.Running() {
			t.Errorf("%s ended", p.Name)
		}
	}
}

// TestElasticsearchMakesNoSnail lets the indexer's spool be full for several times the limit,
// since Elasticsearch takes requests and does not answer: starting again would not help.
func TestElasticsearchMakesNoSnail(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	o := hasty()
	o.ES, o.Bin, o.Dir = "http://"+l.Addr().String(), bin, t.TempDir()
	o.Env = append(o.Env, "INDEXER_QUEUE_BYTES=1MiB", "INDEXER_SPOOL_SIZE=1MiB", "INDEXER_SPOOL_AFTER=100ms", "INDEXER_RCVHWM=100")
	s, err := harness.StartOnly(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Indexer.Stop(15 * time.Second); err != nil { // the rest is in the journal
			t.Errorf("the indexer did not end well: %v\n%s", err, s.Logs())
		}
		_ = s.Stop()
	})
	n := 0
	store := func(events int) {
		var b bytes.Buffer
		for range events {
			n++
			fmt.Fprintf(&b, `{"id":"waits-%d","type":"order.created","userId":"user-%d","data":{"pad":"%0200d"}}`+"\n", n, n%50, n)
		}
		post(t, s.APIURL+"/api/events/batch", harness.Token("sender", "emit"), "application/x-ndjson", b.Bytes()) // 503 while too many wait is fine
	}
	if err := harness.Until(t.Context(), 20*time.Second, func() error { return harness.OK(s.Ready["api-1"] + "/readyz") }); err != nil {
		t.Fatal(err)
	}
	waits := func() bool {
		store(500)
		return harness.OK(s.Ready["indexer-1"]+"/healthz") == nil && metric(t, s.Ready["indexer-1"], "eventspine_indexer_spool_full") == 1
	}
	eventually(t, 20*time.Second, waits, func() string { return "the indexer's spool does not fill" })
	end := time.After(4 * snailLimit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-tick.C:
			store(10)
		case <-end:
			waiting = false
		}
	}
	if !s.Indexer.Running() {
		t.Errorf("the indexer ended itself because of Elasticsearch: %v", s.Logs())
	}
}
