package hub

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

func TestQueueKeepsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := &Queue{MaxMessages: rapid.IntRange(1, 5).Draw(t, "messages"), MaxBytes: rapid.IntRange(1, 50).Draw(t, "bytes")}
		var want []string
		writing := false
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "put") {
				m := Message{Text: fmt.Appendf(nil, "%0*d", rapid.IntRange(1, 30).Draw(t, "size"), i), Event: rapid.Bool().Draw(t, "event")}
				events, eventBytes, waiting := q.events, q.eventBytes, *q.answers(len(m.Text) > q.MaxBytes/largeShare)
				start, full := q.Put(m)
				wantFull := m.Event && (events >= q.MaxMessages || events > 0 && eventBytes+len(m.Text) > q.MaxBytes) ||
					!m.Event && waiting >= q.MaxBytes
				if full != wantFull || start != (!full && !writing) {
					t.Fatalf("put said start %v full %v; writing %v, want full %v", start, full, writing, wantFull)
				}
				if !full {
					want, writing = append(want, string(m.Text)), true
				}
				continue
			}
			got := q.Take(nil, 20)
			for _, m := range got {
				if string(m.Text) != want[0] {
					t.Fatalf("took %s, want %s", m.Text, want[0])
				}
				want = want[1:]
			}
			if writing = len(got) > 0; !writing && len(want) > 0 {
				t.Fatal("took nothing, something is queued")
			}
		}
		if q.Idle() != (len(want) == 0 && !writing) {
			t.Fatalf("idle %v with %d queued, writing %v", q.Idle(), len(want), writing)
		}
	})
}

func TestQueueAlwaysTakesOneMessage(t *testing.T) {
	q := &Queue{MaxMessages: 10, MaxBytes: 4}
	for _, event := range []bool{true, false} {
		if _, full := q.Put(Message{Text: make([]byte, 100), Event: event}); full {
			t.Errorf("a lone message was refused, event %v", event)
		}
		if _, full := q.Put(Message{Text: []byte("x"), Event: event}); !full {
			t.Errorf("the bound does not hold, event %v", event)
		}
	}
	if n := q.Close(); n != 1 {
		t.Errorf("close dropped %d events, want 1", n)
	}
	if start, full := q.Put(Message{Text: []byte("x")}); start || full {
		t.Error("a closed queue wants a writer")
	}
}

// A ping and its answer are small. They are not refused while a replay or the answer to a sync waits,
// which may be larger than everything else together.
func TestALargeAnswerLeavesRoomForSmallOnes(t *testing.T) {
	big, small := Message{Text: make([]byte, 5000)}, Message{Text: []byte("3")}
	for name, put := range map[string]func(*Queue) bool{
		"one answer": func(q *Queue) bool { _, full := q.Put(big); return full },
		"a group":    func(q *Queue) bool { _, full := q.PutAll([]Message{small, big}); return full },
	} {
		q := &Queue{MaxMessages: 10, MaxBytes: 1000}
		if put(q) {
			t.Errorf("%s: refused", name)
		}
		if !put(q) {
			t.Errorf("%s: a second one, past the bound, was taken", name)
		}
		for i := range 1000 {
			if _, full := q.Put(small); full {
				t.Fatalf("%s: small answer %d was refused", name, i)
			}
		}
		if _, full := q.Put(small); !full {
			t.Errorf("%s: more small answers than the bound were taken", name)
		}
		for len(q.Take(nil, 1000)) > 0 {
		}
		if q.replyBytes != 0 || q.largeBytes != 0 || put(q) {
			t.Errorf("%s: empty again, and %d and %d bytes wait", name, q.replyBytes, q.largeBytes)
		}
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
	c.got = append(c.got, p.Name+string(p.Payload))
	return true
}

func TestPacketIsEncodedOnce(t *testing.T) {
	p, calls := NewPacket("status", []byte("1"), Position{}), 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			m := p.Encoded(EIO3, func(p *Packet) Message { calls++; return Message{Text: p.Payload, Event: true} })
			if string(m.Text) != "1" || !m.Event {
				t.Errorf("encoded as %+v", m)
			}
		})
	}
	wg.Wait()
	if calls != 1 {
		t.Errorf("encoded %d times", calls)
	}
}

