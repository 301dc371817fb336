package clone

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

const beat = 50 * time.Millisecond

// serve runs a server until stop is called, which waits for its end.
func serve(t *testing.T, o ServerOptions) (s *Server, stop func()) {
	t.Helper()
	o.Heartbeat = beat
	if o.Endpoints == (Endpoints{}) {
		o.Endpoints = anywhere
	}
	s, err := Listen(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s, running(t, s.Run)
}

func running(t *testing.T, run func(context.Context) error) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// join runs a client and waits until it has a snapshot.
func join(t *testing.T, at Endpoints, subtree string) *Client {
	t.Helper()
	c, err := Dial(ClientOptions{Endpoints: at, Subtree: subtree, Heartbeat: beat})
	if err != nil {
		t.Fatal(err)
	}
	running(t, c.Run)
	if err := c.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// has waits until the client's copy is exactly want, given as key, value, key, value …
func (c *Client) has(t *testing.T, want ...string) {
	t.Helper()
	wanted := map[string]string{}
	for i := 0; i < len(want); i += 2 {
		wanted[want[i]] = want[i+1]
	}
	eventually(t, func() (bool, string) {
		values, synced := c.Values()
		got := map[string]string{}
		for k, v := range values {
			got[k] = string(v)
		}
		return synced && maps.Equal(got, wanted), fmt.Sprintf("got %v (synced: %v), want %v", got, synced, wanted)
	})
}

func eventually(t *testing.T, cond func() (bool, string)) {
	t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, what := cond()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal(what)
		}
	}
}

func (c *Client) mustSet(t *testing.T, key, value string) {
	t.Helper()
	if err := c.Set(soon(t), key, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func TestClientsAndALateJoiner(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	a, b := join(t, s.Endpoints(), ""), join(t, s.Endpoints(), "/rules/")
	a.mustSet(t, "/rules/x", "1")
	b.mustSet(t, "/rules/y", "2")
	a.mustSet(t, "/other/z", "3")
	late := join(t, s.Endpoints(), "/rules/")
	for _, c := range []*Client{b, late} {
		c.has(t, "/rules/x", "1", "/rules/y", "2")
	}
	a.has(t, "/rules/x", "1", "/rules/y", "2", "/other/z", "3")
	if err := late.Delete(soon(t), "/rules/x"); err != nil {
		t.Fatal(err)
	}
	if err := late.Delete(soon(t), "/rules/never-there"); err != nil {
		t.Fatal(err)
	}
	b.has(t, "/rules/y", "2")
	a.has(t, "/rules/y", "2", "/other/z", "3")
}

func TestServerRestartsInTheMiddle(t *testing.T) {
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprintf("on disk %v", kept), func(t *testing.T) {
			o := ServerOptions{}
			if kept {
				o.File = filepath.Join(t.TempDir(), "clone")
			}
			s, stop := serve(t, o)
			o.Endpoints = s.Endpoints()
			a, b := join(t, o.Endpoints, ""), join(t, o.Endpoints, "/rules/")
			a.mustSet(t, "/rules/x", "1")
			a.mustSet(t, "/rules/y", "1")
			stop()
			s, _ = serve(t, o)
			a.mustSet(t, "/rules/y", "2")
			want := []string{"/rules/y", "2"}
			if kept {
				want = append(want, "/rules/x", "1")
			}
			a.has(t, want...)
			b.has(t, want...)
			join(t, o.Endpoints, "").has(t, want...)
			if got := testutil.ToFloat64(s.m.sequence); kept && got != 3 || !kept && got != 1 {
				t.Errorf("number %v after the restart", got)
			}
		})
	}
}

