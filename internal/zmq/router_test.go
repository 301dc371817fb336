package zmq

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/zmtp"
)

func TestRouterNamesItsPeers(t *testing.T) {
	router, ep := bound(t, Router, Options{})
	named := connected(t, Dealer, Options{Identity: "ana"}, ep)
	send(t, named, "", "hello")
	expect(t, router, "ana", "", "hello")
	send(t, router, "ana", "", "hello yourself")
	expect(t, named, "", "hello yourself")
	if ps := router.Peers(); ps[0].Identity != "ana" || ps[0].Type != "DEALER" {
		t.Errorf("%+v", ps[0])
	}
}

func TestRouterNamesTheAnonymous(t *testing.T) {
	router, ep := bound(t, Router, Options{})
	one, two := connected(t, Dealer, Options{}, ep), connected(t, Req, Options{}, ep)
	send(t, one, "from one")
	first := recv(t, router)
	send(t, two, "from two")
	second := recv(t, router)
	for _, m := range []Msg{first, second} {
		if len(m[0]) != 5 || m[0][0] != 0 {
			t.Errorf("identity %q", m[0])
		}
	}
	if string(first[0]) == string(second[0]) {
		t.Error("two peers, one identity")
	}
	send(t, router, string(second[0]), "", "for two")
	send(t, router, string(first[0]), "for one")
	expect(t, one, "for one")
	expect(t, two, "for two")
}

func TestUnroutable(t *testing.T) {
	router, ep := bound(t, Router, Options{})
	for _, err := range []error{router.TrySend(msg("nobody", "x")), router.Send(t.Context(), msg("", "x"))} {
		if !errors.Is(err, ErrUnroutable) || fault.KindOf(err) != fault.NotFound {
			t.Errorf("unroutable: %v", err)
		}
	}
	if err := router.TrySend(msg("ana")); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an identity alone: %v", err)
	}
	dealer := connected(t, Dealer, Options{Identity: "ana"}, ep)
	peersOf(t, 1, router)
	send(t, router, "ana", "x")
	expect(t, dealer, "x")
	_ = dealer.Close(t.Context())
	peersOf(t, 0, router)
	if err := router.TrySend(msg("ana", "x")); !errors.Is(err, ErrUnroutable) {
		t.Errorf("a peer that left: %v", err)
	}
}

func TestRouterDrops(t *testing.T) {
	router, ep := bound(t, Router, Options{RouterDrop: true, SndHWM: 5})
	if err := router.TrySend(msg("nobody", "x")); err != nil || router.Stats().Dropped != 1 {
		t.Errorf("%v, %d dropped", err, router.Stats().Dropped)
	}
	connected(t, Dealer, Options{Identity: "ana", RcvHWM: 1}, ep)
	peersOf(t, 1, router)
	body := strings.Repeat("x", kib64)
	eventually(t, "a drop at the mark", func() bool {
		return router.TrySend(msg("ana", body)) != nil || router.Peers()[0].Dropped > 0
	})
}

// A full peer holds back what is for it and nothing else.
func TestRouterAtTheMark(t *testing.T) {
	router, ep := bound(t, Router, Options{SndHWM: 5})
	slow := connected(t, Dealer, Options{Identity: "slow", RcvHWM: 1}, ep)
	quick := connected(t, Dealer, Options{Identity: "quick"}, ep)
	peersOf(t, 2, router)
	body := strings.Repeat("x", kib64)
	n := fill(t, func() error { return router.TrySend(msg("slow", body)) })
	send(t, router, "quick", "past the slow one")
	expect(t, quick, "past the slow one")
	sent := make(chan error, 1)
	go func() { sent <- router.Send(t.Context(), msg("slow", body)) }()
	for range n + 1 {
		recv(t, slow)
	}
	if err := <-sent; err != nil || router.Stats().Dropped != 0 {
		t.Errorf("%v, %d dropped", err, router.Stats().Dropped)
	}
}

