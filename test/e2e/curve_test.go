package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
	"eventspine/test/harness"
)

// TestCurve does the main job with CURVE on every ZeroMQ socket: the operator's verbs and a libzmq
// program with a listed key work, strangers get nothing at any port, and no secret key
// is shown anywhere.
func TestCurve(t *testing.T) {
	all := worlds(t)
	for _, w := range all[len(all)-1:] { // the sockets are the same in each
		t.Run(w.name, func(t *testing.T) {
			mark := fmt.Sprintf("-%d", time.Now().UnixNano())
			s := startWith(t, harness.Options{Workers: 2, Proxies: 2, Curve: true, Redis: w.redis(t), ES: w.es(t)})
			t.Run("events", func(t *testing.T) { realInput(t, s, w.browsers(t), webhooks(t, mark), "*"+mark) })
			t.Run("operator", func(t *testing.T) { operate(t, s) })
			t.Run("libzmq", func(t *testing.T) { throughLibzmq(t, s) })
			t.Run("strangers", func(t *testing.T) { strangers(t, s) })
			t.Run("secrets", func(t *testing.T) { noSecretShown(t, s) })
		})
	}
}

// operator runs the command with the operator's key.
func operator(ctx context.Context, s *harness.System, args ...string) *exec.Cmd {
	c := command(ctx, s, args...)
	c.Env = append(c.Env, "CURVE_KEY_FILE="+filepath.Join(s.Keys, "operator.key"), "CURVE_PEERS_FILE="+filepath.Join(s.Keys, "peers"),
		"ZMQ_CONTROL="+strings.Join(s.Control, ","), "ZMQ_CLONE="+strings.Join(s.Clone, ","))
	return c
}

// operate tries every verb that speaks ZeroMQ, with and without keys.
func operate(t *testing.T, s *harness.System) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	health := slices.Sorted(maps.Values(s.Ping))
	pinged := append([]string{"ping", "--timeout", "2s"}, health...)
	if out, err := operator(ctx, s, pinged...).CombinedOutput(); err != nil || bytes.Count(out, []byte("PONG")) != len(health) {
		t.Errorf("ping: %v\n%s", err, out)
	}
	eventually(t, 20*time.Second, func() bool {
		out, err := operator(ctx, s, "status").CombinedOutput()
		return err == nil && bytes.Count(out, []byte(" alive ")) == len(health)
	}, func() string { return "status does not see everybody alive" })
	set := operator(ctx, s, "rules", "set", "quiet")
	set.Stdin = strings.NewReader("name: quiet\nmatch: alert.quiet\ndrop: true\n")
	if out, err := set.CombinedOutput(); err != nil {
		t.Errorf("rules set: %v\n%s", err, out)
	}
	if out, err := operator(ctx, s, "rules", "list").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("match: alert.quiet")) {
		t.Errorf("rules list: %v\n%s", err, out)
	}
	lines := follow(t, operator(ctx, s, "tail", "--all", "--topic", "alert.tailed.", "--count", "1"))
	post(t, s.APIURL+"/api/events", harness.Token("sender", "emit"), "application/json", []byte(`{"id":"tailed-1","type":"alert.tailed","userId":"ana"}`))
	if got := lines(); len(got) != 1 || !bytes.Contains(got[0], []byte("tailed-1")) {
		t.Errorf("tail printed %q", got)
	}

	// Without keys the same verbs get nothing.
	for _, args := range [][]string{
		{"ping", "--timeout", "300ms", "--retries", "0", s.Ping["api-1"]},
		{"status", "--timeout", "300ms", "--control", s.Control[0]},
		{"rules", "list", "--timeout", "600ms", "--clone", strings.Join(s.Clone, ",")},
	} {
		c := command(ctx, s, args...)
		c.Dir = t.TempDir()
		if out, err := c.CombinedOutput(); c.ProcessState.ExitCode() != 1 {
			t.Errorf("%v without keys: %v\n%s", args, err, out)
		}
	}
}

