package socketio

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

func TestQueueKeepsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := &queue{maxMessages: rapid.IntRange(1, 5).Draw(t, "messages"), maxBytes: rapid.IntRange(1, 50).Draw(t, "bytes")}
		var want []string
		writing := false
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "put") {
				m := message{text: fmt.Appendf(nil, "%0*d", rapid.IntRange(1, 30).Draw(t, "size"), i), event: rapid.Bool().Draw(t, "event")}
				events, eventBytes, replyBytes := q.events, q.eventBytes, q.replyBytes
				start, full := q.put(m)
				wantFull := m.event && (events >= q.maxMessages || events > 0 && eventBytes+len(m.text) > q.maxBytes) ||
					!m.event && replyBytes > 0 && replyBytes+len(m.text) > q.maxBytes
				if full != wantFull || start != (!full && !writing) {
					t.Fatalf("put said start %v full %v; writing %v, want full %v", start, full, writing, wantFull)
				}
				if !full {
					want, writing = append(want, string(m.text)), true
				}
				continue
			}
			got := q.take(nil, 20)
			for _, m := range got {
				if string(m.text) != want[0] {
					t.Fatalf("took %s, want %s", m.text, want[0])
				}
				want = want[1:]
			}
			if writing = len(got) > 0; !writing && len(want) > 0 {
				t.Fatal("took nothing, something is queued")
			}
		}
		if q.idle() != (len(want) == 0 && !writing) {
			t.Fatalf("idle %v with %d queued, writing %v", q.idle(), len(want), writing)
		}
	})
}

func TestQueueAlwaysTakesOneMessage(t *testing.T) {
	q := &queue{maxMessages: 10, maxBytes: 4}
	for _, event := range []bool{true, false} {
		if _, full := q.put(message{text: make([]byte, 100), event: event}); full {
			t.Errorf("a lone message was refused, event %v", event)
		}
		if _, full := q.put(message{text: []byte("x"), event: event}); !full {
			t.Errorf("the bound does not hold, event %v", event)
		}
	}
	if n := q.close(); n != 1 {
		t.Errorf("close dropped %d events, want 1", n)
	}
	if start, full := q.put(message{text: []byte("x")}); start || full {
		t.Error("a closed queue wants a writer")
	}
}

// fakeConn counts what it is given.
type fakeConn struct {
	user string
	mu   sync.Mutex
	got  []string
}

func (c *fakeConn) ID() string   { return "" }
func (c *fakeConn) User() string { return c.user }
func (c *fakeConn) Close(string) {}
func (c *fakeConn) Emit(p *Packet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, p.name+string(p.payload))
	return true
}

func TestHubSendsToTheRightConnections(t *testing.T) {
	h := NewHub(10, 100)
	phone, desk, bob := &fakeConn{user: "ana"}, &fakeConn{user: "ana"}, &fakeConn{user: "bob"}
	for _, c := range []*fakeConn{phone, desk, bob} {
		h.Add(c)
	}
	if n := h.ToUser("ana", "a", []byte("1")); n != 2 {
		t.Errorf("ToUser reached %d", n)
	}
	if n := h.ToUser("nobody", "a", []byte("1")); n != 0 {
		t.Errorf("ToUser reached %d", n)
	}
	h.Remove(phone)
	h.Remove(phone)
	if n := h.ToAll("b", []byte("2")); n != 2 || h.Len() != 2 {
		t.Errorf("ToAll reached %d of %d", n, h.Len())
	}
	if fmt.Sprint(phone.got, desk.got, bob.got) != "[a1] [a1 b2] [b2]" {
		t.Errorf("got %v %v %v", phone.got, desk.got, bob.got)
	}
	h.Remove(desk)
	h.Remove(bob)
	if h.Len() != 0 {
		t.Errorf("%d left", h.Len())
	}
}

func TestHubUnderChange(t *testing.T) {
	h := NewHub(1000, 10_000)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				c := &fakeConn{user: fmt.Sprint("u", (i+j)%5)}
				h.Add(c)
				h.ToUser(c.user, "n", nil)
				h.ToAll("n", nil)
				h.Remove(c)
				c.mu.Lock()
				if len(c.got) < 2 {
					t.Errorf("got %d", len(c.got))
				}
				c.mu.Unlock()
			}
		})
	}
	wg.Wait()
	if h.Len() != 0 {
		t.Errorf("%d left", h.Len())
	}
}

func TestHubCapsConnections(t *testing.T) {
	h := NewHub(2, 3)
	release, err := h.Reserve("ana")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = h.Reserve("ana"); err != nil {
		t.Fatal(err)
	}
	if _, err = h.Reserve("ana"); fault.KindOf(err) != fault.Overloaded {
		t.Errorf("third connection of a user: %v", err)
	}
	if _, err = h.Reserve("bob"); err != nil {
		t.Error(err)
	}
	if _, err = h.Reserve("eve"); fault.KindOf(err) != fault.Overloaded {
		t.Errorf("fourth connection: %v", err)
	}
	release()
	release()
	if _, err = h.Reserve("ana"); err != nil {
		t.Errorf("after a release: %v", err)
	}
	if _, err = h.Reserve("ana"); err == nil {
		t.Error("a place was given back twice")
	}
}

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := newLimiter(2, 3, 4)
	allowed := 0
	for range 20 {
		if l.begin("a", now) {
			allowed++
		}
	}
	if allowed != 2*burstFactor || !l.begin("b", now) {
		t.Errorf("%d at once, want %d", allowed, 2*burstFactor)
	}
	if now = now.Add(time.Second); !l.begin("a", now) || !l.begin("a", now) || l.begin("a", now) {
		t.Error("want 2 a second")
	}
	var done []func()
	for range 3 {
		d, ok := l.hold("a", now)
		if !ok {
			t.Fatal("refused within the bound")
		}
		done = append(done, d)
	}
	if _, ok := l.hold("a", now); ok {
		t.Error("fourth of an address")
	}
	if _, ok := l.hold("b", now); !ok {
		t.Error("another address was refused")
	}
	if _, ok := l.hold("c", now); ok {
		t.Error("fifth in all")
	}
	done[0]()
	done[0]()
	if _, ok := l.hold("a", now); !ok || l.open != 4 {
		t.Errorf("after done: %v, %d open", ok, l.open)
	}
	l.begin("z", now.Add(time.Hour))
	if len(l.addrs) != 3 { // a and b hold places
		t.Errorf("%d addresses kept", len(l.addrs))
	}
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.1.7:4711":             "10.0.1.7",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":         "fe80::/64",
		"[::ffff:10.0.0.1]:80":      "::ffff:10.0.0.1",
		"somewhere":                 "somewhere",
		"localhost:80":              "localhost",
	} {
		if got := addressKey(in); got != want {
			t.Errorf("addressKey(%q) = %q, want %q", in, got, want)
		}
	}
}
