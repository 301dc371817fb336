package libzmq

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
)

func newKeys(t *testing.T) curve.Pair {
	t.Helper()
	p, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// secured are both ends' settings; the server's key as the client knows it, and the client's as
// the server has it on its list, need not be the right ones.
func secured(ourKeys, theirKeys curve.Pair, weServe bool, known, listed curve.Key) (zmq.Options, settings) {
	ours := &zmq.CurveOptions{Server: weServe, Public: ourKeys.Public, Secret: ourKeys.Secret}
	theirs := settings{"curve_publickey": []byte(theirKeys.Public.Z85()), "curve_secretkey": []byte(theirKeys.Secret.Z85())}
	if weServe {
		ours.Authorize = zmq.AllowKeys(listed)
		theirs["curve_serverkey"] = []byte(known.Z85())
	} else {
		ours.ServerKey = known
		theirs["curve_server"] = true
	}
	return zmq.Options{Curve: ours}, theirs
}

func TestCurve(t *testing.T) {
	testkit.Pyzmq(t)
	for _, c := range []struct {
		ours   zmq.Type
		theirs string
	}{{zmq.Dealer, "DEALER"}, {zmq.Pair, "PAIR"}} {
		for _, weBind := range []bool{true, false} {
			for _, weServe := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, we bind %v, we serve %v", c.ours, weBind, weServe), func(t *testing.T) {
					t.Parallel()
					ours, theirs := newKeys(t), newKeys(t)
					known := theirs.Public
					if weServe {
						known = ours.Public
					}
					o, set := secured(ours, theirs, weServe, known, theirs.Public)
					if weServe {
						set["heartbeat_ivl"], set["heartbeat_timeout"] = 50, 1500
					}
					s, p := meet(t, c.ours, o, c.theirs, set, weBind, "tcp://127.0.0.1:0")
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
}

func TestCurveSubscriptions(t *testing.T) {
	testkit.Pyzmq(t)
	for _, wePublish := range []bool{true, false} {
		t.Run(fmt.Sprintf("we publish %v", wePublish), func(t *testing.T) {
			t.Parallel()
			ours, theirs := newKeys(t), newKeys(t)
			o, set := secured(ours, theirs, wePublish, ours.Public, theirs.Public)
			if !wePublish {
				o.Curve.ServerKey = theirs.Public
			}
			m := zmq.Msg{[]byte("ab"), []byte("x")}
			if wePublish {
				s, p := meet(t, zmq.XPub, o, "SUB", set, true, "tcp://127.0.0.1:0")
				p.subscribe("subscribe", "a")
				same(t, recv(t, s), zmq.Msg{[]byte("\x01a")})
				send(t, s, zmq.Msg{[]byte("unwanted")})
				send(t, s, m)
				same(t, p.recv(), m)
				p.subscribe("unsubscribe", "a")
				same(t, recv(t, s), zmq.Msg{[]byte("\x00a")})
				return
			}
			s, p := meet(t, zmq.Sub, o, "XPUB", set, true, "tcp://127.0.0.1:0")
			if err := s.Subscribe("a"); err != nil {
				t.Fatal(err)
			}
			same(t, p.recv(), zmq.Msg{[]byte("\x01a")})
			p.send(m)
			same(t, recv(t, s), m)
			if err := s.Unsubscribe("a"); err != nil {
				t.Fatal(err)
			}
			same(t, p.recv(), zmq.Msg{[]byte("\x00a")})
		})
	}
}

// Wrong keys, keys that are not listed, and plain peers get nothing through, either way round.
// Of two different mechanisms libzmq often sees the difference first and hangs up.
func TestCurveRefusals(t *testing.T) {
	testkit.Pyzmq(t)
	ours, theirs, strange := newKeys(t), newKeys(t), newKeys(t)
	serve := func(known, listed curve.Key) (zmq.Options, settings) {
		return secured(ours, theirs, true, known, listed)
	}
	wrong, wrongSet := serve(strange.Public, theirs.Public)
	denied, deniedSet := serve(ours.Public, strange.Public)
	client, clientSet := secured(ours, theirs, false, strange.Public, curve.Key{})
	plain, _ := serve(ours.Public, theirs.Public)
	_, curveSet := serve(ours.Public, theirs.Public)
	for _, c := range []struct {
		name string
		o    zmq.Options
		set  settings
		said string
	}{
		{"their client has a wrong server key", wrong, wrongSet, "HELLO does not open"},
		{"their client is not listed", denied, deniedSet, "not on the list"},
		{"we have a wrong server key", client, clientSet, ""},
		{"their client is plain", plain, nil, ""},
		{"we are plain", zmq.Options{}, curveSet, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			events := make(chan zmq.Event, 1)
			c.o.Monitor = func(e zmq.Event) {
				if e.Kind == zmq.HandshakeFailed {
					select {
					case events <- e:
					default:
					}
				}
			}
			s, _ := meet(t, zmq.Pull, c.o, "PUSH", c.set, true, "tcp://127.0.0.1:0")
			select {
			case e := <-events:
				if !strings.Contains(e.Err.Error(), c.said) {
					t.Errorf("event %v", e.Err)
				}
			case <-time.After(patience):
				t.Error("no refusal")
			}
			if st := s.Stats(); st.Connects+st.Received != 0 {
				t.Errorf("something got through: %+v", st)
			}
		})
	}
}

// pyzmq reads the key files that we write.
func TestKeyFiles(t *testing.T) {
	testkit.Pyzmq(t)
	p, path := newKeys(t), t.TempDir()+"/ana"
	if err := p.WriteFiles(path + ".key"); err != nil {
		t.Fatal(err)
	}
	script := "import sys, zmq.auth; print(*[k.decode() for k in zmq.auth.load_certificate(sys.argv[1]) if k])"
	for name, want := range map[string]string{path + ".key": p.Public.Z85() + " " + p.Secret.Z85(), path + ".pub": p.Public.Z85()} {
		out, err := exec.Command("python3", "-c", script, name).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("pyzmq reads %d bytes, %v", len(out), err)
		}
	}
}
