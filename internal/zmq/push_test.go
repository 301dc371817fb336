package zmq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

func TestPushPull(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep)
	send(t, push, "a")
	send(t, push, "b", "", "c")
	send(t, push, "")
	expect(t, pull, "a")
	expect(t, pull, "b", "", "c")
	expect(t, pull, "")
}

func TestPushGoesRound(t *testing.T) {
	push, ep := bound(t, Push, Options{})
	pulls := []*Socket{connected(t, Pull, Options{}, ep), connected(t, Pull, Options{}, ep), connected(t, Pull, Options{}, ep)}
	peersOf(t, 3, push)
	for i := range 30 {
		send(t, push, strconv.Itoa(i))
	}
	for i, pull := range pulls {
		for range 10 {
			recv(t, pull)
		}
		if n := pull.Stats().Received; n != 10 {
			t.Errorf("peer %d got %d of 30", i, n)
		}
	}
}

func TestPullTakesItsPeersInTurn(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	busy, quiet := connected(t, Push, Options{}, ep), connected(t, Push, Options{}, ep)
	for range 500 {
		send(t, busy, "busy")
	}
	eventually(t, "the busy peer's messages", func() bool { return pull.Stats().Unread == 500 })
	send(t, quiet, "quiet")
	eventually(t, "the quiet peer's message", func() bool { return pull.Stats().Unread == 501 })
	for range 2 {
		if string(recv(t, pull)[0]) == "quiet" {
			return
		}
	}
	t.Error("one busy peer kept the quiet one waiting")
}

// fill sends until the socket would block for good and returns how many it took.
func fill(t *testing.T, try func() error) (n int) {
	t.Helper()
	full := 0
	eventually(t, "a full queue", func() bool {
		for {
			err := try()
			if errors.Is(err, ErrWouldBlock) {
				full++
				return full > 100 // for 100 ms
			}
			if err != nil {
				t.Fatal(err)
			}
			full = 0
			n++
		}
	})
	return n
}

const kib64 = 64 << 10

func TestHighWaterMarkHoldsThePushBack(t *testing.T) {
	pull, ep := bound(t, Pull, Options{RcvHWM: 10})
	push := connected(t, Push, Options{SndHWM: 10}, ep)
	peersOf(t, 1, push, pull)
	body := make([]byte, kib64)
	n := fill(t, func() error { return push.TrySend(Msg{body}) })
	if st := push.Stats(); st.Queued != 10 {
		t.Errorf("%d queued at a mark of 10", st.Queued)
	}
	if st := pull.Stats(); st.Unread > 10 {
		t.Errorf("%d unread at a mark of 10", st.Unread)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := push.Send(ctx, Msg{body}); !errors.Is(err, context.DeadlineExceeded) || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Send on a full queue: %v", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- push.Send(t.Context(), Msg{body}) }()
	for range n + 1 {
		recv(t, pull)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if d := push.Stats().Dropped; d != 0 {
		t.Errorf("%d dropped", d)
	}
}

func TestByteBounds(t *testing.T) {
	pull, ep := bound(t, Pull, Options{RcvBytes: 4 * kib64})
	push := connected(t, Push, Options{SndBytes: 4 * kib64}, ep)
	peersOf(t, 1, push, pull)
	n := fill(t, func() error { return push.TrySend(Msg{make([]byte, kib64)}) })
	if b := push.Stats().QueuedBytes; b > 5*kib64 {
		t.Errorf("%d bytes queued at a bound of %d", b, 4*kib64)
	}
	if u := pull.Stats().Unread; u > 5 {
		t.Errorf("%d messages of 64 KiB unread at a bound of 256 KiB", u)
	}
	for range n {
		recv(t, pull)
	}
}

func TestPushSkipsAFullPeer(t *testing.T) {
	push, ep := bound(t, Push, Options{SndHWM: 4})
	stalled := connected(t, Pull, Options{RcvHWM: 1}, ep)
	peersOf(t, 1, push)
	fill(t, func() error { return push.TrySend(Msg{make([]byte, kib64)}) })
	live := connected(t, Pull, Options{}, ep)
	peersOf(t, 2, push)
	for i := range 100 {
		send(t, push, strconv.Itoa(i))
		expect(t, live, strconv.Itoa(i))
	}
	if stalled.Stats().Peers != 1 {
		t.Error("the stalled peer was cut off")
	}
}

func TestPushWithoutAnyPeer(t *testing.T) {
	push, _ := bound(t, Push, Options{})
	if err := push.TrySend(msg("x")); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("bound: %v", err)
	}
	away := connected(t, Push, Options{SndHWM: 3}, "tcp://127.0.0.1:1")
	for i := range 3 {
		if err := away.TrySend(msg("x")); err != nil {
			t.Errorf("message %d for an endpoint being dialled: %v", i, err)
		}
	}
	if err := away.TrySend(msg("x")); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("over the mark: %v", err)
	}
	if err := away.TrySendKey(1, msg("x")); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("keyed: %v", err)
	}
	if err := away.Close(t.Context()); err == nil || fault.KindOf(err) != fault.Unavailable || away.Stats().Dropped != 3 {
		t.Errorf("Close: %v, %d dropped", err, away.Stats().Dropped)
	}
}

