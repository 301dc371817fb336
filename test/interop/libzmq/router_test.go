package libzmq

import (
	"bytes"
	"testing"

	"eventspine/internal/zmq"
)

// prefixed puts frames before m.
func prefixed(m zmq.Msg, frames ...string) zmq.Msg {
	all := make(zmq.Msg, 0, len(frames)+len(m))
	for _, f := range frames {
		all = append(all, []byte(f))
	}
	return append(all, m...)
}

// Both ends of these pairs send and receive alike.
func TestTwoWayPairs(t *testing.T) {
	for _, c := range []struct {
		ours   zmq.Type
		theirs string
	}{{zmq.Dealer, "DEALER"}, {zmq.Pair, "PAIR"}} {
		t.Run(c.ours.String(), func(t *testing.T) {
			eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
				s, p := pair(t, c.ours, c.theirs, weBind, heartbeat)
				for _, m := range shapes() {
					send(t, s, m)
					same(t, p.recv(), m)
					p.send(m)
					same(t, recv(t, s), m)
				}
			})
		})
	}
}

func TestDealerAsksTheirRep(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		s, p := pair(t, zmq.Dealer, "REP", weBind, heartbeat)
		for _, m := range shapes() {
			send(t, s, prefixed(m, "hop", ""))
			same(t, p.recv(), m)
			p.send(m)
			same(t, recv(t, s), prefixed(m, "hop", ""))
		}
	})
}

func TestDealerAndTheirRouter(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		s, p := meet(t, zmq.Dealer, zmq.Options{Identity: "ana"}, "ROUTER", beats(heartbeat), weBind, "tcp://127.0.0.1:0")
		for _, m := range shapes() {
			send(t, s, m)
			same(t, p.recv(), prefixed(m, "ana"))
			p.send(prefixed(m, "ana"))
			same(t, recv(t, s), m)
		}
	})
}

// Our ROUTER learns who is there by the peers' first messages, named or not.
func TestRouterAnswersTheirs(t *testing.T) {
	for _, theirs := range []string{"DEALER", "REQ"} {
		for _, name := range []string{"", "ana"} {
			t.Run(theirs+" "+name, func(t *testing.T) {
				eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
					set := settings{}
					for k, v := range beats(heartbeat) {
						set[k] = v
					}
					if name != "" {
						set["identity"] = []byte(name)
					}
					s, p := meet(t, zmq.Router, zmq.Options{}, theirs, set, weBind, "tcp://127.0.0.1:0")
					for _, m := range shapes() {
						p.send(m)
						got := recv(t, s)
						if id := got[0]; name != "" && string(id) != name || name == "" && (len(id) != 5 || id[0] != 0) {
							t.Fatalf("identity %q", id)
						}
						send(t, s, got)
						same(t, p.recv(), m)
					}
				})
			})
		}
	}
}

func TestRouterToTheirRouter(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		set := settings{"identity": []byte("theirs"), "router_mandatory": 1}
		for k, v := range beats(heartbeat) {
			set[k] = v
		}
		s, p := meet(t, zmq.Router, zmq.Options{Identity: "ours"}, "ROUTER", set, weBind, "tcp://127.0.0.1:0")
		eventually(t, "the peer", func() bool { return s.Stats().Peers == 1 })
		m := zmq.Msg{[]byte("a"), {}, bytes.Repeat([]byte("b"), 1000)}
		send(t, s, prefixed(m, "theirs"))
		same(t, p.recv(), prefixed(m, "ours"))
		p.send(prefixed(m, "ours"))
		same(t, recv(t, s), prefixed(m, "theirs"))
	})
}
