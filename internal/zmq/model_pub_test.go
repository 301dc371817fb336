package zmq

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/zmq/zmtp"
)

// feed models PUB and XPUB with SUB and XSUB peers: who wants what, and what the publisher's
// application is told of it.
type feed struct {
	w       *world
	pub     *Socket
	ep      string
	verbose bool
	subs    []*Socket
	wants   map[*Socket]map[string]int
	due     map[*Socket]uint64 // messages that each has received or will
	told    []string           // what XPUB's Recv has to give now
	n       int
}

var topicNames = []string{"", "a", "ab", "abc", "b"}

func (f *feed) wanted(topic string) bool {
	return slices.ContainsFunc(f.subs, func(s *Socket) bool { return f.wants[s][topic] > 0 })
}

func (f *feed) tell(topic string, on bool) {
	if f.pub.typ == XPub {
		f.told = append(f.told, string(change(topic, on)[0]))
	}
}

func (f *feed) join(t *rapid.T) {
	if len(f.subs) == 3 {
		return
	}
	s := f.w.joined(rapid.SampledFrom([]Type{Sub, XSub}).Draw(t, "type"), Options{}, f.pub, f.ep)
	f.subs, f.wants[s] = append(f.subs, s), map[string]int{}
}

func (f *feed) leave(t *rapid.T) {
	if len(f.subs) == 0 {
		return
	}
	s := f.draw(t)
	before := f.wants[s]
	f.subs = slices.DeleteFunc(f.subs, func(o *Socket) bool { return o == s })
	_ = s.Close(t.Context())
	f.w.until("the end of a subscriber", func() bool { return f.pub.Stats().Peers == len(f.subs) })
	for _, topic := range topicNames {
		if before[topic] > 0 && !f.wanted(topic) {
			f.tell(topic, false)
		}
	}
}

func (f *feed) draw(t *rapid.T) *Socket { return rapid.SampledFrom(f.subs).Draw(t, "who") }

// change is a subscription or its end by a socket of either type.
func (f *feed) change(t *rapid.T, on bool) {
	if len(f.subs) == 0 {
		return
	}
	s, topic := f.draw(t), rapid.SampledFrom(topicNames).Draw(t, "topic")
	var err error
	switch {
	case s.typ == XSub && rapid.Bool().Draw(t, "as a message"):
		err = s.TrySend(change(topic, on))
	case on:
		err = s.Subscribe(topic)
	default:
		err = s.Unsubscribe(topic)
	}
	if err != nil {
		t.Fatal(err)
	}
	anybody := f.wanted(topic)
	switch had := f.wants[s][topic]; {
	case on:
		f.wants[s][topic]++
		if had == 0 && (!anybody || f.verbose) {
			f.tell(topic, true)
		}
	case had > 0:
		f.wants[s][topic]--
		if anybody && !f.wanted(topic) {
			f.tell(topic, false)
		}
	}
}

func (f *feed) publish(t *rapid.T) {
	f.n++
	first := rapid.SampledFrom([]string{"", "a", "ab", "abcd", "b", "c"}).Draw(t, "message")
	if err := f.pub.TrySend(msg(first, strconv.Itoa(f.n))); err != nil {
		t.Fatal(err)
	}
	for _, s := range f.subs {
		if slices.ContainsFunc(topicNames, func(topic string) bool { return f.wants[s][topic] > 0 && strings.HasPrefix(first, topic) }) {
			f.due[s]++
			f.w.expect(s, first, strconv.Itoa(f.n))
		}
	}
}

// speak is a message from an XSUB to the XPUB's application.
func (f *feed) speak(t *rapid.T) {
	if len(f.subs) == 0 || f.pub.typ != XPub {
		return
	}
	if s := f.draw(t); s.typ == XSub {
		f.n++
		if err := s.TrySend(msg("note", strconv.Itoa(f.n))); err != nil {
			t.Fatal(err)
		}
		f.w.expect(f.pub, "note", strconv.Itoa(f.n))
	}
}

func (f *feed) check(t *rapid.T) {
	f.w.until("the subscriptions of the model", func() bool {
		sum, want := 0, 0
		for _, p := range f.pub.Peers() {
			sum += p.Subscriptions
		}
		for _, s := range f.subs {
			for _, n := range f.wants[s] {
				want += min(n, 1)
			}
		}
		return sum == want
	})
	for len(f.told) > 0 {
		got := string(f.w.recv(f.pub)[0])
		i := slices.Index(f.told, got)
		if i < 0 {
			t.Fatalf("told %q, want %q", got, f.told)
		}
		f.told = slices.Delete(f.told, i, i+1)
	}
	f.pub.in.mu.Lock()
	more := f.pub.in.changes.len() + f.pub.in.unread
	f.pub.in.mu.Unlock()
	if more > 0 {
		t.Fatalf("%d more messages than the model has", more)
	}
	for _, s := range f.subs {
		if got := s.Stats().Received; got != f.due[s] {
			t.Fatalf("%d messages received, %d were wanted", got, f.due[s])
		}
	}
}