func TestAnIdentityThatIsTaken(t *testing.T) {
	var seen journal
	router, ep := bound(t, Router, Options{Monitor: seen.note})
	first := connected(t, Dealer, Options{Identity: "ana"}, ep)
	peersOf(t, 1, router)
	connected(t, Dealer, Options{Identity: "ana"}, ep)
	eventually(t, "the refusal", func() bool { return len(seen.find(HandshakeFailed)) > 0 })
	if e := seen.find(HandshakeFailed)[0]; fault.KindOf(e.Err) != fault.Conflict || e.Identity != "ana" {
		t.Errorf("event %+v", e)
	}
	send(t, router, "ana", "x")
	expect(t, first, "x")
}

func TestHandover(t *testing.T) {
	router, ep := bound(t, Router, Options{Handover: true})
	first := connected(t, Dealer, Options{Identity: "ana", ReconnectMin: time.Hour}, ep)
	peersOf(t, 1, first, router)
	second := connected(t, Dealer, Options{Identity: "ana"}, ep)
	peersOf(t, 0, first)
	peersOf(t, 1, second, router)
	send(t, router, "ana", "x")
	expect(t, second, "x")
}

func TestIdentitiesThatAreNotAllowed(t *testing.T) {
	for _, id := range []string{"\x00abcd", strings.Repeat("x", 256)} {
		if err := open(t, Dealer, Options{Identity: id}).Connect("tcp://127.0.0.1:1"); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.10q: %v", id, err)
		}
		router, ep := bound(t, Router, Options{})
		c := raw(t, ep)
		ready := append([]byte("\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00"), byte(len(id)>>8), byte(len(id)))
		say(t, c, hello("x")[:64], zmtp.EncodeCommand("READY", append(ready, id...)))
		hangsUp(t, c)
		eventually(t, "the protocol error", func() bool { return router.Stats().ProtocolErrors == 1 })
	}
}

func TestDealersTakeTurns(t *testing.T) {
	dealer, ep := bound(t, Dealer, Options{})
	one, two := connected(t, Rep, Options{}, ep), connected(t, Rep, Options{}, ep)
	peersOf(t, 2, dealer)
	for range 4 {
		send(t, dealer, "", "q")
	}
	for _, rep := range []*Socket{one, two} {
		for range 2 {
			expect(t, rep, "q")
			send(t, rep, "a")
		}
	}
	for range 4 {
		expect(t, dealer, "", "a")
	}
}

func TestDealerToDealer(t *testing.T) {
	one, ep := bound(t, Dealer, Options{})
	two := connected(t, Dealer, Options{}, ep)
	send(t, two, "a", "b")
	expect(t, one, "a", "b")
	send(t, one, "c")
	expect(t, two, "c")
}

func TestRouterToRouter(t *testing.T) {
	one, ep := bound(t, Router, Options{Identity: "one"})
	two := connected(t, Router, Options{Identity: "two"}, ep)
	peersOf(t, 1, one, two)
	send(t, two, "one", "ping")
	expect(t, one, "two", "ping")
	send(t, one, "two", "pong")
	expect(t, two, "one", "pong")
}

func TestPairIsExclusive(t *testing.T) {
	var seen journal
	one, ep := bound(t, Pair, Options{Monitor: seen.note})
	if err := one.TrySend(msg("x")); !errors.Is(err, ErrWouldBlock) {
		t.Errorf("PAIR alone: %v", err)
	}
	two := connected(t, Pair, Options{}, ep)
	peersOf(t, 1, one, two)
	third := connected(t, Pair, Options{}, ep)
	eventually(t, "the refusal", func() bool { return len(seen.find(HandshakeFailed)) > 0 })
	if e := seen.find(HandshakeFailed)[0]; fault.KindOf(e.Err) != fault.Conflict {
		t.Errorf("event %+v", e)
	}
	send(t, two, "a")
	expect(t, one, "a")
	send(t, one, "b")
	expect(t, two, "b")
	_ = two.Close(context.Background())
	// Free again. Before that, the third may hold a connection that is about to be refused.
	eventually(t, "the third", func() bool { return len(seen.find(Connected)) == 2 })
	send(t, third, "c")
	expect(t, one, "c")
}

