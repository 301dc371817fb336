package mdp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"eventspine/internal/zmq"
)

// bench is an exchange whose messages a test writes and reads as text.
type bench struct {
	*exchange
	t    *testing.T
	sent []string
	away map[string]bool // peers that cannot be reached
}

func newBench(t *testing.T, o BrokerOptions) *bench {
	b := &bench{t: t, away: map[string]bool{}}
	b.exchange = newExchange(o.withDefaults(), func(m zmq.Msg) error {
		if b.away[string(m[0])] {
			return zmq.ErrUnroutable
		}
		b.sent = append(b.sent, show(m))
		return nil
	})
	return b
}

// take gives messages and returns what the exchange sent since the last call.
func (b *bench) take(texts ...string) string {
	for _, s := range texts {
		b.handle(msg(s))
	}
	out := strings.Join(b.sent, " ")
	b.sent = nil
	return out
}

func (b *bench) expect(want string, texts ...string) {
	b.t.Helper()
	if got := b.take(texts...); got != want {
		b.t.Errorf("after %q\n got %q\nwant %q", texts, got, want)
	}
}

func TestARequestGoesToAWorkerAndItsAnswerBack(t *testing.T) {
	b := newBench(t, BrokerOptions{})
	b.expect("", "w1||MDPW01|READY|echo")
	b.expect("w1||MDPW01|REQUEST|c1||hello|world", "c1||MDPC01|echo|hello|world")
	b.expect("c1||MDPC01|echo|HELLO|WORLD", "w1||MDPW01|REPLY|c1||HELLO|WORLD")
	if total(t, b.m.answers) != 1 || total(t, b.m.inService) != 0 || total(t, b.m.workers) != 1 {
		t.Error("the figures are wrong")
	}
}

func TestTheWorkerIdleLongestIsNext(t *testing.T) {
	b := newBench(t, BrokerOptions{})
	b.take("w1||MDPW01|READY|s", "w2||MDPW01|READY|s", "w3||MDPW01|READY|other")
	b.expect("w1||MDPW01|REQUEST|c1||a", "c1||MDPC01|s|a")
	b.expect("w2||MDPW01|REQUEST|c2||b", "c2||MDPC01|s|b")
	b.expect("", "c3||MDPC01|s|c", "c4||MDPC01|s|d")
	b.expect("c2||MDPC01|s|B w2||MDPW01|REQUEST|c3||c", "w2||MDPW01|REPLY|c2||B")
	b.expect("c1||MDPC01|s|A w1||MDPW01|REQUEST|c4||d", "w1||MDPW01|REPLY|c1||A")
	if w := total(t, b.m.waiting); w != 0 {
		t.Errorf("%v requests wait", w)
	}
}

func TestARequestWaitsForItsService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, BrokerOptions{RequestTimeout: 10 * time.Second})
		b.expect("", "c1||MDPC01|s|early")
		time.Sleep(5 * time.Second)
		b.expect("", "c2||MDPC01|s|later")
		time.Sleep(6 * time.Second)
		b.tick()
		b.expect("w||MDPW01|REQUEST|c2||later", "w||MDPW01|READY|s")
		if why(b.m.dropped, late) != 1 {
			t.Error("the expired request is not counted")
		}
	})
}

// What one request may cost the others is bounded.
func TestLimits(t *testing.T) {
	b := newBench(t, BrokerOptions{MaxQueue: 3, MaxPerClient: 2, MaxServices: 2, MaxWorkers: 2})
	b.take("greedy||MDPC01|s|1", "greedy||MDPC01|s|2", "greedy||MDPC01|s|3")
	if why(b.m.dropped, greedy) != 1 {
		t.Error("a client may have more requests than its share")
	}
	b.take("c1||MDPC01|s|1", "c2||MDPC01|s|2")
	if why(b.m.dropped, noRoom) != 1 {
		t.Error("the queue is longer than its limit")
	}
	b.take("c3||MDPC01|s2|1", "c4||MDPC01|s3|1")
	if why(b.m.dropped, crowded) != 1 || len(b.services) != 2 {
		t.Errorf("%d services are known", len(b.services))
	}
	b.take("w1||MDPW01|READY|a", "w2||MDPW01|READY|b")
	b.expect("w3||MDPW01|DISCONNECT", "w3||MDPW01|READY|c")
	b.take("w1||MDPW01|DISCONNECT")
	if b.services["a"] != nil {
		t.Error("a service without workers is kept beyond the limit")
	}
}

