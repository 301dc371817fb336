package libzmq

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 15 * time.Second

// peer is one libzmq socket in a process of its own.
type peer struct {
	t        *testing.T
	in       *json.Encoder
	out      *bufio.Scanner
	process  *os.Process
	endpoint string // as libzmq says it
	remote   string // as it was told
}

// freeze stops the process, or lets it go on.
func (p *peer) freeze(on bool) {
	p.t.Helper()
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	if err := p.process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

type order struct {
	Do      string   `json:"do"`
	Frames  [][]byte `json:"frames,omitempty"`
	Topic   []byte   `json:"topic,omitempty"`
	Timeout int      `json:"timeout,omitempty"`
	N       int      `json:"n,omitempty"`
	Size    int      `json:"size,omitempty"`
}

type answer struct {
	Endpoint string   `json:"endpoint"`
	Frames   [][]byte `json:"frames"`
	Again    bool     `json:"again"`
	N        int      `json:"n"`
	Dropped  bool     `json:"dropped"`
}

// settings are pyzmq's socket options; []byte values arrive as bytes.
type settings map[string]any

func (s settings) json(t *testing.T) string {
	t.Helper()
	plain := map[string]any{}
	for name, v := range s {
		if b, ok := v.([]byte); ok {
			v = map[string][]byte{"base64": b}
		}
		plain[name] = v
	}
	b, err := json.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// beats are the settings of a peer that beats so often, in milliseconds; 0 for never.
func beats(heartbeat int) settings {
	if heartbeat == 0 {
		return nil
	}
	return settings{"heartbeat_ivl": heartbeat, "heartbeat_timeout": 1500}
}

// start runs a libzmq socket.
func start(t *testing.T, kind, how, endpoint string, set settings) *peer {
	t.Helper()
	cmd := exec.Command("python3", "../peer.py", kind, how, endpoint, set.json(t))
	var errors bytes.Buffer
	cmd.Stderr = &errors
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, remote: endpoint, process: cmd.Process, in: json.NewEncoder(stdin), out: bufio.NewScanner(stdout)}
	p.out.Buffer(nil, 64<<20)
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil || errors.Len() > 0 {
			t.Errorf("peer.py: %v\n%s", err, errors.String())
		}
	})
	p.endpoint = p.answer().Endpoint
	return p
}

func (p *peer) answer() (a answer) {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("peer.py ended: %v", p.out.Err())
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		p.t.Fatal(err)
	}
	return a
}

func (p *peer) do(o order) answer {
	p.t.Helper()
	if o.Timeout == 0 {
		o.Timeout = int(patience.Milliseconds())
	}
	if err := p.in.Encode(o); err != nil {
		p.t.Fatal(err)
	}
	return p.answer()
}

func (p *peer) send(m zmq.Msg) { p.t.Helper(); p.do(order{Do: "send", Frames: m}) }
func (p *peer) recv() zmq.Msg  { p.t.Helper(); return p.do(order{Do: "recv"}).Frames }
func (p *peer) subscribe(what, topic string) {
	p.t.Helper()
	p.do(order{Do: what, Topic: []byte(topic)})
}

// pair makes our socket at the other end of theirs.
func pair(t *testing.T, ours zmq.Type, theirs string, weBind bool, heartbeat int) (*zmq.Socket, *peer) {
	t.Helper()
	s, p := meet(t, ours, zmq.Options{}, theirs, beats(heartbeat), weBind, "tcp://127.0.0.1:0")
	eventually(t, "the connection", func() bool { return s.Stats().Peers == 1 })
	return s, p
}

// meet starts both ends, of which one binds to endpoint.
func meet(t *testing.T, ours zmq.Type, o zmq.Options, theirs string, set settings, weBind bool, endpoint string) (*zmq.Socket, *peer) {
	t.Helper()
	o.ReconnectMin = 5 * time.Millisecond
	s := zmq.New(ours, o)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	var p *peer
	if weBind {
		ep, err := s.Bind(t.Context(), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		p = start(t, theirs, "connect", ep, set)
	} else {
		p = start(t, theirs, "bind", strings.Replace(endpoint, ":0", ":*", 1), set)
		if err := s.Connect(p.endpoint); err != nil {
			t.Fatal(err)
		}
	}
	return s, p
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

func send(t *testing.T, s *zmq.Socket, m zmq.Msg) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Send(ctx, m); err != nil {
		t.Fatal(err)
	}
}

func recv(t *testing.T, s *zmq.Socket) zmq.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := s.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func same(t *testing.T, got, want zmq.Msg) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d frames, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d: got %d bytes %.40q, want %d bytes %.40q", i, len(got[i]), got[i], len(want[i]), want[i])
		}
	}
}

