package zmq

import (
	"errors"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// dealt models how PUSH and DEALER deal messages out: each to one peer that has room, in turn.
type dealt struct {
	w      *world
	s      *Socket
	ep     string
	mark   int // high-water mark
	hands  []*hand
	queues map[*hand][]string
	moved  map[string]bool // came back from a dead peer, so it may overtake and be overtaken
	loose  []string        // nobody's
	round  map[*hand]bool  // who had a message since everybody with room had one
	n      int
}

func (d *dealt) open() (some []*hand) {
	for _, h := range d.hands {
		if len(d.queues[h]) < d.mark {
			some = append(some, h)
		}
	}
	return some
}

func (d *dealt) total() (n int) {
	for _, q := range d.queues {
		n += len(q)
	}
	return n + len(d.loose)
}

func (d *dealt) join(*rapid.T) {
	if len(d.hands) == 3 {
		return
	}
	d.hands = append(d.hands, d.w.hand(d.s, d.ep))
	d.spread()
}

// spread learns where messages went that have waited for a peer.
func (d *dealt) spread() {
	d.round = map[*hand]bool{}
	if len(d.loose) == 0 {
		return
	}
	for _, h := range d.hands {
		for range min(queued(d.s)[h.remote]-len(d.queues[h]), len(d.loose)) {
			d.queues[h] = append(d.queues[h], "?")
			d.loose = d.loose[:len(d.loose)-1]
		}
	}
	if len(d.loose) > 0 && len(d.open()) > 0 {
		d.w.Fatalf("%d messages wait though a peer has room", len(d.loose))
	}
}

func (d *dealt) leave(t *rapid.T) {
	if len(d.hands) == 0 {
		return
	}
	i := rapid.IntRange(0, len(d.hands)-1).Draw(t, "who leaves")
	h := d.hands[i]
	d.hands = slices.Delete(d.hands, i, i+1)
	_ = h.Close()
	d.w.until("the end of a peer", func() bool { return d.s.Stats().Peers == len(d.hands) })
	for _, id := range d.queues[h] {
		d.moved[id] = true
		d.loose = append(d.loose, id)
	}
	delete(d.queues, h)
	d.spread()
}

func (d *dealt) send(t *rapid.T) {
	d.n++
	id, some, before := strconv.Itoa(d.n), d.open(), queued(d.s)
	err := d.s.TrySend(bulky(id))
	if (err == nil) != (len(some) > 0) || err != nil && !errors.Is(err, ErrWouldBlock) {
		t.Fatalf("send with %d of %d peers open: %v", len(some), len(d.hands), err)
	}
	if err != nil {
		return
	}
	after := queued(d.s)
	for _, h := range some {
		if after[h.remote] == before[h.remote] {
			continue
		}
		if d.round[h] {
			t.Fatal("the same peer again while another one with room had none")
		}
		d.queues[h] = append(d.queues[h], id)
		d.round[h] = true
		if !slices.ContainsFunc(some, func(o *hand) bool { return !d.round[o] }) {
			d.round = map[*hand]bool{}
		}
		return
	}
	t.Fatalf("message %s went to no peer with room", id)
}

func (d *dealt) take(t *rapid.T) {
	if len(d.hands) == 0 {
		return
	}
	h := rapid.SampledFrom(d.hands).Draw(t, "who reads")
	if len(d.queues[h]) == 0 {
		return
	}
	got, want := h.take(d.w), d.queues[h][0]
	if want != "?" && !d.moved[got] && got != want {
		t.Fatalf("a peer got %s, want %s", got, want)
	}
	d.queues[h] = d.queues[h][1:]
	if len(d.loose) > 0 { // room for what waits
		d.queues[h] = append(d.queues[h], "?")
		d.loose = d.loose[1:]
	}
	d.round = map[*hand]bool{}
	d.check(t)
}

func (d *dealt) check(t *rapid.T) {
	d.w.until("the queues of the model", func() bool {
		held := queued(d.s)
		for _, h := range d.hands {
			if held[h.remote] != len(d.queues[h]) {
				return false
			}
		}
		return d.s.Stats().Queued == int64(d.total())
	})
	if st := d.s.Stats(); st.Dropped != 0 {
		t.Fatalf("%d dropped", st.Dropped)
	}
}

func TestPushAndDealerDealAsTheModel(t *testing.T) {
	for _, typ := range []Type{Push, Dealer} {
		t.Run(typ.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newWorld(t)
				w.tcp = false // hands
				mark := rapid.IntRange(1, 3).Draw(t, "SndHWM")
				s, ep := w.bound(typ, Options{SndHWM: mark})
				d := &dealt{w: w, s: s, ep: ep, mark: mark, queues: map[*hand][]string{}, moved: map[string]bool{}, round: map[*hand]bool{}}
				t.Repeat(map[string]func(*rapid.T){"join": d.join, "leave": d.leave, "send": d.send, "send again": d.send, "take": d.take, "": d.check})
			})
		})
	}
}