// python runs one libzmq socket with these options.
func python(t *testing.T, kind, endpoint string, options map[string]any) func(order map[string]any) map[string]any {
	t.Helper()
	o, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("python3", "../interop/peer.py", kind, "connect", endpoint, string(o))
	var said bytes.Buffer
	c.Stderr = &said
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), c.Wait()); err != nil {
			t.Errorf("%s: %v\n%s", kind, err, &said)
		}
	})
	lines := json.NewDecoder(bufio.NewReader(out))
	answer := func() (a map[string]any) {
		if err := lines.Decode(&a); err != nil {
			t.Fatalf("%s: %v\n%s", kind, err, &said)
		}
		return a
	}
	answer()
	return func(order map[string]any) map[string]any {
		t.Helper()
		if err := json.NewEncoder(in).Encode(order); err != nil {
			t.Fatal(err)
		}
		return answer()
	}
}

// throughLibzmq pushes an event with a program of another language and gets it with one, both
// with the operator's key; one without a key beside them gets nothing.
func throughLibzmq(t *testing.T, s *harness.System) {
	testkit.Pyzmq(t)
	keys := readKey(t, s, "operator.key")
	with := func(server string) map[string]any {
		return map[string]any{"curve_publickey": b64(keys.Public), "curve_secretkey": b64(keys.Secret), "curve_serverkey": b64(readKey(t, s, server+".pub").Public)}
	}
	sub := python(t, "SUB", s.XPub[0], with("proxy-1"))
	plain := python(t, "SUB", s.XPub[0], map[string]any{})
	wrong := python(t, "SUB", s.XPub[0], with("proxy-2"))
	push := python(t, "PUSH", s.WorkerEndpoints[0], with("worker-1"))
	for _, p := range []func(map[string]any) map[string]any{sub, plain, wrong} {
		p(map[string]any{"do": "subscribe", "topic": []byte("alert.foreign.")})
	}
	n := 0
	var got map[string]any
	eventually(t, 20*time.Second, func() bool {
		n++
		push(map[string]any{"do": "send", "frames": [][]byte{[]byte(fmt.Sprintf(`{"id":"foreign-%d","type":"alert.foreign","userId":"ana"}`, n))}})
		got = sub(map[string]any{"do": "recv", "timeout": 300})
		return got["frames"] != nil
	}, func() string { return "libzmq got nothing" })
	text := fmt.Sprint(got["frames"])
	if body := unbase64(t, got["frames"]); !strings.HasPrefix(body, "alert.foreign.ana {") || !strings.Contains(body, `"id":"foreign-`) {
		t.Errorf("libzmq got %s", text)
	}
	for name, p := range map[string]func(map[string]any) map[string]any{"plain": plain, "with a wrong server key": wrong} {
		if a := p(map[string]any{"do": "recv", "timeout": 300}); a["frames"] != nil {
			t.Errorf("a libzmq peer that is %s got %v", name, a)
		}
	}
}

func b64(k curve.Key) map[string][]byte { return map[string][]byte{"base64": []byte(k.Z85())} }

func unbase64(t *testing.T, frames any) string {
	t.Helper()
	b, err := json.Marshal(frames)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	if err := json.Unmarshal(b, &all); err != nil || len(all) != 1 {
		t.Fatalf("%s, %v", b, err)
	}
	return string(all[0])
}

