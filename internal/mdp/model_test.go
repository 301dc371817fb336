package mdp

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/zmq"
)

// audit checks what must hold after every step of an exchange.
func audit(t rapid.TB, x *exchange) {
	waiting, serving, workers, bytes := 0, 0, 0, x.bytes
	for _, s := range x.services {
		waiting += len(s.queue)
		for _, j := range s.queue {
			bytes -= weight(j.body)
		}
		workers += s.workers
		if len(s.idle) > 0 && len(s.queue) > 0 {
			t.Errorf("%s has idle workers and waiting requests", s.name)
		}
		for _, w := range s.idle {
			if w.doing != nil || x.workers[w.address] != w || w.service != s {
				t.Errorf("%s is idle in %s and should not be", w.address, s.name)
			}
		}
	}
	for _, w := range x.workers {
		if w.doing != nil {
			serving++
		}
	}
	byClient := 0
	for _, n := range x.waiting {
		byClient += n
	}
	if bytes != 0 {
		t.Errorf("the bytes in queues are miscounted by %d", bytes)
	}
	if workers != len(x.workers) || byClient != waiting || float64(waiting) != value(x.m.waiting) || float64(serving) != value(x.m.inService) {
		t.Errorf("%d workers of %d, %d waiting of %d or %v, %d served of %v", workers, len(x.workers), byClient, waiting,
			value(x.m.waiting), serving, value(x.m.inService))
	}
	// No request is lost uncounted: it is answered, dropped, waiting or worked on.
	dropped := 0.0
	for _, reason := range []string{noRoom, greedy, crowded, late, hopeless, absent} {
		dropped += value(x.m.dropped.WithLabelValues(reason))
	}
	if in, out := value(x.m.requests), value(x.m.answers)+dropped+float64(waiting+serving); in != out {
		t.Errorf("%v requests came, %v are accounted for", in, out)
	}
}

// Whatever peers send in whatever order, no request is lost without being counted and no
// worker has two.
func TestEveryRequestIsAccountedFor(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		away := map[string]bool{}
		owed := map[string]string{} // worker → client it was asked for
		x := newExchange(BrokerOptions{Heartbeat: time.Second, MaxQueue: 3, MaxPerClient: 2, MaxServices: 2, MaxWorkers: 3, MaxTries: 2,
			RequestTimeout: 2 * time.Second}.withDefaults(), func(m zmq.Msg) error {
			if away[string(m[0])] {
				return zmq.ErrUnroutable
			}
			if string(m[2]) == workerHeader && command(m[3][0]) == request {
				owed[string(m[0])] = string(m[4])
			}
			return nil
		})
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			peer := fmt.Sprintf("p%d", rapid.IntRange(0, 5).Draw(r, "peer"))
			service := rapid.SampledFrom([]string{"a", "b", "c", "mmi.service", "mmi.services"}).Draw(r, "service")
			switch rapid.IntRange(0, 8).Draw(r, "what") {
			case 0, 1:
				x.handle(msg(peer + "||MDPC01|" + service + "|x"))
			case 2:
				x.handle(msg(peer + "||MDPW01|READY|" + service))
			case 3, 4:
				x.handle(msg(peer + "||MDPW01|REPLY|" + owed[peer] + "||done"))
			case 5:
				x.handle(msg(peer + "||MDPW01|" + rapid.SampledFrom([]string{"HEARTBEAT", "DISCONNECT", "nonsense"}).Draw(r, "command")))
			case 6:
				away[peer] = !away[peer]
			case 7:
				for _, s := range x.services {
					for _, j := range s.queue {
						if rapid.Bool().Draw(r, "expires") {
							j.deadline = time.Now()
						}
					}
				}
				x.tick()
			case 8:
				if w := x.workers[peer]; w != nil {
					w.heard = time.Now().Add(-time.Minute)
				}
				x.tick()
			}
			audit(r, x)
		}
	})
}

// The same with bytes instead of orders.
func FuzzExchange(f *testing.F) {
	f.Add(pack("w||MDPW01|READY|s"), pack("c||MDPC01|s|x"), pack("w||MDPW01|REPLY|c||x"), pack("w||MDPW01|DISCONNECT"))
	f.Add(pack("c||MDPC01|mmi.services|"), pack("c||MDPC01|s|x"), pack("w||MDPW01|READY|s"), pack("w||MDPW01|READY|s"))
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		synctest.Test(t, func(t *testing.T) {
			x := newExchange(BrokerOptions{}.withDefaults(), func(m zmq.Msg) error {
				if len(m) < 4 || len(m[0]) == 0 {
					t.Errorf("sent %q", m)
				}
				return nil
			})
			for _, bytes := range [][]byte{a, b, c, d, b, c} {
				if m := cut(bytes); len(m) > 0 && len(m[0]) > 0 { // ROUTER's addresses are never empty
					x.handle(m)
				}
				audit(t, x)
				time.Sleep(DefaultHeartbeat)
				x.tick()
			}
		})
	})
}