// What PULL, DEALER and ROUTER receive comes in each peer's order, and nobody who has something to say
// is passed over for longer than it takes to hear each of the others once.
func TestReceiversHearTheirPeersInTurn(t *testing.T) {
	for typ, partner := range map[Type]Type{Pull: Push, Dealer: Dealer, Router: Dealer} {
		t.Run(typ.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newWorld(t)
				mark := rapid.IntRange(4, 20).Draw(t, "RcvHWM")
				s, ep := w.bound(typ, Options{RcvHWM: mark})
				peers := make([]*Socket, 3)
				for i := range peers {
					peers[i] = w.joined(partner, Options{}, s, ep)
				}
				waiting, passed, n := make([][]string, 3), make([]int, 3), 0
				sum := func() int { return len(waiting[0]) + len(waiting[1]) + len(waiting[2]) }
				t.Repeat(map[string]func(*rapid.T){
					"send": func(t *rapid.T) {
						i := rapid.IntRange(0, 2).Draw(t, "sender")
						for range rapid.IntRange(1, 3).Draw(t, "messages") {
							if n++; len(waiting[i]) < mark {
								id := strconv.Itoa(i) + "/" + strconv.Itoa(n)
								waiting[i] = append(waiting[i], id)
								if err := peers[i].TrySend(msg(id)); err != nil {
									t.Fatal(err)
								}
							}
						}
						w.until("all that was sent", func() bool { return s.Stats().Unread == int64(sum()) })
					},
					"recv": func(t *rapid.T) {
						if sum() == 0 {
							return
						}
						m := w.recv(s)
						id := string(m[len(m)-1])
						i := int(id[0] - '0')
						if len(waiting[i]) == 0 || waiting[i][0] != id {
							t.Fatalf("%s from a peer that waits with %q", id, waiting[i])
						}
						waiting[i], passed[i] = waiting[i][1:], 0
						for j := range passed {
							if passed[j]++; len(waiting[j]) == 0 {
								passed[j] = 0
							}
							if passed[j] > len(peers) {
								t.Fatalf("peer %d was passed over %d times", j, passed[j])
							}
						}
					},
				})
			})
		})
	}
}

// A PAIR has one peer: others are refused until it goes. What is sent is in the peer's order, and
// a full peer holds the sender back.
func TestPairAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.tcp = false // hands
		mark := rapid.IntRange(1, 3).Draw(t, "SndHWM")
		s, ep := w.bound(Pair, Options{SndHWM: mark})
		var peer *hand
		var queue []string
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				if peer != nil {
					refused, other := s.Stats().HandshakeFailures, w.open(Pair, Options{})
					if err := other.Connect(ep); err != nil {
						t.Fatal(err)
					}
					w.until("the refusal", func() bool { return s.Stats().HandshakeFailures > refused })
					_ = other.Close(t.Context()) // it would dial for ever
					return
				}
				peer = w.hand(s, ep)
			},
			"leave": func(*rapid.T) {
				if peer != nil {
					_ = peer.Close()
					w.until("the end of the peer", func() bool { return s.Stats().Peers == 0 })
					peer = nil
				}
			},
			"send": func(t *rapid.T) {
				n++
				err := s.TrySend(bulky(strconv.Itoa(n)))
				if fits := peer != nil && len(queue) < mark; fits != (err == nil) || err != nil && !errors.Is(err, ErrWouldBlock) {
					t.Fatalf("send with a peer %v and %d queued: %v", peer != nil, len(queue), err)
				}
				if err == nil {
					queue = append(queue, strconv.Itoa(n))
				}
			},
			"take": func(t *rapid.T) {
				if peer == nil || len(queue) == 0 {
					return
				}
				if got := peer.take(w); got != queue[0] {
					t.Fatalf("got %s, want %s", got, queue[0])
				}
				queue = queue[1:]
			},
			"hear": func(t *rapid.T) {
				if peer == nil {
					return
				}
				n++
				peer.Append(msg(strconv.Itoa(n)))
				if _, err := peer.Flush(); err != nil {
					t.Fatal(err)
				}
				w.expect(s, strconv.Itoa(n))
			},
			"": func(*rapid.T) {
				w.until("the queue of the model", func() bool { return s.Stats().Queued == int64(len(queue)) })
			},
		})
	})
}