func readKey(t *testing.T, s *harness.System, file string) curve.Pair {
	t.Helper()
	p, err := curve.ReadFile(filepath.Join(s.Keys, file))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// port is one kind of bound socket, and a peer that would fit it.
type port struct {
	name, endpoint string
	typ            zmq.Type
	owner          string // the process
	socket         string // as the owner's metrics name it
}

func bound(s *harness.System) []port {
	all := []port{
		{"events", s.WorkerEndpoints[0], zmq.Push, "worker-1", "events"},
		{"publishers", s.XSub[0], zmq.Pub, "proxy-1", "publishers"},
		{"subscribers", s.XPub[0], zmq.Sub, "proxy-1", "subscribers"},
		{"control", s.Control[0], zmq.Dealer, "proxy-1", "control"},
		{"clone snapshots", s.Clone[0], zmq.Dealer, "proxy-1", "clone"},
		{"clone updates", s.Clone[1], zmq.Sub, "proxy-1", "clone"},
		{"clone changes", s.Clone[2], zmq.Push, "proxy-1", "clone"},
	}
	for name, at := range s.Ping {
		all = append(all, port{"health of " + name, at, zmq.Req, name, "health"})
	}
	return all
}

// strangers knocks at every port: without a key, with a key that is not listed, and with a listed
// one that expects another server. None of them ever becomes a peer.
func strangers(t *testing.T, s *harness.System) {
	operator, other := readKey(t, s, "operator.key"), readKey(t, s, "bridge-1.pub").Public
	unlisted, err := curve.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	proxy := zmq.CurveOptions{Public: operator.Public, Secret: operator.Secret, ServerKey: readKey(t, s, "proxy-1.pub").Public}
	spy := open(t, zmq.XPub, s.XSub[0], &proxy) // sees every subscription that the proxy takes
	for _, p := range bound(s) {
		server := readKey(t, s, p.owner+".pub").Public
		wrong := other
		if p.owner == "bridge-1" {
			wrong = operator.Public
		}
		before := refused(t, s, p)
		for name, c := range map[string]*zmq.CurveOptions{
			"plain":                   nil,
			"with a wrong server key": {Public: operator.Public, Secret: operator.Secret, ServerKey: wrong},
			"not listed":              {Public: unlisted.Public, Secret: unlisted.Secret, ServerKey: server},
		} {
			knock(t, p, name, c)
		}
		if after := refused(t, s, p); after <= before {
			t.Errorf("%s: no refusal was counted", p.name)
		}
		good := open(t, p.typ, p.endpoint, &zmq.CurveOptions{Public: operator.Public, Secret: operator.Secret, ServerKey: server})
		eventually(t, 5*time.Second, func() bool { return good.Stats().Connects > 0 }, func() string { return p.name + ": the operator is refused" })
	}
	if err := open(t, zmq.Sub, s.XPub[0], &proxy).Subscribe("operator."); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for topic := ""; topic != "\x01operator."; {
		m, err := spy.Recv(ctx)
		if err != nil {
			t.Fatalf("the operator's subscription did not come: %v", err)
		}
		if topic = string(m[0]); strings.Contains(topic, "stranger") {
			t.Errorf("a stranger's subscription %q came through", topic)
		}
	}
	logs := s.Logs().Error()
	if !strings.Contains(logs, `"peer refused"`) {
		t.Error("no refusal is in the logs")
	}
}

// open connects a socket until the test ends.
func open(t *testing.T, typ zmq.Type, endpoint string, c *zmq.CurveOptions) *zmq.Socket {
	t.Helper()
	s := zmq.New(typ, zmq.Options{Linger: -1, Curve: c})
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	if err := s.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return s
}

func refused(t *testing.T, s *harness.System, p port) float64 {
	t.Helper()
	return metric(t, s.Ready[p.owner], `eventspine_keyring_refused_peers_total{socket="`+p.socket+`"}`)
}

// knock connects, and wants two handshakes to fail and nothing to get through.
func knock(t *testing.T, p port, name string, c *zmq.CurveOptions) {
	t.Helper()
	failed := make(chan struct{}, 2) // the first and the next time
	socket := zmq.New(p.typ, zmq.Options{Linger: -1, ReconnectMin: 10 * time.Millisecond, Curve: c, Monitor: func(e zmq.Event) {
		if e.Kind == zmq.HandshakeFailed {
			select {
			case failed <- struct{}{}:
			default:
			}
		}
	}})
	defer func() { _ = socket.Close(context.Background()) }()
	if p.typ == zmq.Sub {
		if err := socket.Subscribe("stranger."); err != nil {
			t.Fatal(err)
		}
	}
	if err := socket.Connect(p.endpoint); err != nil {
		t.Fatal(err)
	}
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	for range 2 {
		select {
		case <-failed:
		case <-late.C:
			t.Errorf("%s: a peer %s is not refused", p.name, name)
			return
		}
	}
	if st := socket.Stats(); st.Connects+st.Received != 0 {
		t.Errorf("%s: a peer %s got through: %+v", p.name, name, st)
	}
}

// noSecretShown looks for every secret key in the logs, in /metrics, in `eventspine config` and in what the
// command says about a wrong key.
func noSecretShown(t *testing.T, s *harness.System) {
	texts := map[string]string{}
	for _, p := range s.Processes() {
		b, err := os.ReadFile(p.Log)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.Get(s.Ready[p.Name] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		m, err := io.ReadAll(r.Body)
		if err := errors.Join(err, r.Body.Close()); err != nil {
			t.Fatal(err)
		}
		texts["log of "+p.Name], texts["metrics of "+p.Name] = string(b), string(m)
	}
	for _, args := range [][]string{{"config"}, {"config", "--markdown"}, {"ping", "tcp://10.255.255.1:1"}} {
		c := operator(t.Context(), s, args...)
		out, _ := c.CombinedOutput() // the last one fails: its endpoint is not in the list
		texts["eventspine "+strings.Join(args, " ")] = string(out)
	}
	files, err := filepath.Glob(filepath.Join(s.Keys, "*.key"))
	if err != nil || len(files) != 8 {
		t.Fatalf("%d keys, %v", len(files), err)
	}
	plain := strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">")
	seen := false
	for _, f := range files {
		p := readKey(t, s, filepath.Base(f))
		for where, text := range texts {
			text = plain.Replace(text)
			seen = seen || strings.Contains(text, "CURVE is on")
			if strings.Contains(text, p.Secret.Z85()) || strings.Contains(text, p.Secret.Z85()[:20]) {
				t.Errorf("%s holds the secret of %s", where, filepath.Base(f))
			}
		}
	}
	if !seen {
		t.Error("the logs are not those of services with CURVE")
	}
}

// TestWrongKeys starts each service with each kind of mistake: one line that names the setting, exit
// code 2, and nothing of a key.
func TestWrongKeys(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), bin+"/eventspine", "keygen", "--dir", dir, "me=127.0.0.1", "other=10.9.9.9").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	me, err := curve.ReadFile(dir + "/me.key")
	if err != nil {
		t.Fatal(err)
	}
	other, err := curve.ReadFile(dir + "/other.key")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, peers := "CURVE_KEY_FILE="+dir+"/me.key", "CURVE_PEERS_FILE="+dir+"/peers"
	list, err := os.ReadFile(dir + "/peers")
	if err != nil {
		t.Fatal(err)
	}
	half := strings.Replace(me.Certificate(), me.Public.Z85(), other.Public.Z85(), 1)
	for name, c := range map[string]struct {
		setting string
		env     []string
	}{
		"no list":               {"CURVE_PEERS", []string{key}},
		"no key":                {"CURVE_KEY", []string{peers}},
		"bad Z85":               {"CURVE_KEY", []string{"CURVE_KEY_FILE=" + write("bad.key", strings.Replace(me.Certificate(), me.Secret.Z85()[:5], "~~~~~", 1), 0o600), peers}},
		"other public half":     {"CURVE_KEY", []string{"CURVE_KEY_FILE=" + write("half.key", half, 0o600), peers}},
		"a public key":          {"CURVE_KEY", []string{"CURVE_KEY_FILE=" + write("public.key", curve.Pair{Public: me.Public}.Certificate(), 0o600), peers}},
		"readable by everybody": {"CURVE_KEY_FILE", []string{"CURVE_KEY_FILE=" + write("open.key", me.Certificate(), 0o644), peers}},
		"double name":           {"CURVE_PEERS", []string{key, "CURVE_PEERS_FILE=" + write("double", string(list)+"me "+me.Secret.Z85(), 0o644)}},
		"a secret in the list":  {"CURVE_PEERS", []string{key, "CURVE_PEERS_FILE=" + write("secret", "me "+me.Secret.Z85()+" 127.0.0.1", 0o644)}},
		"unknown server":        {"CURVE_PEERS", []string{key, "CURVE_PEERS_FILE=" + write("few", "other "+other.Public.Z85()+" 10.9.9.9", 0o644)}},
		"misspelt":              {"CURVE_KEYFILE", []string{"CURVE_KEYFILE=" + dir + "/me.key"}},
		"no file":               {"CURVE_KEY_FILE", []string{"CURVE_KEY_FILE=" + dir + "/none.key", peers}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, service := range []string{"api", "worker", "proxy", "indexer", "bridge"} {
				env := append([]string{"JWT_SECRET=" + harness.Secret, "ZMQ_CONTROL=tcp://127.0.0.1:1"}, c.env...)
				cmd := exec.CommandContext(t.Context(), filepath.Join(bin, service))
				cmd.Env = env
				var out, said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &said
				_ = cmd.Run() // the exit code tells
				line := said.String()
				if cmd.ProcessState.ExitCode() != 2 || strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "eventspine "+service+": ") || !strings.Contains(line, c.setting+" ") {
					t.Errorf("%s: code %d and %q", service, cmd.ProcessState.ExitCode(), line)
				}
				for _, p := range []curve.Pair{me, other} {
					if strings.Contains(line+out.String(), p.Secret.Z85()[5:20]) {
						t.Errorf("%s shows a secret key", service)
					}
				}
			}
		})
	}
}

