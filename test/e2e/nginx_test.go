package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/testkit/ports"
	"eventspine/test/harness"
)

// TestBehindNginx restarts two bridges behind nginx, as deploy/nginx/eventspine.conf has it, one
// after the other: every client is whole at the end. make nginx-test runs it.
func TestBehindNginx(t *testing.T) {
	if os.Getenv("EVENTSPINE_NGINX") == "" {
		t.Skip("make nginx-test runs this")
	}
	const count = 100
	s := startWith(t, harness.Options{Redis: realRedis(t), Env: []string{"BRIDGE_DRAIN=1s", "BRIDGE_TRUSTED_PROXIES=127.0.0.1"}})
	second, secondURL, secondReady := secondBridge(t, s, "BRIDGE_DRAIN=1s", "BRIDGE_TRUSTED_PROXIES=127.0.0.1")
	listen, err := ports.Addr()
	if err != nil {
		t.Fatal(err)
	}
	ready := map[*harness.Process]string{s.Bridge: s.Ready["bridge-1"] + "/readyz", second: secondReady}
	awaitReady := func(p *harness.Process) {
		t.Helper()
		eventually(t, 20*time.Second, func() bool { return harness.OK(ready[p]) == nil }, func() string { return p.Name + " is not ready" })
	}
	front := nginx(t, listen, strings.TrimPrefix(s.BridgeURL, "http://"), strings.TrimPrefix(secondURL, "http://"))
	sessionsByPolling(t, front, s.Token("poller"))
	s.BridgeURL = front
	everyone, p := gather(t, s, count)
	for _, bridge := range []*harness.Process{s.Bridge, second} {
		if err := bridge.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p.keep(count, func() bool { return !bridge.Running() || time.Since(began) > 20*time.Second })
		if err := bridge.Start(); err != nil {
			t.Fatal(err)
		}
		awaitReady(bridge)
		p.keep(count, within(2500*time.Millisecond)) // longer than fail_timeout
	}
	everyone.whole(t, p, 1)
}

// secondBridge joins the system, and is ready.
func secondBridge(t *testing.T, s *harness.System, env ...string) (p *harness.Process, url, ready string) {
	t.Helper()
	free, err := ports.Free(3)
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", free[i]) }
	env = append(env, "INSTANCE_ID=bridge-2", "BRIDGE_ADDR="+at(0), "METRICS_ADDR="+at(1), "ZMQ_HEALTH=tcp://"+at(2),
		"REDIS_URL="+s.Redis, "JWT_SECRET="+harness.Secret, "ZMQ_PROXY_XPUB="+strings.Join(s.XPub, ","))
	if p, err = harness.Launch("bridge-2", t.TempDir(), env, filepath.Join(bin, "bridge")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(20 * time.Second) })
	ready = "http://" + at(1) + "/readyz"
	eventually(t, 20*time.Second, func() bool { return harness.OK(ready) == nil }, func() string { return "bridge-2 is not ready" })
	return p, "http://" + at(0), ready
}

// nginx runs with the example's configuration, for these addresses.
func nginx(t *testing.T, listen, one, two string) (url string) {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy", "nginx", "eventspine.conf"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatal(err)
	}
	site := strings.NewReplacer("10.0.1.30:3001", one, "10.0.1.31:3001", two, "listen 80;", "listen "+listen+";").Replace(string(text))
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	whole := fmt.Sprintf("pid %s/pid; error_log stderr; daemon off; worker_processes 1; events { worker_connections 4096; }\nhttp { access_log off; client_body_temp_path %s/body; proxy_temp_path %s/proxy; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;\n%s}\n", dir, dir, dir, dir, dir, dir, site)
	if err := os.WriteFile(conf, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := harness.Launch("nginx", dir, nil, program, "-c", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(5 * time.Second) })
	url = "http://" + listen
	eventually(t, 10*time.Second, func() bool {
		answer, err := http.Get(url + "/")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil
	}, func() string { return "nginx does not answer" })
	return url
}

// sessionsByPolling opens some sessions by long-polling: each request has to come to the bridge
// that has the session.
func sessionsByPolling(t *testing.T, url, token string) {
	t.Helper()
	for range 6 {
		at := url + "/socket.io/?EIO=4&transport=polling"
		var hello struct{ SID string }
		if err := json.Unmarshal([]byte(strings.TrimPrefix(text(t, http.MethodGet, at, ""), "0")), &hello); err != nil {
			t.Fatal(err)
		}
		at += "&sid=" + hello.SID
		if got := text(t, http.MethodPost, at, fmt.Sprintf(`40{"token":%q}`, token)); got != "ok" {
			t.Fatalf("a POST was answered %s", got)
		}
		if got := text(t, http.MethodGet, at, ""); !strings.HasPrefix(got, "40{") {
			t.Fatalf("a GET was answered %s", got)
		}
	}
}

func text(t *testing.T, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s %v", method, url, answer.Status, b, err)
	}
	return string(b)
}
