package libzmq

import (
	"fmt"
	"path/filepath"
	"testing"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// The same bytes go over every transport, so a few pairs show that endpoints mean the same.
func TestIPC(t *testing.T) {
	testkit.Pyzmq(t)
	for i, c := range []struct {
		ours   zmq.Type
		theirs string
	}{{zmq.Dealer, "DEALER"}, {zmq.Pair, "PAIR"}, {zmq.Dealer, "DEALER"}} {
		for _, weBind := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d %s, we bind %v", i, c.ours, weBind), func(t *testing.T) {
				t.Parallel()
				endpoint := "ipc://" + filepath.Join(t.TempDir(), "s")
				if i == 2 {
					endpoint = fmt.Sprintf("ipc://@%s-%v", t.TempDir(), weBind)
				}
				s, p := meet(t, c.ours, zmq.Options{}, c.theirs, nil, weBind, endpoint)
				for _, m := range shapes() {
					send(t, s, m)
					same(t, p.recv(), m)
					p.send(m)
					same(t, recv(t, s), m)
				}
			})
		}
	}
}