func TestQueuedBeforeThePeerComes(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	if err := pull.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	push := connected(t, Push, Options{}, ep)
	for i := range 50 {
		send(t, push, strconv.Itoa(i))
	}
	again := open(t, Pull, Options{})
	rebind(t, again, ep)
	for i := range 50 {
		expect(t, again, strconv.Itoa(i))
	}
}

func rebind(t *testing.T, s *Socket, ep string) {
	t.Helper()
	eventually(t, "the port", func() bool {
		_, err := s.Bind(t.Context(), ep)
		return err == nil
	})
}

// What a dead peer did not send goes to a live one: everything that the kernel had not taken.
func TestDeadPeersMessagesAreRequeued(t *testing.T) {
	push, ep := bound(t, Push, Options{SndHWM: 50})
	dying := connected(t, Pull, Options{RcvHWM: 1}, ep)
	peersOf(t, 1, push)
	n := 0
	fill(t, func() error {
		body := make([]byte, kib64)
		copy(body, strconv.Itoa(n))
		err := push.TrySend(Msg{body})
		if err == nil {
			n++
		}
		return err
	})
	if err := dying.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	live := connected(t, Pull, Options{}, ep)
	eventually(t, "the requeued messages", func() bool { return live.Stats().Received >= 47 }) // three may be in the kernel
	first := number(recv(t, live))
	for want := first + 1; want < n; want++ {
		if got := number(recv(t, live)); got != want {
			t.Fatalf("got %d, want %d: a hole or a repeat", got, want)
		}
	}
	if st := push.Stats(); st.Requeued < 47 || st.Dropped != 0 || st.Queued != 0 {
		t.Errorf("%+v", st)
	}
}

func number(m Msg) int {
	var n int
	_, _ = fmt.Sscan(string(m[0][:10]), &n)
	return n
}

func TestKeysKeepTheirPeerAndOrder(t *testing.T) {
	const keys, rounds = 200, 6 // so many keys that no peer goes without
	pulls, eps := make([]*Socket, 3), make([]string, 3)
	for i := range pulls {
		pulls[i], eps[i] = bound(t, Pull, Options{})
	}
	push := connected(t, Push, Options{}, eps...)
	peersOf(t, 3, push)
	for round := range rounds {
		for key := range keys {
			if err := push.TrySendKey(uint64(key), msg(fmt.Sprint(key), fmt.Sprint(round))); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all messages", func() bool {
		return pulls[0].Stats().Unread+pulls[1].Stats().Unread+pulls[2].Stats().Unread == keys*rounds
	})
	home, next := map[string]int{}, map[string]int{}
	for i, pull := range pulls {
		if pull.Stats().Unread == 0 {
			t.Errorf("peer %d got no key at all", i)
		}
		for pull.Stats().Unread > 0 {
			m := recv(t, pull)
			key := string(m[0])
			if was, seen := home[key]; seen && was != i {
				t.Fatalf("key %s at peers %d and %d", key, was, i)
			}
			if string(m[1]) != strconv.Itoa(next[key]) {
				t.Fatalf("key %s: %s after %d", key, m[1], next[key]-1)
			}
			home[key] = i
			next[key]++
		}
	}
}

func TestAFullPeersKeyIsNotGivenToAnother(t *testing.T) {
	a, epA := bound(t, Pull, Options{RcvHWM: 1})
	b, epB := bound(t, Pull, Options{RcvHWM: 1})
	push := connected(t, Push, Options{SndHWM: 5}, epA, epB)
	peersOf(t, 2, push)
	fill(t, func() error { return push.TrySendKey(7, Msg{make([]byte, kib64)}) })
	if (a.Stats().Received == 0) == (b.Stats().Received == 0) {
		t.Error("one key was spread over both peers")
	}
	other := uint64(8)
	for same(push, 7, other) {
		other++
	}
	if err := push.TrySendKey(other, msg("x")); err != nil {
		t.Errorf("the other peer's key: %v", err)
	}
}

