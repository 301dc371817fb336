package libzmq

import (
	"bytes"
	"context"
	"testing"
	"time"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestTheirRestart(t *testing.T) {
	testkit.Pyzmq(t)
	var p *peer
	t.Run("first life", func(t *testing.T) { p = start(t, "PULL", "bind", "tcp://127.0.0.1:*", nil) }) // ends with its subtest
	s := zmq.New(zmq.Push, zmq.Options{ReconnectMin: 5 * time.Millisecond, ReconnectMax: 20 * time.Millisecond})
	defer func() { _ = s.Close(context.Background()) }()
	if err := s.Connect(p.endpoint); err != nil {
		t.Fatal(err)
	}
	send(t, s, zmq.Msg{[]byte("sent while nobody was there")})
	again := start(t, "PULL", "bind", p.endpoint, nil)
	same(t, again.recv(), zmq.Msg{[]byte("sent while nobody was there")})
}

func TestOurRestart(t *testing.T) {
	testkit.Pyzmq(t)
	s, p := meet(t, zmq.Router, zmq.Options{}, "DEALER", settings{"identity": []byte("ana"), "reconnect_ivl": 10}, true, "tcp://127.0.0.1:0")
	p.send(zmq.Msg{[]byte("first")})
	same(t, recv(t, s), zmq.Msg{[]byte("ana"), []byte("first")})
	_ = s.Close(t.Context())
	again := zmq.New(zmq.Router, zmq.Options{})
	defer func() { _ = again.Close(context.Background()) }()
	eventually(t, "the port", func() bool { _, err := again.Bind(t.Context(), p.remote); return err == nil })
	p.send(zmq.Msg{[]byte("second")})
	same(t, recv(t, again), zmq.Msg{[]byte("ana"), []byte("second")})
	send(t, again, zmq.Msg{[]byte("ana"), []byte("answer")})
	same(t, p.recv(), zmq.Msg{[]byte("answer")})
}

func TestLongFrames(t *testing.T) {
	testkit.Pyzmq(t)
	m := zmq.Msg{{}, bytes.Repeat([]byte("0123456789abcdef"), 8<<16)} // 8 MiB
	for _, encrypted := range []bool{false, true} {
		var o zmq.Options
		var set settings
		if encrypted {
			ours, theirs := newKeys(t), newKeys(t)
			o, set = secured(ours, theirs, true, ours.Public, theirs.Public)
		}
		s, p := meet(t, zmq.Dealer, o, "DEALER", set, true, "tcp://127.0.0.1:0")
		send(t, s, m)
		same(t, p.recv(), m)
		p.send(m)
		same(t, recv(t, s), m)
	}
}