// shapes are the messages that every pair exchanges.
func shapes() []zmq.Msg {
	return []zmq.Msg{
		{[]byte("one frame")},
		{{}},
		{[]byte("t"), {}, []byte("three frames")},
		{bytes.Repeat([]byte("s"), 255)},
		{bytes.Repeat([]byte("l"), 256)},
		{[]byte("big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16)}, // 1 MiB
	}
}

// eachWay runs fn with either side binding, and with the peer's heartbeats in one of the ways.
func eachWay(t *testing.T, fn func(t *testing.T, weBind bool, heartbeat int)) {
	t.Helper()
	testkit.Pyzmq(t)
	t.Run("we bind", func(t *testing.T) { t.Parallel(); fn(t, true, 50) })
	t.Run("we connect", func(t *testing.T) { t.Parallel(); fn(t, false, 0) })
}

func TestPipeline(t *testing.T) {
	for _, c := range []struct {
		ours   zmq.Type
		theirs string
	}{{zmq.Push, "PULL"}, {zmq.Pull, "PUSH"}} {
		t.Run(c.ours.String()+" to "+c.theirs, func(t *testing.T) {
			eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
				s, p := pair(t, c.ours, c.theirs, weBind, heartbeat)
				for _, m := range shapes() {
					if c.ours == zmq.Push {
						send(t, s, m)
						same(t, p.recv(), m)
					} else {
						p.send(m)
						same(t, recv(t, s), m)
					}
				}
			})
		})
	}
}

func TestPipelineInBulk(t *testing.T) {
	const n = 20_000
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		done := make(chan answer, 1)
		s, p := pair(t, zmq.Push, "PULL", weBind, heartbeat)
		go func() { done <- p.do(order{Do: "recv_many", N: n}) }()
		for i := range n {
			send(t, s, zmq.Msg{fmt.Appendf(nil, "%d %0200d", i, i)})
		}
		if got := <-done; got.N != n {
			t.Errorf("libzmq got %d of %d in order", got.N, n)
		}
		s, p = pair(t, zmq.Pull, "PUSH", weBind, heartbeat)
		go func() { done <- p.do(order{Do: "send_many", N: n, Size: 200}) }()
		for i := range n {
			if m := recv(t, s); !bytes.HasPrefix(m[0], fmt.Appendf(nil, "%d ", i)) {
				t.Fatalf("message %d is %.20q", i, m[0])
			}
		}
		<-done
	})
}

func TestOursPublish(t *testing.T) {
	for _, ours := range []zmq.Type{zmq.Pub, zmq.XPub} {
		for _, theirs := range []string{"SUB", "XSUB"} {
			t.Run(ours.String()+" to "+theirs, func(t *testing.T) {
				eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
					s, p := pair(t, ours, theirs, weBind, heartbeat)
					if theirs == "SUB" {
						p.subscribe("subscribe", "a")
						p.subscribe("subscribe", "ab") // overlaps: still one copy each
					} else {
						p.send(zmq.Msg{[]byte("\x01a")})
						p.send(zmq.Msg{[]byte("\x01ab")})
					}
					eventually(t, "subscriptions", func() bool { return s.Peers()[0].Subscriptions == 2 })
					for _, m := range shapes() {
						send(t, s, zmq.Msg{[]byte("unwanted")})
						m = append(zmq.Msg{[]byte("ab.topic")}, m...)
						send(t, s, m)
						same(t, p.recv(), m)
					}
					if ours == zmq.XPub {
						same(t, recv(t, s), zmq.Msg{[]byte("\x01a")})
						same(t, recv(t, s), zmq.Msg{[]byte("\x01ab")})
					}
					if theirs == "SUB" {
						p.subscribe("unsubscribe", "ab")
						eventually(t, "one subscription", func() bool { return s.Peers()[0].Subscriptions == 1 })
					}
				})
			})
		}
	}
}

func TestTheirsPublish(t *testing.T) {
	for _, ours := range []zmq.Type{zmq.Sub, zmq.XSub} {
		for _, theirs := range []string{"PUB", "XPUB"} {
			t.Run(theirs+" to "+ours.String(), func(t *testing.T) {
				eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
					s, p := pair(t, ours, theirs, weBind, heartbeat)
					if err := s.Subscribe("a"); err != nil {
						t.Fatal(err)
					}
					if theirs == "XPUB" {
						same(t, p.recv(), zmq.Msg{[]byte("\x01a")})
					} else {
						warmUp(t, s, p)
					}
					for _, m := range shapes() {
						p.send(zmq.Msg{[]byte("unwanted")})
						m = append(zmq.Msg{[]byte("a.topic")}, m...)
						p.send(m)
						same(t, recv(t, s), m)
					}
					if err := s.Unsubscribe("a"); err != nil {
						t.Fatal(err)
					}
					if theirs == "XPUB" {
						same(t, p.recv(), zmq.Msg{[]byte("\x00a")})
					}
				})
			})
		}
	}
}

