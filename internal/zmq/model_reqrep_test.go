package zmq

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// asking models a REQ with several REPs: one request, then its answer and no other's; out of turn
// is ErrState and changes nothing; Reset or a Recv that ends frees it, and no late answer comes.
type asking struct {
	w     *world
	req   *Socket
	reps  []*Socket
	open  map[*Socket]string // the request that each REP has taken and not answered
	asked *Socket            // who was asked last; nil: nobody
	last  string             // the request
	said  bool               // and it was answered
	n     int
}

func (a *asking) ask(t *rapid.T) {
	a.n++
	id := strconv.Itoa(a.n)
	before := make([]uint64, len(a.reps))
	for i, r := range a.reps {
		before[i] = r.Stats().Received
	}
	err := a.req.TrySend(msg(id, "body"))
	if a.asked != nil {
		if !errors.Is(err, ErrState) {
			t.Fatalf("a second request: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	a.w.until("the request", func() bool {
		for i, r := range a.reps {
			if r.Stats().Received > before[i] {
				a.asked = r
			}
		}
		return a.asked != nil
	})
	a.last, a.said = id, false
}

func (a *asking) take(t *rapid.T) {
	r := rapid.SampledFrom(a.reps).Draw(t, "REP")
	switch {
	case a.open[r] != "":
		if _, err := r.Recv(t.Context()); !errors.Is(err, ErrState) {
			t.Fatalf("REP receives twice: %v", err)
		}
	case r.Stats().Unread > 0:
		m := a.w.recv(r)
		if len(m) != 2 || string(m[1]) != "body" {
			t.Fatalf("request %q", m)
		}
		a.open[r] = string(m[0])
	}
}

func (a *asking) answer(t *rapid.T) {
	r := rapid.SampledFrom(a.reps).Draw(t, "REP")
	err := r.TrySend(msg("to "+a.open[r], "body"))
	if a.open[r] == "" {
		if !errors.Is(err, ErrState) {
			t.Fatalf("REP answers nothing: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	a.said = a.said || a.asked == r && a.open[r] == a.last
	a.open[r] = ""
}

func (a *asking) hear(t *rapid.T) {
	switch {
	case a.asked == nil:
		if _, err := a.req.Recv(t.Context()); !errors.Is(err, ErrState) {
			t.Fatalf("REQ receives first: %v", err)
		}
	case a.said:
		a.w.expect(a.req, "to "+a.last, "body")
		a.asked = nil
	}
}

// giveUp frees the REQ by Reset or by a Recv whose time is over.
func (a *asking) giveUp(t *rapid.T) {
	if a.asked == nil {
		return
	}
	connects := a.req.Stats().Connects
	if rapid.Bool().Draw(t, "by Reset") {
		if err := a.req.Reset(); err != nil {
			t.Fatal(err)
		}
	} else {
		if a.said { // the answer may be there already
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.req.Recv(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	a.w.until("the new connection", func() bool { return a.req.Stats().Connects == connects+1 && a.req.Stats().Peers == len(a.reps) })
	a.w.until("the end of the old one", func() bool { return a.asked.Stats().Peers == 1 })
	a.asked = nil
}

func (a *asking) forget(t *rapid.T) {
	r := rapid.SampledFrom(a.reps).Draw(t, "REP")
	if err := r.Reset(); err != nil {
		t.Fatal(err)
	}
	a.open[r] = ""
}

func TestReqAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		a := &asking{w: w, open: map[*Socket]string{}, req: w.open(Req, Options{})}
		if err := a.req.TrySend(msg("x")); !errors.Is(err, ErrWouldBlock) {
			t.Fatalf("nobody to ask: %v", err)
		}
		for range rapid.IntRange(1, 3).Draw(t, "REPs") {
			rep, ep := w.bound(Rep, Options{})
			a.reps = append(a.reps, rep)
			if err := a.req.Connect(ep); err != nil {
				t.Fatal(err)
			}
		}
		w.until("the connections", func() bool { return a.req.Stats().Peers == len(a.reps) })
		t.Repeat(map[string]func(*rapid.T){"ask": a.ask, "take": a.take, "answer": a.answer, "hear": a.hear, "give up": a.giveUp, "forget": a.forget,
			"take one more": a.take, "answer one more": a.answer})
	})
}

// Nobody but who was asked can answer, not even when it is asked next: what peers said before the
// request is thrown away.
func TestReqTakesNoAnswerUnasked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.tcp = false // hands
		req, ep := w.bound(Req, Options{})
		hands := []*hand{w.hand(req, ep), w.hand(req, ep), w.hand(req, ep)}
		var asked *hand
		n, heard := 0, uint64(0)
		say := func(h *hand, text string) {
			h.Append(msg("", text))
			if _, err := h.Flush(); err != nil {
				t.Fatal(err)
			}
			heard++
			w.until("what was said", func() bool { return req.Stats().Received == heard })
		}
		t.Repeat(map[string]func(*rapid.T){
			"noise": func(t *rapid.T) {
				if h := rapid.SampledFrom(hands).Draw(t, "who"); h != asked {
					say(h, "noise")
				}
			},
			"ask": func(t *rapid.T) {
				if asked != nil {
					return
				}
				n++
				before := map[string]uint64{}
				for _, p := range req.Peers() {
					before[p.Remote] = p.Sent
				}
				if err := req.TrySend(msg(strconv.Itoa(n))); err != nil {
					t.Fatal(err)
				}
				w.until("the request", func() bool {
					for _, p := range req.Peers() {
						if i := slices.IndexFunc(hands, func(h *hand) bool { return h.remote == p.Remote }); p.Sent > before[p.Remote] {
							asked = hands[i]
						}
					}
					return asked != nil
				})
				if got := asked.take(w); got != "" {
					t.Fatalf("request without a delimiter: %q", got)
				}
			},
			"answer": func(*rapid.T) {
				if asked != nil {
					say(asked, "answer "+strconv.Itoa(n))
					w.expect(req, "answer "+strconv.Itoa(n))
					asked = nil
				}
			},
		})
	})
}

// REP gives every answer the envelope of its request, to whom it came from, and takes those who
// ask in their own order; ROUTER gives the same frames with the asker's name before them.
func TestRepAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		rep, ep := w.bound(Rep, Options{})
		askers := []*Socket{w.joined(Dealer, Options{}, rep, ep), w.joined(Dealer, Options{}, rep, ep)}
		waiting, n := make([][]Msg, len(askers)), 0
		var open Msg // the whole request that is to be answered
		from := 0
		frame := rapid.SampledFrom([]string{"hop", "\x00\x01", strings300})
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				n++
				i := rapid.IntRange(0, len(askers)-1).Draw(t, "who")
				m := msg(rapid.SliceOfN(frame, 0, 3).Draw(t, "envelope")...)
				m = append(m, msg("", strconv.Itoa(i), strconv.Itoa(n), "")...)
				if err := askers[i].TrySend(m); err != nil {
					t.Fatal(err)
				}
				waiting[i] = append(waiting[i], m)
				sum := len(waiting[0]) + len(waiting[1])
				w.until("the request", func() bool { return rep.Stats().Unread == int64(sum) })
			},
			"recv": func(t *rapid.T) {
				if open != nil {
					if _, err := rep.Recv(t.Context()); !errors.Is(err, ErrState) {
						t.Fatalf("twice: %v", err)
					}
					return
				}
				if len(waiting[0])+len(waiting[1]) == 0 {
					return
				}
				m := w.recv(rep)
				from = int(m[0][0] - '0')
				open, waiting[from] = waiting[from][0], waiting[from][1:]
				if at, _ := split(open); !slices.EqualFunc(m, open[at:], slices.Equal) {
					t.Fatalf("got %q, want the body of %q", m, open)
				}
			},
			"send": func(t *rapid.T) {
				err := rep.TrySend(msg("answer", strconv.Itoa(n)))
				if open == nil {
					if !errors.Is(err, ErrState) {
						t.Fatalf("no request: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				at, _ := split(open)
				want := slices.Concat(open[:at], msg("answer", strconv.Itoa(n)))
				if got := w.recv(askers[from]); !slices.EqualFunc(got, want, slices.Equal) {
					t.Fatalf("got %q, want %q", got, want)
				}
				open = nil
			},
			"reset": func(t *rapid.T) {
				if err := rep.Reset(); err != nil {
					t.Fatal(err)
				}
				open = nil
			},
		})
	})
}

var strings300 = string(make([]byte, 299)) + "x"