// While nobody is connected, a PUSH queues up to its mark for each endpoint it dials, with
// IMMEDIATE nothing, with CONFLATE always and the newest only; who comes first gets all of it.
func TestWhatIsSentBeforeAnybodyIsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.tcp = false // names that are free for sure
		o := Options{SndHWM: rapid.IntRange(1, 4).Draw(t, "SndHWM"), Immediate: rapid.Bool().Draw(t, "IMMEDIATE"), Conflate: rapid.Bool().Draw(t, "CONFLATE")}
		s := w.open(rapid.SampledFrom([]Type{Push, Dealer}).Draw(t, "type"), o)
		endpoints := rapid.IntRange(0, 2).Draw(t, "endpoints")
		for i := range endpoints {
			if err := s.Connect("inproc://later" + strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
		}
		var queue []string
		taken := 0
		for i := range rapid.IntRange(0, 12).Draw(t, "messages") {
			fits := endpoints > 0 && !o.Immediate && (o.Conflate || len(queue) < endpoints*o.SndHWM)
			if err := s.TrySend(msg(strconv.Itoa(i))); fits != (err == nil) || err != nil && !errors.Is(err, ErrWouldBlock) {
				t.Fatalf("message %d with %d queued: %v", i, len(queue), err)
			}
			if fits && o.Conflate {
				queue = nil
			}
			if fits {
				taken++
				queue = append(queue, strconv.Itoa(i))
			}
		}
		if st := s.Stats(); st.Queued != int64(len(queue)) || st.Conflated != uint64(taken-len(queue)) {
			t.Fatalf("%d queued and %d conflated, want %q", st.Queued, st.Conflated, queue)
		}
		if endpoints == 0 {
			return
		}
		late := w.open(partnerOf[s.typ], Options{})
		if _, err := late.Bind(t.Context(), "inproc://later0"); err != nil {
			t.Fatal(err)
		}
		for _, id := range queue {
			w.expect(late, id)
		}
		w.until("the connection", func() bool { return s.Stats().Peers == 1 })
		if err := s.TrySend(msg("end")); err != nil {
			t.Fatal(err)
		}
		w.expect(late, "end")
		if st := s.Stats(); st.Dropped != 0 {
			t.Fatalf("%+v", st)
		}
	})
}

var partnerOf = map[Type]Type{Push: Pull, Dealer: Dealer}

// With CONFLATE on either end a receiver gets some of what was sent, in order, and the newest in
// any case; each message it does not get is counted.
func TestConflateAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		there := rapid.Bool().Draw(t, "at the receiver")
		typ := rapid.SampledFrom([]Type{Push, Dealer, Pub}).Draw(t, "type")
		s, ep := w.bound(typ, Options{Conflate: !there, SndHWM: 1})
		to := w.joined(map[Type]Type{Push: Pull, Dealer: Dealer, Pub: Sub}[typ], Options{Conflate: there}, s, ep)
		if typ == Pub {
			if err := to.Subscribe(""); err != nil {
				t.Fatal(err)
			}
			w.until("the subscription", func() bool { return s.Peers()[0].Subscriptions == 1 })
		}
		n, last := rapid.IntRange(1, 50).Draw(t, "messages"), -1
		for i := range n {
			if !there {
				if err := s.TrySend(msg(strconv.Itoa(i))); err != nil {
					t.Fatal(err)
				}
				continue
			}
			w.until("room", func() bool { return s.Stats().Queued == 0 })
			if err := s.TrySend(msg(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
		}
		w.until("the newest", func() bool { return s.Stats().Queued == 0 && to.Stats().Received == s.Stats().Sent })
		got := uint64(0)
		for last != n-1 {
			i, err := strconv.Atoi(string(w.recv(to)[0]))
			if err != nil || i <= last {
				t.Fatalf("%d after %d: %v", i, last, err)
			}
			last = i
			got++
		}
		if lost := s.Stats().Conflated + to.Stats().Conflated; got+lost != uint64(n) || to.Stats().Unread != 0 || there && got != 1 {
			t.Fatalf("%d of %d received and %d conflated", got, n, lost)
		}
	})
}
