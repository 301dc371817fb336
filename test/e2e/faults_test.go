package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/testkit/ports"
	"eventspine/internal/zmq"
	"eventspine/test/harness"
)

// userIn is a user id whose events go to partition p of n.
func userIn(p, n int) string {
	for i := 0; ; i++ {
		u := fmt.Sprintf("settler-%d", i)
		if event.Partition(u, "", n) == p {
			return u
		}
	}
}

// TestGarbageOnTheWire throws at the workers' and the proxy's sockets what no producer should
// send, while a good producer goes on: it must lose nothing and notice nothing.
func TestGarbageOnTheWire(t *testing.T) {
	s := start(t, embedded, 1)
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	token := harness.Token("sender", "emit")
	good := func(id string) {
		t.Helper()
		body := fmt.Sprintf(`{"id":%q,"type":"notification.check","userId":"ana"}`, id)
		if status, answer := post(t, s.APIURL+"/api/events", token, "application/json", []byte(body)); status != http.StatusAccepted {
			t.Fatalf("POST: %d %s", status, answer)
		}
	}
	var want []string
	for typ, target := range map[zmq.Type]string{zmq.Push: s.WorkerEndpoints[0], zmq.Pub: s.XSub[0]} {
		for name, attack := range attacks(typ, target) {
			t.Run(name+" at "+target, func(t *testing.T) {
				attack(t)
				id := fmt.Sprintf("good-%d", len(want))
				want = append(want, id)
				good(id)
				eventually(t, 10*time.Second, func() bool { return len(ana.events()) == len(want) },
					func() string { return fmt.Sprintf("ana got %d of %d", len(ana.events()), len(want)) })
			})
		}
	}
	metrics := metric(t, s.Ready["worker-1"], "eventspine_worker_malformed_events_total") + metric(t, s.Ready["worker-1"], "eventspine_ingest_bad_messages_total")
	if metrics < 3 {
		t.Errorf("the worker counted %v malformed events, want at least 3", metrics)
	}
	for _, p := range s.Processes() {
		if !p.Running() {
			t.Errorf("%s died", p.Name)
		}
	}
	for _, c := range []struct{ process, log, metric string }{
		{"worker-1", "zmq_protocol_error", "eventspine_ingest_protocol_errors_total"},
		{"proxy-1", "zmq_protocol_error", "eventspine_proxy_protocol_errors_total"},
		{"proxy-1", "malformed message", "eventspine_proxy_bad_messages_total"},
		{"worker-1", "malformed", "eventspine_worker_malformed_events_total"},
	} {
		wantInLog(t, s, c.process, c.log)
		if metric(t, s.Ready[c.process], c.metric) == 0 {
			t.Errorf("%s: %s is 0", c.process, c.metric)
		}
	}
}

func wantInLog(t *testing.T, s *harness.System, process, text string) {
	t.Helper()
	for _, p := range s.Processes() {
		if p.Name != process {
			continue
		}
		if log, err := os.ReadFile(p.Log); err != nil || !bytes.Contains(log, []byte(text)) {
			t.Errorf("the log of %s has no line with %q (%v)", process, text, err)
		}
	}
}

// attacks are what a peer of that type could send to the endpoint.
func attacks(typ zmq.Type, endpoint string) map[string]func(*testing.T) {
	pushed := func(m ...zmq.Msg) func(*testing.T) {
		return func(t *testing.T) { push(t, typ, endpoint, m...) }
	}
	huge := binary.BigEndian.AppendUint64([]byte{0x02}, 1<<62)
	return map[string]func(*testing.T){
		"not JSON":          pushed(zmq.Msg{[]byte("hello")}),
		"no type":           pushed(zmq.Msg{[]byte(`{"userId":"ana"}`)}),
		"an empty frame":    pushed(zmq.Msg{{}}),
		"a broken batch":    pushed(zmq.Msg{[]byte("B1 x"), []byte("{")}),
		"an unmasked topic": pushed(zmq.Msg{[]byte("notification.ana {not json")}),
		"a wrong greeting":  raw(endpoint, []byte("GET / HTTP/1.1\r\n\r\n")),
		"17 MiB":            raw(endpoint, greeting(), ready(typ.String()), binary.BigEndian.AppendUint64([]byte{0x02}, 17<<20), make([]byte, 17<<20)),
		"a 2^62 frame":      raw(endpoint, greeting(), ready(typ.String()), huge),
		"a 2^62 command":    raw(endpoint, greeting(), append([]byte{0x06}, huge[1:]...)),
		"half a greeting":   raw(endpoint, greeting()[:11]),
	}
}