// TestDevCurve runs eventspine dev --curve: the verbs find its keys in its directory, elsewhere they need
// what it prints, and a second run has the same keys.
func TestDevCurve(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	program := filepath.Join(bin, "eventspine")
	p, err := harness.Launch("dev", dir, nil, program, "dev", "--any-port", "--curve")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Signal(syscall.SIGKILL) }()
	var text string
	ready := func(times int) {
		t.Helper()
		eventually(t, 20*time.Second, func() bool {
			out, err := os.ReadFile(p.Log)
			text = string(out)
			return err == nil && strings.Count(text, "Ctrl-C") == times
		}, func() string { return "eventspine dev printed: " + text })
	}
	ready(1)
	call := func(in string, env []string, args ...string) (string, int) {
		c := exec.CommandContext(t.Context(), program, args...)
		c.Dir, c.Env = in, env
		out, _ := c.CombinedOutput() // the exit code tells
		return string(out), c.ProcessState.ExitCode()
	}
	var l struct {
		Health               []string
		XPub                 string
		CurveKey, CurvePeers string
	}
	b, err := os.ReadFile(filepath.Join(dir, ".eventspine", "dev.json"))
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil || len(l.Health) != 5 {
		t.Fatalf("%v\n%s", err, b)
	}
	if out, code := call(dir, nil, "ping"); code != 0 || strings.Count(out, "PONG") != 5 {
		t.Errorf("ping: code %d\n%s", code, out)
	}
	if out, code := call(dir, nil, "status"); code != 0 || strings.Count(out, " alive ") != 5 {
		t.Errorf("status: code %d\n%s", code, out)
	}
	if out, code := call(dir, nil, "rules", "list"); code != 0 {
		t.Errorf("rules: code %d\n%s", code, out)
	}
	keys := []string{"CURVE_KEY_FILE=" + l.CurveKey, "CURVE_PEERS_FILE=" + l.CurvePeers}
	if !strings.Contains(text, "$ export "+strings.Join(keys, " ")) || !strings.Contains(text, "tail --all --xpub "+l.XPub) {
		t.Errorf("it does not say how to connect:\n%s", text)
	}
	ping := []string{"ping", "--timeout", "300ms", "--retries", "0", l.Health[0]}
	if out, code := call(elsewhere, nil, ping...); code != 1 || !strings.Contains(out, "handshake failed") {
		t.Errorf("ping without keys: code %d\n%s", code, out)
	}
	if out, code := call(elsewhere, keys, "ping", l.Health[0]); code != 0 {
		t.Errorf("ping with keys: code %d\n%s", code, out)
	}
	before, err := os.ReadFile(l.CurvePeers)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(15 * time.Second); err != nil {
		t.Error(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ready(2)
	if after, err := os.ReadFile(l.CurvePeers); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the second run has other keys: %v", err)
	}
	if out, code := call(dir, nil, "ping"); code != 0 {
		t.Errorf("ping after the second start: code %d\n%s", code, out)
	}
	if err := p.Stop(15 * time.Second); err != nil {
		t.Error(err)
	}
}
