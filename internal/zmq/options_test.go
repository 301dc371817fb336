package zmq

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/zmtp"
)

func TestImmediate(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	_ = pull.Close(t.Context())
	push := connected(t, Push, Options{Immediate: true}, ep)
	if err := push.TrySend(msg("x")); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("queued for nobody: %v", err)
	}
	again := open(t, Pull, Options{})
	rebind(t, again, ep)
	send(t, push, "y")
	expect(t, again, "y")
}

func TestConflate(t *testing.T) {
	pull, ep := bound(t, Pull, Options{Conflate: true})
	push := connected(t, Push, Options{}, ep)
	for i := range 100 {
		send(t, push, strconv.Itoa(i))
	}
	eventually(t, "the last message", func() bool { return pull.Stats().Received == 100 })
	expect(t, pull, "99")
	if st := pull.Stats(); st.Conflated != 99 || st.Unread != 0 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
}

func TestConflateWhatIsSent(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	_ = pull.Close(t.Context())
	push := connected(t, Push, Options{Conflate: true, SndHWM: 1}, ep)
	for i := range 100 {
		send(t, push, strconv.Itoa(i)) // never blocks
	}
	again := open(t, Pull, Options{RcvHWM: 1})
	rebind(t, again, ep)
	expect(t, again, "99")
	body := make([]byte, kib64)
	eventually(t, "a conflated queue", func() bool {
		if err := push.TrySend(Msg{body}); err != nil {
			t.Fatal(err)
		}
		return push.Stats().Conflated > 200
	})
	if q := push.Stats(); q.QueuedBytes > 20*kib64 || q.Dropped != 0 {
		t.Errorf("%+v", q)
	}
}

func TestVerboseSubscriptions(t *testing.T) {
	pub, ep := bound(t, XPub, Options{Verbose: true})
	one := connected(t, Sub, Options{}, ep)
	if err := one.Subscribe("a"); err != nil {
		t.Fatal(err)
	}
	expect(t, pub, "\x01a")
	two := connected(t, XSub, Options{}, ep)
	send(t, two, "\x01a")
	expect(t, pub, "\x01a")
	send(t, two, "hello")
	expect(t, pub, "hello")
	if err := one.Unsubscribe("a"); err != nil {
		t.Fatal(err)
	}
	silent(t, pub, 20*time.Millisecond)
	_ = two.Close(t.Context())
	expect(t, pub, "\x00a")
}

func TestReset(t *testing.T) {
	rep, ep := bound(t, Rep, Options{})
	req := connected(t, Req, Options{ReconnectMin: time.Minute}, ep)
	send(t, req, "first")
	expect(t, rep, "first")
	if err := req.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := rep.Reset(); err != nil {
		t.Fatal(err)
	}
	send(t, req, "second")
	expect(t, rep, "second")
	send(t, rep, "answer")
	expect(t, req, "answer")
	if err := open(t, Push, Options{}).Reset(); fault.KindOf(err) != fault.Invalid {
		t.Errorf("PUSH: %v", err)
	}
}

func TestDisconnect(t *testing.T) {
	one, ep1 := bound(t, Pull, Options{})
	two, ep2 := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep1, ep2)
	peersOf(t, 2, push)
	if err := push.Disconnect(ep1); err != nil {
		t.Fatal(err)
	}
	peersOf(t, 1, push)
	peersOf(t, 0, one)
	for range 3 {
		send(t, push, "x")
		expect(t, two, "x")
	}
	if err := push.Disconnect(ep1); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a second time: %v", err)
	}
	away := connected(t, Push, Options{ReconnectMin: time.Minute}, "tcp://127.0.0.1:1")
	if err := away.Disconnect("tcp://127.0.0.1:1"); err != nil {
		t.Error(err)
	}
	if err := away.TrySend(msg("x")); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("without any endpoint: %v", err)
	}
}

func TestUnbind(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep)
	peersOf(t, 1, push, pull)
	if err := pull.Unbind(ep); err != nil {
		t.Fatal(err)
	}
	if err := pull.Unbind(ep); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a second time: %v", err)
	}
	send(t, push, "still connected")
	expect(t, pull, "still connected")
	other := open(t, Pull, Options{})
	rebind(t, other, ep)
}