// warmUp publishes until the subscription has reached a PUB, which cannot tell us.
func warmUp(t *testing.T, s *zmq.Socket, p *peer) {
	t.Helper()
	end := zmq.Msg{[]byte("a.end")}
	eventually(t, "the subscription to reach PUB", func() bool {
		p.send(zmq.Msg{[]byte("a.warm-up")})
		return s.Stats().Received > 0
	})
	p.send(end)
	for string(recv(t, s)[0]) != "a.end" {
	}
}

func TestWeAsk(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		s, p := pair(t, zmq.Req, "REP", weBind, heartbeat)
		for _, m := range shapes() {
			send(t, s, m)
			same(t, p.recv(), m)
			p.send(m)
			same(t, recv(t, s), m)
		}
	})
}

func TestTheyAsk(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		s, p := pair(t, zmq.Rep, "REQ", weBind, heartbeat)
		for _, m := range shapes() {
			p.send(m)
			same(t, recv(t, s), m)
			send(t, s, m)
			same(t, p.recv(), m)
		}
	})
}

// A DEALER may put several addresses before the delimiter; they must come back untouched.
func TestDealerEnvelope(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		s, p := pair(t, zmq.Rep, "DEALER", weBind, heartbeat)
		p.send(zmq.Msg{[]byte("hop 1"), []byte("hop 2"), {}, []byte("question")})
		same(t, recv(t, s), zmq.Msg{[]byte("question")})
		send(t, s, zmq.Msg{[]byte("answer")})
		same(t, p.recv(), zmq.Msg{[]byte("hop 1"), []byte("hop 2"), {}, []byte("answer")})
	})
}

func TestRouterAnswers(t *testing.T) {
	eachWay(t, func(t *testing.T, weBind bool, heartbeat int) {
		s, p := pair(t, zmq.Req, "ROUTER", weBind, heartbeat)
		send(t, s, zmq.Msg{[]byte("question")})
		got := p.recv()
		same(t, got[1:], zmq.Msg{{}, []byte("question")})
		p.send(zmq.Msg{got[0], {}, []byte("answer")})
		same(t, recv(t, s), zmq.Msg{[]byte("answer")})
	})
}

// An idle peer that beats every 50 ms gets its PONGs, so that it keeps the connection, and
// the application sees none of it.
func TestHeartbeatsKeepAnIdleConnection(t *testing.T) {
	testkit.Pyzmq(t)
	for ours, theirs := range map[zmq.Type]string{zmq.Push: "PULL", zmq.Pull: "PUSH", zmq.XPub: "SUB",
		zmq.XSub: "XPUB", zmq.Rep: "REQ", zmq.Req: "REP"} {
		t.Run(ours.String(), func(t *testing.T) {
			t.Parallel()
			s, p := pair(t, ours, theirs, true, 50)
			stays(t, s, 2500*time.Millisecond) // libzmq gives up after 1.5 s without an answer
			if n := s.Stats().Received; n != 0 {
				t.Errorf("%d heartbeats reached the application", n)
			}
			o := order{Do: "subscribe", Topic: []byte("x")}
			if theirs != "SUB" {
				o = order{Do: "recv_many"} // none: only to be asked whether the connection held
			}
			if p.do(o).Dropped || s.Stats().Connects != 1 {
				t.Errorf("the connection was dropped: %+v", s.Stats())
			}
		})
	}
}

// stays watches for d that the connection holds.
func stays(t *testing.T, s *zmq.Socket, d time.Duration) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-tick.C:
			if s.Stats().Disconnects > 0 {
				t.Fatal("the peer dropped the connection")
			}
		case <-end.C:
			return
		}
	}
}

func TestPeersThatDoNotMatchAreRefused(t *testing.T) {
	testkit.Pyzmq(t)
	events := make(chan zmq.Event, 64)
	s := zmq.New(zmq.Pull, zmq.Options{Monitor: func(e zmq.Event) {
		select {
		case events <- e:
		default:
		}
	}})
	defer func() { _ = s.Close(context.Background()) }()
	ep, err := s.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	start(t, "SUB", "connect", ep, nil)
	for {
		select {
		case e := <-events:
			if e.Kind == zmq.HandshakeFailed {
				if e.PeerType != "SUB" || e.Err == nil {
					t.Errorf("event %+v", e)
				}
				return
			}
		case <-time.After(patience):
			t.Fatal("no event")
		}
	}
}