// Every pair of types either talks or is refused with an error that names both.
func TestTheMatrix(t *testing.T) {
	for ours := Push; ours <= Pair; ours++ {
		t.Run(ours.String(), func(t *testing.T) {
			t.Parallel()
			legal := strings.Fields(map[Type]string{Push: "PULL", Pull: "PUSH", Pub: "SUB XSUB", Sub: "PUB XPUB", XPub: "SUB XSUB",
				XSub: "PUB XPUB", Req: "REP ROUTER", Rep: "REQ DEALER", Dealer: "REP DEALER ROUTER", Router: "REQ DEALER ROUTER", Pair: "PAIR"}[ours])
			for theirs := Push; theirs <= Pair; theirs++ {
				matrixCell(t, ours, theirs, strings.Contains(" "+strings.Join(legal, " ")+" ", " "+theirs.String()+" "))
			}
		})
	}
}

func matrixCell(t *testing.T, ours, theirs Type, legal bool) {
	t.Helper()
	var seen journal
	s, ep := bound(t, ours, Options{Monitor: seen.note})
	connected(t, theirs, Options{ReconnectMin: time.Hour}, ep)
	if legal {
		peersOf(t, 1, s)
		return
	}
	eventually(t, "the refusal of "+theirs.String(), func() bool { return len(seen.find(HandshakeFailed)) > 0 })
	e := seen.find(HandshakeFailed)[0]
	if e.PeerType != theirs.String() || !strings.Contains(e.Err.Error(), theirs.String()) || !strings.Contains(e.Err.Error(), ours.String()) {
		t.Errorf("%s met %s: %+v", ours, theirs, e)
	}
}

// What a ROUTER does with each message follows from who is connected and how full they are.
func TestRouterAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drops := rapid.Bool().Draw(t, "RouterDrop")
		s := New(Router, Options{SndHWM: 3, RouterDrop: drops})
		u := s.pat.(*router)
		live, model := map[string]*peer{}, map[string][]string{}
		dropped, n := uint64(0), 0
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"attach": func(t *rapid.T) {
				id := name.Draw(t, "id")
				p := &peer{s: s, identity: id, gone: make(chan struct{}), wake: make(chan struct{}, 1)}
				err := u.attach(p)
				if taken := live[id] != nil; errors.Is(err, errTaken) != taken {
					t.Fatalf("attach %s: %v", id, err)
				}
				if err == nil {
					live[id], model[id] = p, nil
				}
			},
			"detach": func(t *rapid.T) {
				id := name.Draw(t, "id")
				if live[id] != nil {
					u.detach(live[id], nil)
					delete(live, id)
				}
			},
			"send": func(t *rapid.T) {
				id := name.Draw(t, "id")
				n++
				err := s.TrySend(msg(id, strconv.Itoa(n)))
				switch {
				case live[id] != nil && len(model[id]) < 3:
					model[id] = append(model[id], strconv.Itoa(n))
				case drops:
					dropped++
				case live[id] == nil:
					if !errors.Is(err, ErrUnroutable) {
						t.Fatalf("to nobody: %v", err)
					}
					return
				default:
					if !errors.Is(err, ErrWouldBlock) {
						t.Fatalf("to a full peer: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			"written": func(t *rapid.T) {
				id := name.Draw(t, "id")
				if live[id] == nil || len(model[id]) == 0 {
					return
				}
				it := live[id].out.pop()
				live[id].account([]item{it})
				if got := string(it.msg[0]); got != model[id][0] {
					t.Fatalf("%s got %s, want %s", id, got, model[id][0])
				}
				model[id] = model[id][1:]
			},
			"": func(t *rapid.T) {
				if s.count.dropped != dropped {
					t.Fatalf("%d dropped, want %d", s.count.dropped, dropped)
				}
				for id, p := range live {
					if p.outMsgs != len(model[id]) {
						t.Fatalf("%s holds %d, want %d", id, p.outMsgs, len(model[id]))
					}
				}
			},
		})
		s.stop()
	})
}