func TestHeartbeatsKeepAndDrop(t *testing.T) {
	beating := Options{HeartbeatInterval: 10 * time.Millisecond, HeartbeatTimeout: 100 * time.Millisecond, HeartbeatTTL: 200 * time.Millisecond}
	pull, ep := bound(t, Pull, beating)
	push := connected(t, Push, Options{}, ep)
	peersOf(t, 1, push, pull)
	modern := hello("PUSH")
	modern[11] = 1
	dead := raw(t, ep)
	say(t, dead, modern)
	peersOf(t, 2, pull)
	hangsUp(t, dead)
	old := raw(t, ep) // of ZMTP 3.0: gets no PINGs and need not answer any
	say(t, old, hello("PUSH"))
	peersOf(t, 2, pull)
	silent(t, pull, 400*time.Millisecond)
	if n := pull.Stats().Peers; n != 2 {
		t.Errorf("%d peers left", n)
	}
}

// A receiver whose application is slow is not dead, and neither is what it cannot hear.
func TestHeartbeatsAndBackPressure(t *testing.T) {
	pull, ep := bound(t, Pull, Options{RcvHWM: 2, HeartbeatInterval: 5 * time.Millisecond, HeartbeatTimeout: 20 * time.Millisecond})
	push := connected(t, Push, Options{SndHWM: 2}, ep)
	n := fill(t, func() error { return push.TrySend(Msg{make([]byte, kib64)}) })
	for range n {
		recv(t, pull)
	}
	if d := pull.Stats().Disconnects; d != 0 {
		t.Errorf("%d disconnects", d)
	}
}

// Nor is a receiver whose full queue keeps it from reading the PINGs.
func TestASlowReceiverIsNotTakenForDead(t *testing.T) {
	pull, ep := bound(t, Pull, Options{RcvHWM: 2})
	push := connected(t, Push, Options{SndHWM: 2, HeartbeatInterval: 20 * time.Millisecond, HeartbeatTimeout: 600 * time.Millisecond}, ep)
	peersOf(t, 1, push, pull)
	silent(t, pull, 100*time.Millisecond) // long enough for a PING
	n := fill(t, func() error { return push.TrySend(Msg{make([]byte, kib64)}) })
	ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
	defer cancel()
	_ = push.Send(ctx, Msg{make([]byte, kib64)})
	if d := push.Stats().Disconnects; d != 0 {
		t.Errorf("%d disconnects", d)
	}
	for range n {
		recv(t, pull)
	}
}

func TestTimeToLive(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	c := raw(t, ep)
	say(t, c, hello("PUSH"), zmtp.EncodePing(2), []byte{0, 1, 'x'})
	expect(t, pull, "x") // heard of since: the PING's time counts no more
	silent(t, pull, 300*time.Millisecond)
	peersOf(t, 1, pull)
	say(t, c, zmtp.EncodePing(1))
	hangsUp(t, c)
	peersOf(t, 0, pull)
}

func TestAnErrorCommandEndsTheConnection(t *testing.T) {
	var seen journal
	pull, ep := bound(t, Pull, Options{Monitor: seen.note})
	c := raw(t, ep)
	say(t, c, hello("PUSH"), zmtp.EncodeCommand("ERROR", []byte("\x08no reply")))
	hangsUp(t, c)
	eventually(t, "the event", func() bool { return len(seen.find(Disconnected)) == 1 })
	if err := seen.find(Disconnected)[0].Err; !errors.Is(err, ErrRefused) {
		t.Errorf("event %v", err)
	}
	d := raw(t, ep)
	say(t, d, hello("PUSH")[:64], zmtp.EncodeCommand("ERROR", []byte("\x06go off")))
	hangsUp(t, d)
	eventually(t, "the refusal", func() bool { return len(seen.find(HandshakeFailed)) == 1 })
	if err := seen.find(HandshakeFailed)[0].Err; !errors.Is(err, ErrRefused) {
		t.Errorf("event %v", err)
	}
	_ = pull.Close(context.Background())
}