func TestHubSendsToTheRightConnections(t *testing.T) {
	h := New(10, 100, Options{})
	phone, desk, bob := &fakeConn{user: "ana"}, &fakeConn{user: "ana"}, &fakeConn{user: "bob"}
	for _, c := range []*fakeConn{phone, desk, bob} {
		h.Add(c)
	}
	if n := h.ToUser("ana", "a", []byte("1"), Position{}); n != 2 {
		t.Errorf("ToUser reached %d", n)
	}
	if n := h.ToUser("nobody", "a", []byte("1"), Position{}); n != 0 {
		t.Errorf("ToUser reached %d", n)
	}
	h.Remove(phone)
	h.Remove(phone)
	if n := h.ToAll("b", []byte("2"), Position{}); n != 2 || h.Len() != 2 {
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
	h := New(1000, 10_000, Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				c := &fakeConn{user: fmt.Sprint("u", (i+j)%5)}
				h.Add(c)
				h.ToUser(c.user, "n", nil, Position{})
				h.ToAll("n", nil, Position{})
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
	h := New(2, 3, Options{})
	release, err := h.Reserve("ana", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = h.Reserve("ana", ""); err != nil {
		t.Fatal(err)
	}
	if _, err = h.Reserve("ana", ""); fault.KindOf(err) != fault.Overloaded {
		t.Errorf("third connection of a user: %v", err)
	}
	if _, err = h.Reserve("bob", ""); err != nil {
		t.Error(err)
	}
	if _, err = h.Reserve("eve", ""); fault.KindOf(err) != fault.Overloaded {
		t.Errorf("fourth connection: %v", err)
	}
	release()
	release()
	if _, err = h.Reserve("ana", ""); err != nil {
		t.Errorf("after a release: %v", err)
	}
	if _, err = h.Reserve("ana", ""); err == nil {
		t.Error("a place was given back twice")
	}
}

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := NewLimiter(2, 3, 4)
	allowed := 0
	for range 20 {
		if l.Begin("a", now) {
			allowed++
		}
	}
	if allowed != 2*Burst || !l.Begin("b", now) {
		t.Errorf("%d at once, want %d", allowed, 2*Burst)
	}
	allowed, now = 0, now.Add(time.Second)
	for range 5 {
		if l.Begin("a", now) {
			allowed++
		}
	}
	if allowed != 2 {
		t.Errorf("%d a second, want 2", allowed)
	}
	var done []func()
	for range 3 {
		d, ok := l.Hold("a", now)
		if !ok {
			t.Fatal("refused within the bound")
		}
		done = append(done, d)
	}
	if _, ok := l.Hold("a", now); ok {
		t.Error("fourth of an address")
	}
	if _, ok := l.Hold("b", now); !ok {
		t.Error("another address was refused")
	}
	if _, ok := l.Hold("c", now); ok {
		t.Error("fifth in all")
	}
	done[0]()
	done[0]()
	if _, ok := l.Hold("a", now); !ok || l.open != 4 {
		t.Errorf("after done: %v, %d open", ok, l.open)
	}
	l.Begin("z", now.Add(time.Hour))
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
		if got := AddressKey(in); got != want {
			t.Errorf("AddressKey(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestHubWatchesUsersComeAndGo(t *testing.T) {
	var got []string
	h := New(10, 100, Options{Watch: func(user string, online bool) { got = append(got, fmt.Sprint(user, " ", online)) }})
	phone, desk, bob := &fakeConn{user: "ana"}, &fakeConn{user: "ana"}, &fakeConn{user: "bob"}
	h.Add(phone)
	h.Add(desk)
	h.Add(bob)
	if users := maps.Collect(h.Users()); fmt.Sprint(users) != "map[ana:2 bob:1]" || h.Connections("ana") != 2 || h.Connections("eve") != 0 {
		t.Errorf("users %v, %d connections of ana", users, h.Connections("ana"))
	}
	h.Remove(phone)
	h.Remove(bob)
	h.Remove(bob)
	h.Remove(desk)
	h.Add(desk)
	if want := "[ana true bob true bob false ana false ana true]"; fmt.Sprint(got) != want {
		t.Errorf("watched %v, want %s", got, want)
	}
}
