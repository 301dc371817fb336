package libzmq

import (
	"fmt"
	"testing"
	"time"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// libzmq answers our PINGs, plain and under CURVE, and never sees one as a message.
func TestOurHeartbeats(t *testing.T) {
	testkit.Pyzmq(t)
	for _, encrypted := range []bool{false, true} {
		for _, weBind := range []bool{true, false} {
			t.Run(fmt.Sprintf("encrypted %v, we bind %v", encrypted, weBind), func(t *testing.T) {
				t.Parallel()
				var o zmq.Options
				var set settings
				if encrypted {
					ours, theirs := newKeys(t), newKeys(t)
					o, set = secured(ours, theirs, true, ours.Public, theirs.Public)
				}
				o.HeartbeatInterval, o.HeartbeatTimeout, o.HeartbeatTTL = 50*time.Millisecond, time.Second, 2*time.Second
				s, p := meet(t, zmq.Dealer, o, "DEALER", set, weBind, "tcp://127.0.0.1:0")
				eventually(t, "the connection", func() bool { return s.Stats().Peers == 1 })
				stays(t, s, 2500*time.Millisecond)
				m := zmq.Msg{[]byte("after the silence")}
				send(t, s, m)
				same(t, p.recv(), m)
				if st := s.Stats(); st.Received != 0 || st.Connects != 1 {
					t.Errorf("%+v", st)
				}
			})
		}
	}
}

// Both ends announce ZMTP 3.1, and a peer that stops answering is given up.
func TestAFrozenPeerIsGivenUp(t *testing.T) {
	testkit.Pyzmq(t)
	s, p := meet(t, zmq.Dealer, zmq.Options{HeartbeatInterval: 50 * time.Millisecond, HeartbeatTimeout: 300 * time.Millisecond},
		"DEALER", nil, true, "tcp://127.0.0.1:0")
	eventually(t, "the connection", func() bool { return s.Stats().Peers == 1 })
	p.freeze(true)
	eventually(t, "the end of the connection", func() bool { return s.Stats().Disconnects == 1 })
	p.freeze(false)
	eventually(t, "its return", func() bool { return s.Stats().Peers == 1 })
}