func TestPublishAndSubscribeAsTheModel(t *testing.T) {
	for name, o := range map[string]Options{"PUB": {}, "XPUB": {}, "XPUB_VERBOSE": {Verbose: true}} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newWorld(t)
				typ := map[bool]Type{true: Pub, false: XPub}[name == "PUB"]
				pub, ep := w.bound(typ, o)
				f := &feed{w: w, pub: pub, ep: ep, verbose: o.Verbose, wants: map[*Socket]map[string]int{}, due: map[*Socket]uint64{}}
				t.Repeat(map[string]func(*rapid.T){"join": f.join, "leave": f.leave, "publish": f.publish, "publish more": f.publish, "speak": f.speak,
					"subscribe": func(t *rapid.T) { f.change(t, true) }, "unsubscribe": func(t *rapid.T) { f.change(t, false) }, "": f.check})
			})
		})
	}
}

// A publisher never waits: who is at the mark loses the message, which is counted as his, and
// nobody else loses any.
func TestPublishersDropAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.tcp = false // hands
		mark := rapid.IntRange(1, 3).Draw(t, "SndHWM")
		s, ep := w.bound(rapid.SampledFrom([]Type{Pub, XPub}).Draw(t, "type"), Options{SndHWM: mark})
		hands, queues, dropped := make([]*hand, 2), make([][]string, 2), make([]uint64, 2)
		for i := range hands {
			hands[i] = w.hand(s, ep)
			hands[i].Append(Msg{change("", true)[0]})
			if _, err := hands[i].Flush(); err != nil {
				t.Fatal(err)
			}
		}
		w.until("the subscriptions", func() bool {
			return !slices.ContainsFunc(s.Peers(), func(p PeerStats) bool { return p.Subscriptions == 0 })
		})
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				n++
				if err := s.TrySend(bulky(strconv.Itoa(n))); err != nil {
					t.Fatal(err)
				}
				for i := range hands {
					if len(queues[i]) == mark {
						dropped[i]++
						continue
					}
					queues[i] = append(queues[i], strconv.Itoa(n))
				}
			},
			"take": func(t *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(t, "who")
				if len(queues[i]) == 0 {
					return
				}
				if got := hands[i].take(w); got != queues[i][0] {
					t.Fatalf("got %s, want %s", got, queues[i][0])
				}
				queues[i] = queues[i][1:]
			},
			"": func(t *rapid.T) {
				w.until("the queues of the model", func() bool {
					held := queued(s)
					return !slices.ContainsFunc([]int{0, 1}, func(i int) bool { return held[hands[i].remote] != len(queues[i]) })
				})
				for _, p := range s.Peers() {
					i := slices.IndexFunc(hands, func(h *hand) bool { return h.remote == p.Remote })
					if p.Dropped != dropped[i] {
						t.Fatalf("peer %d lost %d, want %d", i, p.Dropped, dropped[i])
					}
				}
			},
		})
		if got := s.Stats().Dropped; got != dropped[0]+dropped[1] {
			t.Fatalf("%d dropped, want %d", got, dropped)
		}
	})
}

// A SUB gives only what it wants now, whatever publishers send; an XSUB gives everything.
func TestSubscribersFilterAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.tcp = false // hands
		typ := rapid.SampledFrom([]Type{Sub, XSub}).Draw(t, "type")
		s, ep := w.bound(typ, Options{})
		pub := w.hand(s, ep)
		wants, n := map[string]int{}, 0
		topic := rapid.SampledFrom(topicNames)
		t.Repeat(map[string]func(*rapid.T){
			"subscribe": func(t *rapid.T) {
				name := topic.Draw(t, "topic")
				wants[name]++
				if err := s.Subscribe(name); err != nil {
					t.Fatal(err)
				}
			},
			"unsubscribe": func(t *rapid.T) {
				name := topic.Draw(t, "topic")
				wants[name] = max(wants[name]-1, 0)
				if err := s.Unsubscribe(name); err != nil {
					t.Fatal(err)
				}
			},
			"publish": func(t *rapid.T) {
				n++
				first := rapid.SampledFrom([]string{"", "a", "ab", "abcd", "b", "c"}).Draw(t, "message")
				pub.Append(msg(first, strconv.Itoa(n)))
				pub.AppendRaw(zmtp.EncodePing(0)) // its answer comes after the message was looked at
				if _, err := pub.Flush(); err != nil {
					t.Fatal(err)
				}
				for {
					_, cmd, err := pub.Next()
					if err != nil {
						t.Fatal(err)
					}
					if cmd != nil && cmd.Name == zmtp.Pong {
						break
					}
				}
				wanted := typ == XSub
				for name, n := range wants {
					wanted = wanted || n > 0 && strings.HasPrefix(first, name)
				}
				if wanted {
					w.expect(s, first, strconv.Itoa(n))
				} else if u := s.Stats().Unread; u != 0 {
					t.Fatalf("%q was let through to %v", first, wants)
				}
			},
		})
	})
}