func greeting() []byte {
	g := make([]byte, 64)
	g[0], g[9], g[10] = 0xff, 0x7f, 3
	copy(g[12:], "NULL")
	return g
}

func ready(typ string) []byte {
	body := append([]byte("\x05READY\x0bSocket-Type\x00\x00\x00"), byte(len(typ)))
	body = append(body, typ...)
	return append([]byte{0x04, byte(len(body))}, body...)
}

// raw writes bytes to a socket and waits for the answer to end or half a second, whichever is first.
func raw(endpoint string, parts ...[]byte) func(*testing.T) {
	return func(t *testing.T) {
		c, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if _, err := c.Write(p); err != nil {
				return // closed by the other side: that is what it should do
			}
		}
		_, _ = io.Copy(io.Discard, c)
	}
}

// push sends messages through a good ZeroMQ peer.
func push(t *testing.T, typ zmq.Type, endpoint string, messages ...zmq.Msg) {
	t.Helper()
	sock := zmq.New(typ, zmq.Options{})
	if err := sock.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	eventually(t, 5*time.Second, func() bool { return sock.Stats().Peers == 1 }, func() string { return "no connection" })
	for _, m := range messages {
		if err := sock.Send(ctx, m); err != nil {
			t.Errorf("push: %v", err)
		}
	}
	if err := sock.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// metric reads the sum of a metric's series.
func metric(t *testing.T, base, name string) float64 {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, body := do(t, r)
	var sum float64
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &v); err == nil {
			sum += v
		}
	}
	return sum
}

