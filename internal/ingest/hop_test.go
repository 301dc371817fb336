package ingest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestNewSenderNamesTheWrongSetting(t *testing.T) {
	good := []string{"tcp://127.0.0.1:1"}
	for want, o := range map[string]SenderOptions{
		"no worker endpoint": {Source: "a", Partitions: 1},
		"partition count":    {Source: "a", Endpoints: good},
		"source":             {Source: "a b", Endpoints: good, Partitions: 1},
		"nonsense":           {Source: "a", Endpoints: []string{"nonsense"}, Partitions: 1},
	} {
		_, err := NewSender(o)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}

func TestListenSaysWhyItCannot(t *testing.T) {
	r := listen(t, ReceiverOptions{})
	if _, err := Listen(t.Context(), r.Endpoint(), ReceiverOptions{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("an address twice: %v", err)
	}
	if _, err := Listen(t.Context(), "udp://x", ReceiverOptions{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a bad address: %v", err)
	}
}

func TestOneEventGoesPlain(t *testing.T) {
	r := listen(t, ReceiverOptions{})
	s := send(t, SenderOptions{Endpoints: []string{r.Endpoint()}})
	e := mustEvent(t, `{"id":"1","type":"a","userId":"ana"}`)
	if err := s.TrySend([]event.Event{e})[0]; err != nil {
		t.Fatal(err)
	}
	b, err := r.Recv(within(t))
	if err != nil || b.Source != "" || len(b.Events) != 1 || string(b.Events[0]) != string(e.Raw) {
		t.Fatalf("got %+v, %v", b, err)
	}
}

// A batch is split by partition, so that each user's events come in order, and by size.
func TestABatchKeepsTheOrderOfEachUser(t *testing.T) {
	r := listen(t, ReceiverOptions{})
	s := send(t, SenderOptions{Endpoints: []string{r.Endpoint()}})
	const users, each = 5, 700
	pad := strings.Repeat("x", 4000)
	var events []event.Event
	for i := range each {
		for u := range users {
			events = append(events, mustEvent(t, fmt.Sprintf(`{"id":"%d-%d","type":"a","userId":"u%d","data":"%s"}`, u, i, u, pad)))
		}
	}
	for i, err := range s.TrySend(events) {
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	next := map[string]int{}
	for got := 0; got < len(events); {
		b, err := r.Recv(within(t))
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		if b.Source != "api-1" || b.Generation != 0 || b.First != 0 || len(b.Events) > MaxBatchEvents {
			t.Fatalf("batch %+v of %d events", b.Header, len(b.Events))
		}
		for _, raw := range b.Events {
			size += len(raw)
			e := mustEvent(t, string(raw))
			if want := fmt.Sprintf("%s-%d", e.UserID[1:], next[e.UserID]); e.ID != want {
				t.Fatalf("got %s, want %s", e.ID, want)
			}
			next[e.UserID]++
			got++
		}
		if size > MaxBatchBytes {
			t.Errorf("a message of %d bytes", size)
		}
	}
}

func TestAUserGoesToOneWorker(t *testing.T) {
	a, b := listen(t, ReceiverOptions{}), listen(t, ReceiverOptions{})
	s := send(t, SenderOptions{Endpoints: []string{a.Endpoint(), b.Endpoint()}})
	const users, rounds = 64, 4
	for range rounds {
		var events []event.Event
		for u := range users {
			events = append(events, mustEvent(t, fmt.Sprintf(`{"id":"x","type":"a","userId":"u%d"}`, u)))
		}
		for _, err := range s.TrySend(events) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	type arrival struct {
		worker int
		user   string
	}
	arrived := make(chan arrival, users*rounds)
	ctx, cancel := context.WithCancel(within(t))
	ended := make(chan struct{}, 2)
	for i, r := range []*Receiver{a, b} {
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				batch, err := r.Recv(ctx)
				if err != nil {
					return
				}
				for _, raw := range batch.Events {
					e, _ := event.Parse(raw)
					arrived <- arrival{i, e.UserID}
				}
			}
		}()
	}
	home, load := map[string]int{}, [2]int{}
	for range users * rounds {
		select {
		case got := <-arrived:
			if at, known := home[got.user]; known && at != got.worker {
				t.Errorf("%s went to both workers", got.user)
			}
			home[got.user] = got.worker
			load[got.worker]++
		case <-ctx.Done():
			t.Fatal("events are missing")
		}
	}
	cancel()
	<-ended
	<-ended
	if load[0] == 0 || load[1] == 0 {
		t.Errorf("all events went to one worker: %v", load)
	}
}

// A full queue refuses and tells, and what was refused is not sent; the later events of the
// partition are refused with it, so that nothing overtakes.
func TestAFullQueueRefuses(t *testing.T) {
	r := listen(t, ReceiverOptions{ZMQ: zmq.Options{RcvHWM: 1, RcvBytes: 1}})
	s := send(t, SenderOptions{Endpoints: []string{r.Endpoint()}, ZMQ: zmq.Options{SndHWM: 1, SndBytes: 1}})
	pad := strings.Repeat("x", 200_000)
	accepted, refused := 0, 0
	for i := 0; refused == 0; i++ {
		var events []event.Event
		for k := range 12 { // 2.4 MB: several messages
			events = append(events, mustEvent(t, fmt.Sprintf(`{"id":"%d-%d","type":"a","userId":"ana","data":"%s"}`, i, k, pad)))
		}
		failed := false
		for _, err := range s.TrySend(events) {
			switch {
			case err == nil && failed:
				t.Fatal("an event overtook a refused one")
			case err == nil:
				accepted++
			case fault.KindOf(err) != fault.Overloaded:
				t.Fatalf("refused with %v", err)
			default:
				failed = true
				refused++
			}
		}
		if i > 1000 {
			t.Fatal("nothing was ever refused")
		}
	}
	for range accepted {
		if accepted == 0 {
			break
		}
		b, err := r.Recv(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if accepted -= len(b.Events); accepted <= 0 {
			break
		}
	}
	if accepted != 0 {
		t.Errorf("%d events too many or too few came", accepted)
	}
}

func TestNobodyThereIsOverloaded(t *testing.T) {
	s, err := NewSender(SenderOptions{Endpoints: []string{"tcp://" + testkit.FreeAddr(t)}, Source: "a", Partitions: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	errs := s.TrySend([]event.Event{mustEvent(t, `{"type":"a"}`), mustEvent(t, `{"type":"b","userId":"x"}`)})
	for _, err := range errs {
		if fault.KindOf(err) != fault.Overloaded {
			t.Errorf("got %v", err)
		}
	}
	if len(s.TrySend(nil)) != 0 {
		t.Error("errors for no events")
	}
}

// Bad messages are counted and logged without their content, and what follows is received.
func TestBadMessagesDisturbNobody(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	r := listen(t, ReceiverOptions{Log: slog.New(slog.NewJSONHandler(&log, nil)), Metrics: reg, ZMQ: zmq.Options{Monitor: func(zmq.Event) {}}})
	p := pusher(t, r.Endpoint())
	for _, m := range []zmq.Msg{
		{[]byte("")}, {[]byte("a"), []byte("secret")}, {[]byte("B1 a 0 0")}, {[]byte("B1 a"), []byte("secret")}, {[]byte("B1 a x 0"), []byte("secret")},
		{[]byte("good")},
	} {
		if err := p.Send(within(t), m); err != nil {
			t.Fatal(err)
		}
	}
	b, err := r.Recv(within(t))
	if err != nil || string(b.Events[0]) != "good" {
		t.Fatalf("got %+v, %v", b, err)
	}
	if n, err := testutil.GatherAndCount(reg, "eventspine_ingest_bad_messages_total"); err != nil || n != 2 {
		t.Errorf("%d reasons, %v", n, err)
	}
	want := strings.NewReader(`
# HELP eventspine_ingest_bad_messages_total messages that are neither one event nor a batch, by reason
# TYPE eventspine_ingest_bad_messages_total counter
eventspine_ingest_bad_messages_total{reason="empty"} 2
eventspine_ingest_bad_messages_total{reason="header"} 3
`)
	if err := testutil.GatherAndCompare(reg, want, "eventspine_ingest_bad_messages_total"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || strings.Contains(log.String(), "secret") {
		t.Errorf("the log is\n%s", log.String())
	}
}

func TestCloseSaysWhatItDropped(t *testing.T) {
	r := listen(t, ReceiverOptions{})
	p := pusher(t, r.Endpoint())
	if err := p.Send(within(t), zmq.Msg{[]byte("x")}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() bool { return r.socket.Stats().Unread == 1 }, "the message waits")
	if err := r.Close(within(t)); err == nil || !strings.Contains(err.Error(), "1 received messages dropped") {
		t.Errorf("close: %v", err)
	}
	if _, err := r.Recv(within(t)); err == nil {
		t.Error("Recv after Close")
	}
}