func same(push *Socket, a, b uint64) bool {
	push.mu.Lock()
	defer push.mu.Unlock()
	live := push.pat.(*pusher).live
	return rendezvous(a, live) == rendezvous(b, live)
}

func TestADeadPeersKeysMoveInOrder(t *testing.T) {
	const n = 40
	a, epA := bound(t, Pull, Options{RcvHWM: 1})
	b, epB := bound(t, Pull, Options{RcvHWM: 1})
	push := connected(t, Push, Options{SndHWM: n}, epA, epB)
	peersOf(t, 2, push)
	sent := 0
	fill(t, func() error {
		body := make([]byte, kib64)
		copy(body, strconv.Itoa(sent))
		err := push.TrySendKey(7, Msg{body})
		if err == nil {
			sent++
		}
		return err
	})
	dying, live := a, b
	if b.Stats().Received > 0 {
		dying, live = b, a
	}
	if err := dying.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := number(recv(t, live))
	for want := first + 1; want < sent; want++ {
		if got := number(recv(t, live)); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
	if sent-first < n-3 { // up to three may be in the kernel when the writer learns of the end
		t.Errorf("only %d messages came over, %d were queued", sent-first, n)
	}
}

func TestRendezvousMovesOnlyTheLostPeersKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hashes := rapid.SliceOfNDistinct(rapid.Uint64(), 2, 8, rapid.ID[uint64]).Draw(t, "peers")
		var live []*peer
		for _, h := range hashes {
			live = append(live, &peer{hash: h})
		}
		gone := rapid.IntRange(0, len(live)-1).Draw(t, "gone")
		rest := append(append([]*peer{}, live[:gone]...), live[gone+1:]...)
		for _, key := range rapid.SliceOf(rapid.Uint64()).Draw(t, "keys") {
			before := rendezvous(key, live)
			if after := rendezvous(key, rest); before != live[gone] && after != before {
				t.Fatalf("key %d moved though its peer lives", key)
			}
		}
	})
}

func TestSendRefuses(t *testing.T) {
	push := connected(t, Push, Options{MaxFrame: 10, MaxFrames: 2}, "tcp://127.0.0.1:1")
	for name, c := range map[string]struct {
		m    Msg
		kind fault.Kind
	}{
		"no frames":       {nil, fault.Invalid},
		"too many frames": {msg("a", "b", "c"), fault.TooLarge},
		"a long frame":    {msg("0123456789a"), fault.TooLarge},
	} {
		if err := push.TrySend(c.m); fault.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCallsOfAnotherTypeAreInvalid(t *testing.T) {
	push, pull, pub, sub := open(t, Push, Options{}), open(t, Pull, Options{}), open(t, Pub, Options{}), open(t, Sub, Options{})
	_, recvPush := push.Recv(t.Context())
	_, recvPub := pub.Recv(t.Context())
	for name, err := range map[string]error{
		"Recv on PUSH": recvPush, "Recv on PUB": recvPub, "Send on PULL": pull.TrySend(msg("x")),
		"Send on SUB": sub.TrySend(msg("x")), "TrySendKey on PUB": pub.TrySendKey(1, msg("x")),
		"Subscribe on PULL": pull.Subscribe(""), "Forward": Forward(t.Context(), pub, sub),
	} {
		if fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestQueueKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue[int]
		var model []int
		t.Repeat(map[string]func(*rapid.T){
			"push":  func(t *rapid.T) { v := rapid.Int().Draw(t, "v"); q.push(v); model = append(model, v) },
			"front": func(t *rapid.T) { v := rapid.Int().Draw(t, "v"); q.pushFront(v); model = append([]int{v}, model...) },
			"back": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				if got, want := q.popBack(), model[len(model)-1]; got != want {
					t.Fatalf("got %d, want %d", got, want)
				}
				model = model[:len(model)-1]
			},
			"pop": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				if got := q.pop(); got != model[0] {
					t.Fatalf("got %d, want %d", got, model[0])
				}
				model = model[1:]
			},
			"": func(t *rapid.T) {
				if q.len() != len(model) {
					t.Fatalf("len %d, want %d", q.len(), len(model))
				}
			},
		})
	})
}