// TestServersAwayAtStart starts the services before Redis and Elasticsearch are there: they
// wait, say which one is missing, and go on when it comes.
func TestServersAwayAtStart(t *testing.T) {
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
		t.Skip("needs redis-server; make test runs it")
	}
	free, err := ports.Free(2)
	if err != nil {
		t.Fatal(err)
	}
	redisURL := fmt.Sprintf("redis://127.0.0.1:%d/0", free[0])
	es := fmt.Sprintf("127.0.0.1:%d", free[1])
	o := harness.Options{Bin: bin, Dir: t.TempDir(), Redis: redisURL, ES: "http://" + es}
	s, err := harness.StartOnly(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.Logs())
		}
	})
	for name, missing := range map[string]string{"worker-1": "redis", "indexer-1": "elasticsearch", "bridge-1": "redis"} {
		eventually(t, 10*time.Second, func() bool { return notReady(s.Ready[name], missing) },
			func() string { return name + " does not say that " + missing + " is away" })
	}
	redis, _, err := harness.RedisAt(t.Context(), free[0], t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Stop(5 * time.Second) })
	relay, err := harness.Relay(es, realElasticsearch(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	if err := s.AllReady(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("late-%d", time.Now().UnixNano())
	body := fmt.Sprintf(`{"id":%q,"type":"audit.late","userId":%q}`, id, id)
	if status, answer := post(t, s.APIURL+"/api/events", harness.Token("x", "emit"), "application/json", []byte(body)); status != http.StatusAccepted {
		t.Fatalf("POST: %d %s", status, answer)
	}
	var last string // a server that just came may not answer every search in time
	eventually(t, time.Minute, func() bool {
		status, body := ask(t, s, harness.Token("root", "admin"), url.Values{"userId": {id}, "from": {"1"}})
		last = string(body)
		return status == http.StatusOK && strings.Contains(last, id)
	}, func() string { return "the event is not in the index: " + last })
}

func notReady(base, missing string) bool {
	client := http.Client{Timeout: 3 * time.Second}
	r, err := client.Get(base + "/readyz")
	if err != nil {
		return false
	}
	defer func() { _ = r.Body.Close() }()
	var body struct {
		Status string
		Checks map[string]string
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		return false
	}
	return r.StatusCode == http.StatusServiceUnavailable && body.Status == "not ready" && body.Checks[missing] != "ok" && body.Checks[missing] != ""
}

// TestWrongSetting wants one line that names the setting, and exit code 2.
func TestWrongSetting(t *testing.T) {
	for _, c := range []struct{ program, setting, value string }{
		{"api", "JWT_SECRET", "short"},
		{"api", "API_ADDR", "0.0.0.0:3000"},
		{"api", "REDIS_URL", "mongodb://x"},
		{"api", "API_NO_SUCH_SETTING", "1"},
		{"worker", "PARTITIONS", "many"},
		{"worker", "ZMQ_PROCESSING_BIND", "tcp://*:5557"},
		{"worker", "WORKER_RULES", "/no/such/file.yaml"},
		{"proxy", "ZMQ_PROXY_XSUB_BIND", "nonsense"},
		{"indexer", "INDEXER_FLUSH_INTERVAL", "soon"},
		{"indexer", "ES_HOST", "::::"},
		{"bridge", "BRIDGE_ADDR", "0.0.0.0:3001"},
	} {
		t.Run(c.program+" "+c.setting, func(t *testing.T) {
			t.Parallel()
			p, err := harness.Launch(c.program, t.TempDir(), append(quiet(), "JWT_SECRET="+harness.Secret, c.setting+"="+c.value), filepath.Join(bin, c.program))
			if err != nil {
				t.Fatal(err)
			}
			code, err := p.Wait(10 * time.Second)
			if err != nil {
				_ = p.Signal(syscall.SIGKILL)
				t.Fatal(err)
			}
			out, err := os.ReadFile(p.Log)
			if err != nil {
				t.Fatal(err)
			}
			if code != 2 || bytes.Count(out, []byte("\n")) != 1 || !bytes.Contains(out, []byte(c.setting)) {
				t.Errorf("exit code %d, output %q; want 2 and one line naming %s", code, out, c.setting)
			}
		})
	}
}

// quiet keeps a process off the ports that everybody uses.
func quiet() []string { return []string{"ZMQ_HEALTH=", "METRICS_ADDR="} }

// TestPing asks every service the article's question.
func TestPing(t *testing.T) {
	s := start(t, embedded, 1)
	for name, endpoint := range s.Ping {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		sock := zmq.New(zmq.Req, zmq.Options{})
		if err := sock.Connect(endpoint); err != nil {
			t.Fatal(err)
		}
		if err := sock.Send(ctx, zmq.Msg{[]byte("PING")}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m, err := sock.Recv(ctx)
		if err != nil || len(m) != 1 || string(m[0]) != "PONG" {
			t.Errorf("%s answers %q, %v; want PONG", name, m, err)
		}
		_ = sock.Close(ctx)
		cancel()
	}
}

// TestEnrichmentChanges wants a change of a user's metadata in events within a second, at
// every worker.
func TestEnrichmentChanges(t *testing.T) {
	s := start(t, embedded, 2)
	root := harness.Token("root", "admin", "emit")
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	n := 0
	name := func() string {
		n++
		body := `{"type":"notification.hello","userId":"ana"}`
		if status, answer := post(t, s.APIURL+"/api/events", root, "application/json", []byte(body)); status != http.StatusAccepted {
			t.Fatalf("POST: %d %s", status, answer)
		}
		eventually(t, 5*time.Second, func() bool { return len(ana.events()) >= n }, func() string { return "no event" })
		var e struct{ User struct{ Name string } }
		if err := json.Unmarshal(ana.events()[n-1].Raw, &e); err != nil {
			t.Fatal(err)
		}
		return e.User.Name
	}
	if got := name(); got != "" {
		t.Fatalf("an unknown user has the name %q", got)
	}
	for _, want := range []string{"Ana", "Ana María"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.APIURL+"/api/users/ana", strings.NewReader(`{"name":"`+want+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+root)
		r.Header.Set("Content-Type", "application/json")
		if status, body := do(t, r); status/100 != 2 {
			t.Fatalf("PUT: %d %s", status, body)
		}
		eventually(t, time.Second, func() bool { return name() == want }, func() string { return "still the old name after a second" })
	}
}

// TestDev runs what the README's first command runs, in an empty directory, and tries what
// it prints, with the embedded servers and with those that REDIS_URL and ES_HOST name.
func TestDev(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			var env []string
			for name, url := range map[string]string{"REDIS_URL": w.redis(t), "ES_HOST": w.es(t)} {
				if url != "" {
					env = append(env, name+"="+url)
				}
			}
			tryDev(t, env)
		})
	}
}