func TestTheBytesThatWaitAreBounded(t *testing.T) {
	b := newBench(t, BrokerOptions{MaxBytes: 1000})
	big := strings.Repeat("x", 400)
	b.take("c1||MDPC01|s|"+big, "c2||MDPC01|t|"+big, "c3||MDPC01|s|"+big)
	if why(b.m.dropped, noRoom) != 1 || total(t, b.m.waiting) != 2 {
		t.Errorf("%d bytes wait", b.bytes)
	}
	b.take("w||MDPW01|READY|s", "c3||MDPC01|t|"+big) // a worker took one, so there is room again
	if why(b.m.dropped, noRoom) != 1 {
		t.Error("room that was made is not used")
	}
}

func TestARequestOutlivesItsWorker(t *testing.T) {
	for _, c := range []struct{ name, message, told string }{
		{"that says goodbye", "w1||MDPW01|DISCONNECT", ""},
		{"that registers twice", "w1||MDPW01|READY|s", "w1||MDPW01|DISCONNECT "},
		{"that answers somebody else", "w1||MDPW01|REPLY|c9||x", "w1||MDPW01|DISCONNECT "},
		{"that sends nonsense", "w1||MDPW01|nonsense", "w1||MDPW01|DISCONNECT "},
		{"that speaks another protocol", "w1||MDPX01|READY", "w1||MDPW01|DISCONNECT "},
		{"that sends what only brokers send", "w1||MDPW01|REQUEST|c||x", "w1||MDPW01|DISCONNECT "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, BrokerOptions{})
			b.take("w1||MDPW01|READY|s", "c1||MDPC01|s|work", "w2||MDPW01|READY|s", "c2||MDPC01|s|next")
			b.take("w2||MDPW01|REPLY|c2||done")
			b.expect(c.told+"w2||MDPW01|REQUEST|c1||work", c.message)
			b.expect("c1||MDPC01|s|done", "w2||MDPW01|REPLY|c1||done")
			if total(t, b.m.repeated) != 1 || total(t, b.m.removed) != 1 || total(t, b.m.workers) != 1 {
				t.Error("the figures are wrong")
			}
		})
	}
}

func TestAnAnswerNobodyAskedForEndsTheWorker(t *testing.T) {
	b := newBench(t, BrokerOptions{})
	b.take("w1||MDPW01|READY|s")
	b.expect("w1||MDPW01|DISCONNECT", "w1||MDPW01|REPLY|victim||forged")
	b.expect("", "w1||MDPW01|REPLY|victim||forged", "w1||MDPW01|HEARTBEAT") // told once is enough
	b.expect("", "c1||MDPC01|s|x")
	b.expect("w1||MDPW01|REQUEST|c1||x", "w1||MDPW01|READY|s") // it may begin anew
}

// A request that ends every worker it meets does not end them all.
func TestAPoisonRequest(t *testing.T) {
	b := newBench(t, BrokerOptions{MaxTries: 2})
	b.take("c1||MDPC01|s|poison")
	for i := range 2 {
		w := fmt.Sprintf("w%d||MDPW01|", i)
		b.expect(w+"REQUEST|c1||poison", w+"READY|s")
		b.take(w + "DISCONNECT")
	}
	b.expect("", "w9||MDPW01|READY|s")
	if why(b.m.dropped, hopeless) != 1 || total(t, b.m.waiting) != 0 {
		t.Error("the poison is not counted as dropped")
	}
}

func TestWorkersThatCannotBeReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, BrokerOptions{})
		b.take("w1||MDPW01|READY|s", "w2||MDPW01|READY|s", "w3||MDPW01|READY|s")
		b.away["w1"] = true
		b.expect("w2||MDPW01|REQUEST|c1||x", "c1||MDPC01|s|x")
		b.away["w3"] = true
		time.Sleep(DefaultHeartbeat)
		b.tick()
		if why(b.m.removed, unreached) != 2 || len(b.workers) != 1 {
			t.Errorf("%d workers are left", len(b.workers))
		}
		b.away["c1"] = true
		b.take("w2||MDPW01|REPLY|c1||late")
		if why(b.m.dropped, absent) != 1 {
			t.Error("an answer to a client that went is not counted")
		}
	})
}

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, BrokerOptions{Heartbeat: time.Second, Liveness: 3})
		b.take("w1||MDPW01|READY|s", "w2||MDPW01|READY|s")
		b.tick()
		b.take()
		time.Sleep(999 * time.Millisecond)
		b.tick()
		b.expect("")
		time.Sleep(time.Millisecond)
		b.take("c1||MDPC01|s|x") // w1 hears this, so it needs no heartbeat
		b.tick()
		b.expect("w2||MDPW01|HEARTBEAT")
		time.Sleep(1999 * time.Millisecond)
		b.take("w2||MDPW01|HEARTBEAT")
		b.tick()
		if len(b.workers) != 2 {
			t.Error("a worker was given up before its time")
		}
		b.take()
		time.Sleep(time.Millisecond)
		b.tick()
		if b.workers["w1"] != nil || b.workers["w2"] == nil || why(b.m.removed, silent) != 1 {
			t.Error("the silent worker is still there")
		}
		b.expect("w2||MDPW01|REQUEST|c1||x w1||MDPW01|DISCONNECT", "w1||MDPW01|HEARTBEAT") // back from the dead
	})
}

func TestAStrangerIsToldToRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, BrokerOptions{Heartbeat: time.Second})
		b.expect("w1||MDPW01|DISCONNECT", "w1||MDPW01|HEARTBEAT")
		b.expect("", "w1||MDPW01|HEARTBEAT", "w1||MDPW01|REPLY|c||x", "w2||MDPW01|DISCONNECT")
		time.Sleep(3 * time.Second)
		b.tick()
		b.expect("w1||MDPW01|DISCONNECT", "w1||MDPW01|HEARTBEAT")
	})
}

func TestManagement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, BrokerOptions{Forget: time.Hour})
		began := time.Now().UTC()
		b.take("w1||MDPW01|READY|s", "w2||MDPW01|READY|s", "c9||MDPC01|nobody|x", "c8||MDPC01|s|y")
		for _, c := range []struct{ request, answer string }{
			{"mmi.service|s", "mmi.service|200"},
			{"mmi.service|nobody", "mmi.service|404"},
			{"mmi.service|unheard of", "mmi.service|404"},
			{"mmi.service|", "mmi.service|400"},
			{"mmi.service|s|t", "mmi.service|400"},
			{"mmi.workers|s", "mmi.workers|2"},
			{"mmi.workers|nobody", "mmi.workers|0"},
			{"mmi.coffee|s", "mmi.coffee|501"},
		} {
			b.take()
			b.expect("c1||MDPC01|"+c.answer, "c1||MDPC01|"+c.request)
		}
		b.expect("w3||MDPW01|DISCONNECT", "w3||MDPW01|READY|mmi.service")
		time.Sleep(time.Second)
		b.take("w1||MDPW01|DISCONNECT")
		want := Listing{Service: "s", Workers: 1, Queued: 0, Busy: 1, Since: began}
		if got := b.listing(); len(got) != 1 || !same(got[0], want) {
			t.Errorf("listed %+v, want %+v", got, want)
		}
		b.take("w2||MDPW01|DISCONNECT")
		time.Sleep(10 * time.Second)
		b.tick()
		if got := b.listing(); len(got) != 1 || got[0].Workers != 0 || !got[0].Seen.Equal(began.Add(time.Second)) {
			t.Errorf("a service without workers is listed as %+v", got)
		}
		time.Sleep(time.Hour)
		b.tick()
		if got := b.listing(); len(got) != 0 || len(b.services) != 0 {
			t.Errorf("%+v is not forgotten", got)
		}
	})
}

func same(a, b Listing) bool {
	return a.Service == b.Service && a.Workers == b.Workers && a.Busy == b.Busy && a.Queued == b.Queued && a.Since.Equal(b.Since)
}

func (b *bench) listing() []Listing {
	b.t.Helper()
	b.take()
	var l []Listing
	if err := json.Unmarshal([]byte(strings.TrimPrefix(b.take("c1||MDPC01|mmi.services|"), "c1||MDPC01|mmi.services|")), &l); err != nil {
		b.t.Fatal(err)
	}
	return l
}

func TestFarewell(t *testing.T) {
	b := newBench(t, BrokerOptions{})
	b.take("w1||MDPW01|READY|s")
	b.farewell()
	b.expect("w1||MDPW01|DISCONNECT")
}
