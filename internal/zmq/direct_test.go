package zmq

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"eventspine/internal/zmq/zmtp"
)

// only gives the socket's one peer when nobody writes to it and the last write is long enough ago.
func only(t *testing.T, s *Socket) (p *peer) {
	t.Helper()
	eventually(t, "a peer at rest", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.peers) == 1 && s.peers[0].idle && time.Since(s.peers[0].since)-s.peers[0].wrote > lull {
			p = s.peers[0]
		}
		return p != nil
	})
	return p
}

// TestASenderWritesToARestingPeerItself wants the writer to sleep on when a message comes alone,
// and to write when they come in a rush.
func TestASenderWritesToARestingPeerItself(t *testing.T) {
	for _, endpoint := range []string{"tcp://127.0.0.1:0", "ipc://*", "inproc://direct"} {
		t.Run(endpoint, func(t *testing.T) {
			o := Options{Inproc: &InprocNetwork{}}
			pull := open(t, Pull, o)
			ep, err := pull.Bind(t.Context(), endpoint)
			if err != nil {
				t.Fatal(err)
			}
			push := connected(t, Push, o, ep)
			p := only(t, push)
			push.lock()
			if err := push.sendLocked(newItem(msg("one"))); err != nil {
				t.Fatal(err)
			}
			claimed := p.claimed
			push.unlock()
			push.mu.Lock()
			if !claimed || !p.idle || p.sent != 1 || p.outMsgs != 0 {
				t.Errorf("claimed %v, idle %v, %d sent, %d left", claimed, p.idle, p.sent, p.outMsgs)
			}
			p.wrote = time.Since(p.since) + time.Hour // as if it were just now
			push.mu.Unlock()
			push.lock()
			if err := push.sendLocked(newItem(msg("two"))); err != nil {
				t.Fatal(err)
			}
			if p.claimed {
				t.Error("the sender writes in a rush")
			}
			push.unlock()
			expect(t, pull, "one")
			expect(t, pull, "two")
		})
	}
}

// TestADirectWriteNeverWaits sends alone-coming messages to a peer that does not read: when the
// network takes no more, the sender goes on, and what it had begun is finished later, in order.
func TestADirectWriteNeverWaits(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	push := connected(t, Push, Options{SndHWM: 10}, "tcp://"+l.Addr().String())
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	reader, err := zmtp.Open(c, zmtp.Config{Type: "PULL", Server: true, Timeout: patience, Limits: Options{}.withDefaults().limits()})
	if err != nil {
		t.Fatal(err)
	}
	p := only(t, push)
	sent := 0
	for ; ; sent++ { // each alone, until the network is full
		push.mu.Lock()
		p.wrote = 0
		push.mu.Unlock()
		err := push.TrySend(Msg{binary.BigEndian.AppendUint64(make([]byte, 7000), uint64(sent))})
		if errors.Is(err, ErrWouldBlock) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	push.mu.Lock()
	queued := p.outMsgs
	push.mu.Unlock()
	if queued != 10 {
		t.Errorf("%d queued at the high-water mark of 10", queued)
	}
	for i := range sent {
		m, _, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint64(m[0][7000:]); len(m) != 1 || got != uint64(i) {
			t.Fatalf("message %d came as number %d", got, i)
		}
	}
	eventually(t, "everything is booked", func() bool {
		s := push.Stats()
		return s.Queued == 0 && s.Sent == uint64(sent) && s.QueuedBytes == 0
	})
}

// TestADirectWriteThatFailsGivesBack wants a message whose sender finds the connection dead to go to
// the next peer.
func TestADirectWriteThatFailsGivesBack(t *testing.T) {
	first, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{ReconnectMin: time.Hour}, ep)
	p := only(t, push)
	peersOf(t, 1, first)
	push.lock()
	if err := push.sendLocked(newItem(msg("kept"))); err != nil || !p.claimed {
		t.Fatalf("claimed %v, %v", p.claimed, err)
	}
	_ = p.conn.Close() // between the claim and the write
	push.unlock()
	second, ep := bound(t, Pull, Options{})
	if err := push.Connect(ep); err != nil {
		t.Fatal(err)
	}
	expect(t, second, "kept")
	eventually(t, "it is booked once", func() bool { s := push.Stats(); return s.Sent == 1 && s.Queued == 0 && s.QueuedBytes == 0 })
	if s := push.Stats(); s.Requeued != 1 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// claimed lets a sender claim the socket's one peer for a message, and stops it before it writes.
func claimed(t *testing.T, s *Socket, text string) *peer {
	t.Helper()
	p := only(t, s)
	s.lock()
	defer s.mu.Unlock()
	if err := s.sendLocked(newItem(msg(text))); err != nil || !p.claimed {
		t.Fatalf("claimed %v, %v", p.claimed, err)
	}
	s.claims = claims{}
	p.load()
	return p
}

// TestMessagesQueuedDuringADirectWriteFollowIt wants them to be left to the writer, in order.
func TestMessagesQueuedDuringADirectWriteFollowIt(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep)
	p := claimed(t, push, "one")
	send(t, push, "two")
	p.direct()
	expect(t, pull, "one")
	expect(t, pull, "two")
}

// TestAConnectionThatEndsDuringADirectWrite wants it to wait for the sender, whose message is
// neither lost nor sent twice.
func TestAConnectionThatEndsDuringADirectWrite(t *testing.T) {
	_, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{ReconnectMin: time.Hour}, ep)
	p := claimed(t, push, "kept")
	p.abort(nil)
	second, ep := bound(t, Pull, Options{})
	if err := push.Connect(ep); err != nil {
		t.Fatal(err)
	}
	peersOf(t, 1, second)
	silent(t, second, 20*time.Millisecond)
	if s := push.Stats(); s.Disconnects != 0 {
		t.Error("the connection was given up under the sender's hands")
	}
	p.direct()
	expect(t, second, "kept")
	silent(t, second, 20*time.Millisecond)
}