func tryDev(t *testing.T, env []string) {
	dir := t.TempDir()
	p, err := harness.Launch("dev", dir, env, filepath.Join(bin, "eventspine"), "dev", "--any-port")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Signal(syscall.SIGKILL) }()
	started := time.Now()
	var text string
	eventually(t, 20*time.Second, func() bool {
		out, err := os.ReadFile(p.Log)
		text = string(out)
		return err == nil && strings.Contains(text, "Ctrl-C")
	}, func() string { return "eventspine dev printed: " + text })
	t.Logf("ready after %s", time.Since(started).Round(time.Millisecond))
	var tried int
	for line := range strings.Lines(text) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ ")
		if !ok || strings.Contains(command, " tail") {
			continue
		}
		tried++
		sh := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(command, "go run ./cmd/eventspine", filepath.Join(bin, "eventspine")))
		sh.Dir = dir
		out, err := sh.CombinedOutput()
		if err != nil || strings.Contains(string(out), `"status":4`) {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	if tried < 2 {
		t.Errorf("found %d commands to try in\n%s", tried, text)
	}
	if _, err := os.Stat(filepath.Join(dir, ".eventspine")); err != nil {
		t.Error(err)
	}
	if n := strings.Count(text, "    embedded"); n != 2-len(env) {
		t.Errorf("%d embedded servers with %v\n%s", n, env, text)
	}
	second := exec.CommandContext(t.Context(), filepath.Join(bin, "eventspine"), "dev", "--any-port")
	second.Dir = dir
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another `eventspine dev`") {
		t.Errorf("a second one in the same directory: %v\n%s", err, out)
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(15 * time.Second); err != nil || code != 0 {
		out, _ := os.ReadFile(p.Log)
		t.Errorf("Ctrl-C: code %d, %v\n%s", code, err, out)
	}
}

// TestStatsd wants the article's two names at a StatsD server.
func TestStatsd(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	s := startWith(t, harness.Options{Env: []string{"STATSD_ADDR=" + server.LocalAddr().String()}})
	body := `{"type":"audit.check","userId":"ana"}`
	if status, answer := post(t, s.APIURL+"/api/events", harness.Token("x", "emit"), "application/json", []byte(body)); status != http.StatusAccepted {
		t.Fatalf("POST: %d %s", status, answer)
	}
	if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{"zmq.events.received:": true, "zmq.events.latency:": true}
	for buf := make([]byte, 64<<10); len(missing) > 0; {
		n, _, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatalf("%v; still missing: %v", err, missing)
		}
		for name := range missing {
			if bytes.Contains(buf[:n], []byte(name)) {
				delete(missing, name)
			}
		}
	}
}
