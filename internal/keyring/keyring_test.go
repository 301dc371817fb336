package keyring

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buffer is a log that is read while it is written.
type buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// service is a service that connects somewhere.
type service struct {
	config.Common
	Workers []string `env:"WORKERS" doc:"endpoints" kind:"connect"`
	Bind    string   `env:"BIND" doc:"endpoint" kind:"bind"`
}

func keys(t testing.TB) curve.Pair {
	t.Helper()
	p, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// given is a service with this key and list.
func given(p curve.Pair, peers ...Peer) *service {
	lines := make([]string, len(peers))
	for i, x := range peers {
		lines[i] = x.Line()
	}
	return &service{Common: config.Common{Curve: config.Curve{CurveKey: p.Certificate(), CurvePeers: strings.Join(lines, "\n")}}}
}

func ring(t *testing.T, s *service, reg prometheus.Registerer) *Ring {
	t.Helper()
	r, err := Open(s, reg)
	if err != nil || r == nil {
		t.Fatalf("ring %v, %v", r, err)
	}
	return r
}

func TestWithoutKeysNothingIsEncrypted(t *testing.T) {
	r, err := Open(&service{Workers: []string{"tcp://10.0.0.1:1"}}, nil)
	if r != nil || err != nil {
		t.Fatalf("%v, %v", r, err)
	}
	r.Own("tcp://127.0.0.1:1")
	if r.Server("x") != nil || r.Client() != nil {
		t.Error("options of no ring")
	}
}

// Each mistake is one line that names the setting and repeats no secret.
func TestMistakes(t *testing.T) {
	me, other := keys(t), keys(t)
	list := Peer{Name: "other", Key: other.Public, Addresses: []string{"10.0.0.1"}}
	half := strings.Replace(me.Certificate(), me.Public.Z85(), other.Public.Z85(), 1)
	for name, c := range map[string]struct {
		key, peers, connect string
		setting, says       string
	}{
		"no list":           {me.Certificate(), "# none\n", "", "CURVE_PEERS", "names no peer"},
		"no key":            {"", list.Line(), "", "CURVE_KEY", "is empty, but CURVE_PEERS is set"},
		"public only":       {curve.Pair{Public: me.Public}.Certificate(), list.Line(), "", "CURVE_KEY", "no secret key"},
		"of two pairs":      {half, list.Line(), "", "CURVE_KEY", "does not belong"},
		"no certificate":    {me.Secret.Z85(), list.Line(), "", "CURVE_KEY", "no public-key"},
		"bad Z85":           {"public-key = \"" + me.Secret.Z85()[:39] + "~\"", list.Line(), "", "CURVE_KEY", "no Z85"},
		"bad Z85 in list":   {me.Certificate(), "# x\nother " + me.Secret.Z85()[1:], "", "CURVE_PEERS", "line 2"},
		"own secret":        {me.Certificate(), "me " + me.Secret.Z85(), "", "CURVE_PEERS", "the secret key of this process"},
		"double name":       {me.Certificate(), list.Line() + "\nother " + me.Public.Z85(), "", "CURVE_PEERS", "line 2: the name other"},
		"unknown server":    {me.Certificate(), list.Line(), "tcp://10.0.0.1:1,tcp://10.0.0.2:1", "CURVE_PEERS", "tcp://10.0.0.2:1, which WORKERS names"},
		"unknown ipc":       {me.Certificate(), list.Line(), "ipc:///run/x", "CURVE_PEERS", "ipc:///run/x, which WORKERS names"},
		"the list is a key": {me.Certificate(), me.Certificate(), "", "CURVE_PEERS", "line 2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{Common: config.Common{Curve: config.Curve{CurveKey: c.key, CurvePeers: c.peers}}}
			if c.connect != "" {
				s.Workers = strings.Split(c.connect, ",")
			}
			_, err := Open(s, nil)
			fields := fault.FieldsOf(err)
			if fault.KindOf(err) != fault.Invalid || len(fields) != 1 || fields[0].Name != c.setting || !strings.Contains(fields[0].Reason, c.says) {
				t.Fatalf("%v", err)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), me.Secret.Z85()[:10]) {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

func TestFindsTheServerOfAnEndpoint(t *testing.T) {
	me, host, port, ipc, six := keys(t), keys(t), keys(t), keys(t), keys(t)
	r := ring(t, given(me, Peer{"host", host.Public, []string{"10.0.0.1", "Node.Example."}}, Peer{"port", port.Public, []string{"10.0.0.1:5557", "tcp://[::ffff:10.0.0.9]:1"}},
		Peer{"ipc", ipc.Public, []string{"ipc:///run/a.sock"}}, Peer{"six", six.Public, []string{"[fe80::0:1]:7"}}, Peer{Name: "me", Key: me.Public}), nil)
	for endpoint, want := range map[string]curve.Pair{
		"tcp://10.0.0.1:5557": port, "tcp://10.0.0.1:5558": host, "tcp://node.example:1": host, "tcp://10.0.0.9:1": port, "tcp://10.0.0.9:2": {},
		"ipc:///run/a.sock": ipc, "ipc:///run/b.sock": {}, "inproc://a": {}, "tcp://[fe80::1]:7": six, "tcp://[fe80::1]:8": {}, "tcp://10.0.0.2:5557": {}, "nonsense": {},
	} {
		got, err := r.find(endpoint)
		if got != want.Public || (err == nil) == want.Public.IsZero() {
			t.Errorf("%s: %v %v", endpoint, got.Z85(), err)
		}
	}
	r.Own("tcp://10.0.0.3:5562")
	r.Own("tcp://10.0.0.1:5557")
	if got, err := r.find("tcp://10.0.0.3:5562"); err != nil || got != me.Public {
		t.Errorf("our own: %v", err)
	}
	if got, err := r.find("tcp://10.0.0.1:5557"); err != nil || got != port.Public {
		t.Errorf("what is listed stays: %v", err)
	}
}

// Who is listed is let in, who is not is refused, logged with key and address, and counted; the
// log holds no secret.
func TestWhoIsLetIn(t *testing.T) {
	server, listed, stranger := keys(t), keys(t), keys(t)
	var log buffer
	reg := prometheus.NewRegistry()
	s := given(server, Peer{"server", server.Public, []string{"127.0.0.1"}}, Peer{Name: "ana", Key: listed.Public})
	s.Log = slog.New(slog.NewJSONHandler(&log, nil))
	r := ring(t, s, reg)
	rep := zmq.New(zmq.Pull, zmq.Options{Curve: r.Server("test")})
	at, err := rep.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rep.Close(context.Background()) }()
	for _, p := range []curve.Pair{stranger, listed} {
		c := ring(t, given(p, Peer{"server", server.Public, []string{"127.0.0.1"}}), nil)
		push := zmq.New(zmq.Push, zmq.Options{Curve: c.Client(), Linger: -1})
		if err := push.Connect(at); err != nil {
			t.Fatal(err)
		}
		if err := push.TrySend(zmq.Msg{[]byte(p.Public.Z85())}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = push.Close(context.Background()) }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if m, err := rep.Recv(ctx); err != nil || string(m[0]) != listed.Public.Z85() {
		t.Fatalf("got %v", err)
	}
	testkit.Eventually(t, 10*time.Second, func() bool { return testutil.ToFloat64(r.m.refused.WithLabelValues("test")) > 0 }, "no refusal")
	if n := testutil.ToFloat64(r.m.admitted.WithLabelValues("test")); n != 1 {
		t.Errorf("%v admitted", n)
	}
	for _, want := range []string{`"peer refused","socket":"test","remote":"127.0.0.1:`, stranger.Public.Z85(), `"name":"ana"`} {
		if text := unescaped(log.String()); !strings.Contains(text, want) {
			t.Errorf("the log lacks %s:\n%s", want, text)
		}
	}
	for _, p := range []curve.Pair{server, listed, stranger} {
		if strings.Contains(unescaped(log.String()), p.Secret.Z85()) {
			t.Error("a secret key is in the log")
		}
	}
}

// unescaped is a JSON log as it was before '&', '<' and '>' were escaped, which keys have.
func unescaped(log string) string {
	return strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(log)
}