func TestClientsSeeValuesExpire(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	a, b := join(t, s.Endpoints(), ""), join(t, s.Endpoints(), "")
	a.mustSet(t, "/stays", "1")
	if err := a.Set(soon(t), "/goes", []byte("2"), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	b.has(t, "/stays", "1", "/goes", "2")
	join(t, s.Endpoints(), "").has(t, "/stays", "1", "/goes", "2")
	b.has(t, "/stays", "1")
	if got := testutil.ToFloat64(s.m.expired); got != 1 {
		t.Errorf("%v expired", got)
	}
}

func TestChangedIsToldTheWhole(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	told := make(chan map[string][]byte, 16) // more than there are changes
	c, err := Dial(ClientOptions{Endpoints: s.Endpoints(), Subtree: "/a/", Heartbeat: beat, Changed: func(v map[string][]byte) { told <- v }})
	if err != nil {
		t.Fatal(err)
	}
	running(t, c.Run)
	if v := <-told; len(v) != 0 {
		t.Errorf("first %v", v)
	}
	join(t, s.Endpoints(), "").mustSet(t, "/b/x", "1")
	c.mustSet(t, "/a/x", "1")
	if v := <-told; len(v) != 1 || string(v["/a/x"]) != "1" {
		t.Errorf("then %v", v)
	}
}

func TestChangesThatCannotBe(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	c := join(t, s.Endpoints(), "/a/")
	for name, err := range map[string]error{
		"key":     c.Set(soon(t), "a", []byte("v"), 0),
		"outside": c.Set(soon(t), "/b/x", []byte("v"), 0),
		"empty":   c.Set(soon(t), "/a/x", nil, 0),
		"long":    c.Set(soon(t), "/a/x", make([]byte, MaxValue+1), 0),
		"ttl":     c.Set(soon(t), "/a/x", []byte("v"), -1),
		"delete":  c.Delete(soon(t), "/b/x"),
	} {
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, o := range []ClientOptions{{Endpoints: Endpoints{"no", anywhere.Updates, anywhere.Changes}}, {Endpoints: anywhere, Subtree: "x"},
		{Endpoints: Endpoints{"tcp://127.0.0.1:1", "tcp://127.0.0.1:1", "no"}}} {
		if _, err := Dial(o); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestNoServer(t *testing.T) {
	s, stop := serve(t, ServerOptions{})
	stop()
	c, err := Dial(ClientOptions{Endpoints: s.Endpoints(), Heartbeat: beat})
	if err != nil {
		t.Fatal(err)
	}
	running(t, c.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Set(ctx, "/a", []byte("v"), 0); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	if err := idle(t, s.Endpoints()).Close(); err != nil {
		t.Error(err)
	}
}

// idle is a client that never runs.
func idle(t *testing.T, at Endpoints) *Client {
	t.Helper()
	c, err := Dial(ClientOptions{Endpoints: at})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A change that cannot be saved is not made, and the server goes on.
func TestUnsavedChangesAreNotMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, ServerOptions{File: filepath.Join(dir, "clone"), Metrics: prometheus.NewRegistry()})
	c := join(t, s.Endpoints(), "")
	c.mustSet(t, "/a", "1")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Set(ctx, "/a", []byte("2"), 0); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("got %v", err)
	}
	join(t, s.Endpoints(), "").has(t, "/a", "1")
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	c.mustSet(t, "/a", "3")
	join(t, s.Endpoints(), "").has(t, "/a", "3")
	if got := testutil.ToFloat64(s.m.unsaved); got != 1 {
		t.Errorf("%v unsaved", got)
	}
}

// A publisher that keeps updates back: the client notices and asks for a snapshot.
func TestAGapOnTheWireLeadsToASnapshot(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	pub := zmq.New(zmq.XPub, zmq.Options{})
	defer func() { _ = pub.Close(t.Context()) }()
	at := s.Endpoints()
	relay, err := pub.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	real := zmq.New(zmq.Sub, zmq.Options{})
	if err := real.Subscribe(""); err != nil {
		t.Fatal(err)
	}
	if err := real.Connect(at.Updates); err != nil {
		t.Fatal(err)
	}
	stop := running(t, func(ctx context.Context) error {
		for n := 0; ; n++ {
			m, err := real.Recv(ctx)
			if err != nil {
				return real.Close(context.Background())
			}
			if !strings.HasPrefix(string(m[0]), "/lost/") {
				if err := pub.TrySend(m); err != nil {
					return err
				}
			}
		}
	})
	defer stop()
	direct := join(t, at, "")
	at.Updates = relay
	c := join(t, at, "")
	for i := range 20 {
		direct.mustSet(t, fmt.Sprintf("/lost/%d", i%2), fmt.Sprint(i))
		if i%5 == 0 {
			direct.mustSet(t, "/came", fmt.Sprint(i))
		}
	}
	c.has(t, "/lost/0", "18", "/lost/1", "19", "/came", "15")
	if got := testutil.ToFloat64(c.m.snapshots); got < 2 {
		t.Errorf("%v snapshots", got)
	}
}

// A server that knows RFC 12 only cannot say what was published before our subscription was in effect:
// it is asked once more when something of it was heard.
func TestAPlainServerIsAskedAgainWhenItIsHeard(t *testing.T) {
	router, pub, pull := zmq.New(zmq.Router, zmq.Options{}), zmq.New(zmq.Pub, zmq.Options{}), zmq.New(zmq.Pull, zmq.Options{})
	var at Endpoints
	for endpoint, s := range map[*string]*zmq.Socket{&at.Snapshot: router, &at.Updates: pub, &at.Changes: pull} {
		defer func() { _ = s.Close(context.Background()) }()
		bound, err := s.Bind(t.Context(), "tcp://127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*endpoint = bound
	}
	var mu sync.Mutex
	values := []message{{key: "/x", seq: 1, value: []byte("one")}}
	asked := 0
	stop := running(t, func(ctx context.Context) error {
		for {
			m, err := router.Recv(ctx)
			if err != nil {
				return router.Close(context.Background())
			}
			mu.Lock()
			asked++
			answer := append(slices.Clone(values), message{key: kthxbai, seq: uint64(len(values))})
			mu.Unlock()
			for _, v := range answer {
				if err := router.Send(ctx, append(zmq.Msg{m[0]}, v.encode()...)); err != nil {
					return err
				}
			}
		}
	})
	defer stop()
	c, err := Dial(ClientOptions{Endpoints: at, Heartbeat: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer running(t, c.Run)()
	if err := c.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	values = append(values, message{key: "/y", seq: 2, value: []byte("nobody heard it")})
	mu.Unlock()
	beats := make(chan struct{})
	defer running(t, func(ctx context.Context) error {
		for n := 0; ctx.Err() == nil; n++ {
			if n == 20 {
				close(beats)
			}
			beat := message{key: hugz}
			if err := pub.TrySend(beat.encode()); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})()
	c.has(t, "/x", "one", "/y", "nobody heard it")
	<-beats
	mu.Lock()
	defer mu.Unlock()
	if asked != 2 {
		t.Errorf("it was asked %d times", asked)
	}
}

// Rubbish on every socket is counted and hurts nobody.
func TestRubbish(t *testing.T) {
	s, _ := serve(t, ServerOptions{Metrics: prometheus.NewRegistry()})
	c := join(t, s.Endpoints(), "")
	for _, bad := range []struct {
		typ      zmq.Type
		endpoint string
		reason   badFrame
		m        zmq.Msg
	}{
		{zmq.Push, s.Endpoints().Changes, badFrames, zmq.Msg{[]byte("x")}},
		{zmq.Push, s.Endpoints().Changes, badKey, (&message{key: "no path", value: []byte("v")}).encode()},
		{zmq.Push, s.Endpoints().Changes, badTTL, (&message{key: "/a", value: []byte("v"), props: map[string]string{"ttl": "soon"}}).encode()},
		{zmq.Dealer, s.Endpoints().Snapshot, badSubtree, request("x")},
	} {
		socket := zmq.New(bad.typ, zmq.Options{})
		if err := socket.Connect(bad.endpoint); err != nil {
			t.Fatal(err)
		}
		if err := socket.Send(soon(t), bad.m); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() (bool, string) {
			return testutil.ToFloat64(s.m.bad.WithLabelValues(string(bad.reason))) == 1, "not counted: " + string(bad.reason)
		})
		_ = socket.Close(t.Context())
	}
	c.mustSet(t, "/a", "1")
	c.has(t, "/a", "1")
}

// The wire as another program sees it: only the frames of CHP.
func TestAPlainClient(t *testing.T) {
	s, _ := serve(t, ServerOptions{})
	c := join(t, s.Endpoints(), "")
	push := zmq.New(zmq.Push, zmq.Options{})
	defer func() { _ = push.Close(t.Context()) }()
	if err := push.Connect(s.Endpoints().Changes); err != nil {
		t.Fatal(err)
	}
	set := zmq.Msg{[]byte("/a/x"), make([]byte, 8), make([]byte, 16), nil, []byte("v")}
	if err := push.Send(soon(t), set); err != nil {
		t.Fatal(err)
	}
	c.has(t, "/a/x", "v")
	dealer := zmq.New(zmq.Dealer, zmq.Options{})
	defer func() { _ = dealer.Close(t.Context()) }()
	if err := dealer.Connect(s.Endpoints().Snapshot); err != nil {
		t.Fatal(err)
	}
	if err := dealer.Send(soon(t), zmq.Msg{[]byte("ICANHAZ?"), []byte("/a/")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ key, value string }{{"/a/x", "v"}, {"KTHXBAI", "/a/"}} {
		m, err := dealer.Recv(soon(t))
		if err != nil || len(m) != 5 || string(m[0]) != want.key || string(m[4]) != want.value || binary.BigEndian.Uint64(m[1]) != 1 {
			t.Errorf("got %q, %v", m, err)
		}
	}
}

func TestEndpointsOfAClient(t *testing.T) {
	for list, want := range map[string]Endpoints{
		"tcp://a:5563":    {"tcp://a:5563", "tcp://a:5564", "tcp://a:5565"},
		"tcp://[::1]:1":   {"tcp://[::1]:1", "tcp://[::1]:2", "tcp://[::1]:3"},
		"ipc://x,y,z":     {"ipc://x", "y", "z"},
		"":                {},
		"tcp://a":         {},
		"a:5563":          {},
		"tcp://a:65534":   {},
		"tcp://a:0":       {},
		"tcp://a:1,b":     {},
		"tcp://a:1,b,c,d": {},
	} {
		got, err := ParseEndpoints(strings.Split(list, ","))
		if got != want || (err == nil) != (want != Endpoints{}) || err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %+v, %v", list, got, err)
		}
	}
}
