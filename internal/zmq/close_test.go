package zmq

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
)

func TestCloseDeliversWhatWasSent(t *testing.T) {
	const n = 900
	for _, size := range []int{10, 10_000} {
		pull, ep := bound(t, Pull, Options{RcvHWM: 10})
		push := connected(t, Push, Options{Linger: patience}, ep)
		for i := range n {
			send(t, push, strconv.Itoa(i), strings.Repeat("x", size))
		}
		closed := make(chan error, 1)
		go func() { closed <- push.Close(context.Background()) }()
		for i := range n {
			if m := recv(t, pull); string(m[0]) != strconv.Itoa(i) {
				t.Fatalf("message %d is %q", i, m[0])
			}
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
}

func TestCloseGivesUpAfterLinger(t *testing.T) {
	_, ep := bound(t, Pull, Options{RcvHWM: 1})
	push := connected(t, Push, Options{Linger: 30 * time.Millisecond, SndHWM: 25}, ep)
	peersOf(t, 1, push)
	fill(t, func() error { return push.TrySend(Msg{make([]byte, kib64)}) })
	err := push.Close(context.Background())
	d := push.Stats().Dropped // up to three may have gone to the kernel meanwhile
	if err == nil || !strings.Contains(err.Error(), strconv.FormatUint(d, 10)+" unsent") || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Close: %v", err)
	}
	if d < 22 || d > 25 {
		t.Errorf("%d dropped of 25", d)
	}
}

func TestCloseHeedsItsContext(t *testing.T) {
	push := connected(t, Push, Options{Linger: time.Hour}, "tcp://127.0.0.1:1")
	send(t, push, "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := push.Close(ctx); err == nil {
		t.Error("no word of the dropped message")
	}
}

func TestCloseLingersForAPeerThatComesLate(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	_ = pull.Close(t.Context())
	push := connected(t, Push, Options{Linger: patience}, ep)
	send(t, push, "x")
	closed := make(chan error, 1)
	go func() { closed <- push.Close(context.Background()) }()
	late := open(t, Pull, Options{})
	rebind(t, late, ep)
	expect(t, late, "x")
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestClosedSocketsSaySo(t *testing.T) {
	for typ := Push; typ <= Pair; typ++ {
		s, _ := bound(t, typ, Options{})
		waiting := make(chan error, 1)
		go func() { _, err := s.Recv(context.Background()); waiting <- err }()
		blocked := make(chan error, 1)
		go func() { blocked <- s.Send(context.Background(), msg("x")) }()
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("%v: %v", typ, err)
		}
		if err := <-waiting; err == nil {
			t.Errorf("%v: Recv went on", typ)
		}
		if err := <-blocked; typ == Push && !errors.Is(err, ErrClosed) {
			t.Errorf("a waiting Send: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("%v: second Close: %v", typ, err)
		}
		_, bindErr := s.Bind(t.Context(), "tcp://127.0.0.1:0")
		for what, err := range map[string]error{"Send": s.TrySend(msg("x")), "Connect": s.Connect("tcp://127.0.0.1:1"), "Bind": bindErr} {
			if !errors.Is(err, ErrClosed) || fault.KindOf(err) != fault.Unavailable {
				t.Errorf("%v: %s after Close: %v", typ, what, err)
			}
		}
	}
}

func TestCloseCountsWhatNobodyAskedFor(t *testing.T) {
	pull, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep)
	for range 7 {
		send(t, push, "x")
	}
	eventually(t, "the messages", func() bool { return pull.Stats().Unread == 7 })
	if err := pull.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if d := pull.Stats().Discarded; d != 7 {
		t.Errorf("%d discarded", d)
	}
}

func TestManyReceivers(t *testing.T) {
	const n, readers = 2000, 4
	pull, ep := bound(t, Pull, Options{})
	push := connected(t, Push, Options{}, ep)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan struct{}, n)
	for range readers {
		go func() {
			for {
				_, err := pull.Recv(ctx)
				if err != nil {
					return
				}
				got <- struct{}{}
			}
		}()
	}
	for range n {
		send(t, push, "x")
	}
	for i := range n {
		select {
		case <-got:
		case <-ctx.Done():
			t.Fatalf("%d of %d received", i, n)
		}
	}
}
