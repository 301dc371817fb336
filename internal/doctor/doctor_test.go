package doctor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"eventspine/internal/archive"
	"eventspine/internal/config"
	"eventspine/internal/embedded/search"
	"eventspine/internal/keyring"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is all that an indexer depends on, and an api beside it: the environments in which the
// doctor finds nothing.
type world struct {
	indexer, api []string
	es           string
	keys         string // directory of a key pair with its list
}

func newWorld(t *testing.T) *world {
	t.Helper()
	redis := testkit.StartRedis(t, "--maxmemory-policy", "noeviction", "--appendonly", "yes")
	es, err := search.Start(t.Context(), search.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = es.Close() })
	w := &world{es: es.URL(), keys: t.TempDir()}
	a, err := archive.New(archive.Options{URLs: []string{w.es}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.indexer = []string{"REDIS_URL=" + redis.URL(), "ES_HOST=" + w.es, "ZMQ_PROXY_XPUB=" + bound(t, zmq.XPub, nil), "INDEXER_SPOOL_DIR=" + t.TempDir(),
		"ZMQ_HEALTH=tcp://127.0.0.1:1", "METRICS_ADDR=127.0.0.1:2"}
	w.api = []string{"REDIS_URL=" + redis.URL(), "ES_HOST=" + w.es, "ZMQ_PROXY_XPUB=" + bound(t, zmq.XPub, nil), "ZMQ_PROXY_XSUB=" + bound(t, zmq.XSub, nil),
		"ZMQ_PROCESSING_HOST=" + bound(t, zmq.Pull, nil), "ZMQ_CONTROL=" + bound(t, zmq.Router, nil), "API_WAL_DIR=" + t.TempDir(),
		"ZMQ_HEALTH=tcp://127.0.0.1:1", "METRICS_ADDR=127.0.0.1:2", "API_ADDR=127.0.0.1:3", "JWT_SECRET=0123456789abcdef"}
	return w
}

// bound is the endpoint of a socket that somebody has bound.
func bound(t *testing.T, kind zmq.Type, keys *zmq.CurveOptions) string {
	t.Helper()
	s := zmq.New(kind, zmq.Options{Curve: keys})
	at, err := s.Bind(t.Context(), "tcp://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return at
}

func file(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func failures(all []Finding) (out []Finding) {
	for _, f := range all {
		if f.Level == Failure {
			out = append(out, f)
		}
	}
	return out
}

func TestAHealthyServiceHasNothing(t *testing.T) {
	w := newWorld(t)
	found := Examine(t.Context(), []Service{{Name: "indexer", Environ: w.indexer}, {Name: "api", Environ: w.api}})
	if wrong := failures(found); len(wrong) > 0 || Failures(found) != 0 {
		t.Errorf("%+v", wrong)
	}
	for _, want := range []string{"ZMQ_PROXY_XPUB", "ZMQ_PROCESSING_HOST", "ZMQ_PROXY_XSUB", "ZMQ_CONTROL", "Redis keeps", "index template", "API_WAL_DIR", "settings and secrets"} {
		if !strings.Contains(text(found), want) {
			t.Errorf("nobody looked at %s:\n%s", want, text(found))
		}
	}
}

func text(all []Finding) string {
	var b strings.Builder
	for _, f := range all {
		b.WriteString(string(f.Level) + " " + f.Where + ": " + f.What + " | " + f.Mend + "\n")
	}
	return b.String()
}

// Each fault, made on the real thing, is found once, and the finding says how to mend it.
func TestEachFaultIsFound(t *testing.T) {
	w := newWorld(t)
	pair, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	peers := file(t, keyring.Peer{Name: "all", Key: pair.Public, Addresses: []string{"127.0.0.1"}}.Line(), 0o644)
	key := pair.Certificate()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	evicting := testkit.StartRedis(t, "--maxmemory-policy", "allkeys-lru", "--maxmemory", "10mb")
	guarded := testkit.StartRedis(t, "--maxmemory-policy", "noeviction", "--requirepass", "right", "--appendonly", "yes")
	empty, err := search.Start(t.Context(), search.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = empty.Close() }()
	for name, c := range map[string]struct {
		service string
		unit    Service
		change  []string
		says    string
		mend    string
	}{
		"missing secret":       {"api", Service{}, []string{"JWT_SECRET_FILE=/nowhere/jwt_secret"}, "JWT_SECRET_FILE cannot be read: open /nowhere/jwt_secret: no such file", "/etc/eventspine"},
		"short secret":         {"api", Service{}, []string{"JWT_SECRET=short"}, "JWT_SECRET must have at least", "eventspine config"},
		"address of another":   {"indexer", Service{}, []string{"METRICS_ADDR=192.0.2.7:9464"}, "192.0.2.7:9464, which is no address of this machine", "127.0.0.1"},
		"every address":        {"indexer", Service{}, []string{"METRICS_ADDR=0.0.0.0:2"}, "every address of this machine", ""},
		"busy port":            {"indexer", Service{Unit: "eventspine-indexer.service", State: "active"}, nil, "", ""},
		"port of another":      {"indexer", Service{Unit: "eventspine-indexer.service", State: "active"}, []string{"ZMQ_HEALTH=", "METRICS_ADDR=" + busy.Addr().String()}, "listens already", "another port"},
		"readable key":         {"indexer", Service{}, []string{"CURVE_KEY_FILE=" + file(t, key, 0o644), "CURVE_PEERS_FILE=" + peers}, "which everybody may read", "0400"},
		"half a key":           {"indexer", Service{}, []string{"CURVE_KEY_FILE=" + file(t, "public-key = \"x\"", 0o600), "CURVE_PEERS_FILE=" + peers}, "CURVE_KEY is not a key pair", "keygen"},
		"no key for a peer":    {"indexer", Service{}, []string{"CURVE_KEY_FILE=" + file(t, key, 0o600), "CURVE_PEERS_FILE=" + file(t, keyring.Peer{Name: "me", Key: pair.Public}.Line(), 0o644)}, "has no key for tcp://", "keygen"},
		"peer without CURVE":   {"indexer", Service{}, []string{"CURVE_KEY_FILE=" + file(t, key, 0o600), "CURVE_PEERS_FILE=" + peers}, "the handshake fails", "both ends need CURVE"},
		"peer that is away":    {"indexer", Service{}, []string{"ZMQ_PROXY_XPUB=tcp://127.0.0.1:1"}, "tcp://127.0.0.1:1 cannot be reached", "nobody listens"},
		"no room":              {"indexer", Service{}, []string{"INDEXER_SPOOL_MIN_FREE=900TiB"}, "less than INDEXER_SPOOL_MIN_FREE", "larger disk"},
		"missing directory":    {"proxy", Service{}, []string{"PROXY_DATA_DIR=/nowhere/rules"}, "/nowhere/rules, which does not exist", "mkdir"},
		"Redis that evicts":    {"indexer", Service{}, []string{"REDIS_URL=" + evicting.URL()}, "allkeys-lru", "noeviction"},
		"Redis that is away":   {"indexer", Service{}, []string{"REDIS_URL=redis://127.0.0.1:1"}, "Redis: ", "nobody listens"},
		"wrong password":       {"indexer", Service{}, []string{"REDIS_URL=" + strings.Replace(guarded.URL(), "redis://", "redis://:wrong@", 1)}, "Redis: ", ""},
		"no Elasticsearch":     {"indexer", Service{}, []string{"ES_HOST=http://127.0.0.1:1"}, "Elasticsearch: ", "nobody listens"},
		"no template":          {"indexer", Service{}, []string{"ES_HOST=" + empty.URL()}, "the index template is not installed", "restart eventspine-indexer"},
		"failed unit":          {"indexer", Service{Unit: "eventspine-indexer.service", State: "failed", Last: "eventspine indexer: X is wrong"}, nil, "the unit is failed: eventspine indexer: X is wrong", "systemctl restart eventspine-indexer.service"},
		"unit that is nowhere": {"redis", Service{Unit: "eventspine-redis.service", State: "inactive"}, nil, "the unit is inactive", "journalctl -u eventspine-redis.service"},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.unit
			s.Name = c.service
			switch c.service {
			case "api":
				s.Environ = append([]string{}, w.api...)
			case "indexer":
				s.Environ = append([]string{}, w.indexer...)
			default:
				s.Environ = []string{"ZMQ_HEALTH=", "METRICS_ADDR=", "ZMQ_PROXY_XSUB_BIND=tcp://127.0.0.1:1", "ZMQ_PROXY_XPUB_BIND=tcp://127.0.0.1:2", "ZMQ_CONTROL_BIND=", "ZMQ_CLONE_SNAPSHOT_BIND=", "ZMQ_CLONE_UPDATES_BIND=", "ZMQ_CLONE_CHANGES_BIND="}
			}
			s.Environ = append(s.Environ, c.change...)
			if name == "busy port" { // an active unit whose ports nobody holds
				c.says, c.mend = "nobody listens at", "systemctl restart"
			}
			found := failures(Examine(t.Context(), []Service{s}))
			if len(found) == 0 || name != "busy port" && len(found) != 1 {
				t.Fatalf("found %s", text(found))
			}
			if f := found[0]; !strings.Contains(f.What, c.says) || !strings.Contains(f.Mend, c.mend) || f.Mend == "" || strings.Contains(text(found), pair.Secret.Z85()) {
				t.Errorf("found %s", text(found))
			}
		})
	}
}

// With CURVE at both ends, under one list, nothing is wrong.
func TestCurveAtBothEnds(t *testing.T) {
	w := newWorld(t)
	pair, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	peers := keyring.Peer{Name: "all", Key: pair.Public, Addresses: []string{"127.0.0.1"}}.Line()
	there, err := keyring.Open(&common{config.Common{Curve: config.Curve{CurveKey: pair.Certificate(), CurvePeers: peers}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	environ := append([]string{}, w.indexer...)
	environ = append(environ, "CURVE_KEY_FILE="+file(t, pair.Certificate(), 0o600), "CURVE_PEERS_FILE="+file(t, peers, 0o644), "ZMQ_PROXY_XPUB="+bound(t, zmq.XPub, there.Server("test")))
	if found := failures(Examine(t.Context(), []Service{{Name: "indexer", Environ: environ}})); len(found) != 0 {
		t.Errorf("found %s", text(found))
	}
}

type common struct{ config.Common }

func TestEnvironmentOfAUnit(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/eventspine-worker@.service")
	if err != nil {
		t.Fatal(err)
	}
	extra := file(t, "# a comment\n; another\nPARTITIONS=8\nLOG_LEVEL=\"DEBUG\"\nSTATSD_ADDR='x:1'\n", 0o600)
	got := strings.Join(environ(string(unit)+"EnvironmentFile="+extra+"\nEnvironmentFile=-/nowhere\nEnvironment=A=1 B=2\nUnsetEnvironment=A\n", "eventspine-worker@2.service"), "\n")
	for _, want := range []string{"INSTANCE_ID=worker-2", "REDIS_URL_FILE=/etc/eventspine/secrets/redis_url", "CURVE_KEY_FILE=/etc/eventspine/secrets/curve/worker-2.key",
		"CURVE_PEERS_FILE=/etc/eventspine/secrets/curve/peers", "PARTITIONS=8", "LOG_LEVEL=DEBUG", "STATSD_ADDR=x:1", "B=2"} {
		if !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "A=1") || strings.Contains(got, "%") {
		t.Errorf("the environment is\n%s", got)
	}
}

func TestServicesByTheirUnits(t *testing.T) {
	for unit, want := range map[string]string{"eventspine-api.service": "api", "eventspine-worker@2.service": "worker", "eventspine-redis.service": "redis",
		"elasticsearch.service": "elasticsearch", "eventspine-address.service": ""} {
		if got := serviceOf(unit); got != want {
			t.Errorf("%s is %q", unit, got)
		}
	}
	if _, err := Named("redis", nil); err == nil {
		t.Error("redis has no settings in the environment")
	}
}

func TestWhereServicesListen(t *testing.T) {
	c, _ := settingsOf("api")
	if err := config.Load(c, []string{"API_ADDR=10.0.1.10", "PORT=4000", "JWT_SECRET=0123456789abcdef"}, "API_"); err != nil {
		t.Fatal(err)
	}
	if got := binds(config.Settings(c)); len(got) != 3 || got[2] != (place{"API_ADDR", "10.0.1.10", "4000"}) {
		t.Errorf("%v", got)
	}
	c, _ = settingsOf("bridge")
	if err := config.Load(c, []string{"BRIDGE_ADDR=10.0.1.30:3001", "PORT=4001", "JWT_SECRET=0123456789abcdef", "ZMQ_HEALTH=ipc:///run/x", "METRICS_ADDR="}, "BRIDGE_"); err != nil {
		t.Fatal(err)
	}
	if got := binds(config.Settings(c)); len(got) != 1 || got[0] != (place{"BRIDGE_ADDR", "10.0.1.30", "4001"}) {
		t.Errorf("%v", got)
	}
}

func TestTheKernelsAddresses(t *testing.T) {
	for text, want := range map[string]string{"0100007F:1F90": "127.0.0.1:8080", "0A01000A:0BB8": "10.0.1.10:3000",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80", "00000000000000000000000001000000:0050": "[::1]:80"} {
		if got, err := kernelAddress(text); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x:y", "0100007F", "01:0050", "0100007F:0050:1"} {
		if _, err := kernelAddress(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	who, taken := holder(listeners(), place{"X", host, port})
	if !taken || who.pid != os.Getpid() {
		t.Errorf("our own socket is held by %+v, %v", who, taken)
	}
}
