package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
	"eventspine/internal/socketio/client"
	"eventspine/internal/testkit"
	"eventspine/test/harness"
)

// crowd is an api and two bridges as processes of their own above a real Redis, without the way
// between them: who may come in needs none of it.
type crowd struct {
	redis   *testkit.RedisServer
	api     string
	bridges [2]string // URLs
	process [2]*harness.Process
}

func startCrowd(t *testing.T, env ...string) *crowd {
	t.Helper()
	c := &crowd{redis: testkit.StartRedis(t)}
	dir := t.TempDir()
	launch := func(name, program string, more ...string) *harness.Process {
		env := append(append(quiet(), "INSTANCE_ID="+name, "JWT_SECRET="+harness.Secret, "REDIS_URL="+c.redis.URL(), "ZMQ_CONTROL="), append(more, env...)...)
		p, err := harness.Launch(name, dir, env, filepath.Join(bin, program))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
		return p
	}
	at := testkit.FreeAddr(t)
	c.api = "http://" + at
	launch("api-1", "api", "API_ADDR="+at, "API_WAL_DIR="+filepath.Join(dir, "wal"))
	for i := range c.bridges {
		at := testkit.FreeAddr(t)
		c.bridges[i] = "http://" + at
		c.process[i] = launch(fmt.Sprint("bridge-", i+1), "bridge", "BRIDGE_ADDR="+at)
	}
	testkit.Eventually(t, 30*time.Second, func() bool {
		for _, bridge := range c.bridges {
			if !answers(bridge + "/healthz") {
				return false
			}
		}
		return answers(c.api + "/openapi.json")
	}, "the api and two bridges answer")
	return c
}

// answers reports whether a server says that it is well.
func answers(url string) bool {
	res, err := http.Get(url)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode < 300
}

func sign(t *testing.T, user, id string, scopes ...string) string {
	t.Helper()
	s, err := auth.Sign(harness.Secret, auth.Claims{Subject: user, ID: id, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// call is a request to the api.
func (c *crowd) call(t *testing.T, method, path, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.api+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// old and modern connect as a client of Engine.IO 3 and of Engine.IO 4. The channel has what the
// server said last, once the connection is closed.

func old(t *testing.T, bridge, token string) (<-chan string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, bridge, token, client.Options{})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	gone := make(chan string, 1)
	go func() {
		last := ""
		for {
			name, payload, err := c.Recv(context.Background())
			if err != nil {
				gone <- last
				return
			}
			last = name + " " + string(payload)
		}
	}()
	return gone, nil
}

func modern(t *testing.T, bridge, token string) (<-chan string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, strings.Replace(bridge, "http", "ws", 1)+"/socket.io/?EIO=4&transport=websocket", nil) //nolint:bodyclose // Dial closes it
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	hello, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return nil, err
	}
	if err := ws.Write(ctx, websocket.MessageText, append([]byte("40"), hello...)); err != nil {
		return nil, err
	}
	for {
		_, b, err := ws.Read(ctx)
		switch {
		case err != nil:
			return nil, err
		case strings.HasPrefix(string(b), "44"):
			return nil, fault.Errorf("connect", fault.Unauthorized, "%s", b)
		case !strings.HasPrefix(string(b), "40"):
			continue
		}
		break
	}
	gone := make(chan string, 1)
	go func() {
		last := ""
		for {
			_, b, err := ws.Read(context.Background())
			if err != nil {
				gone <- last
				return
			}
			last = string(b)
			if last == "2" { // ping
				_ = ws.Write(context.Background(), websocket.MessageText, []byte("3"))
			}
		}
	}()
	return gone, nil
}

type dialer func(*testing.T, string, string) (<-chan string, error)

func (c *crowd) join(t *testing.T, dial dialer, bridge int, token string) <-chan string {
	t.Helper()
	gone, err := dial(t, c.bridges[bridge], token)
	if err != nil {
		t.Fatal(err)
	}
	return gone
}

// TestRevocation: connections on both bridges, of both protocols, are closed within a second, and
// the token is refused everywhere from then on: also by a bridge that was killed and started again,
// and while Redis is away, and after it came back with nothing.
func TestRevocation(t *testing.T) {
	c := startCrowd(t)
	admin := sign(t, "root", "", "admin")
	one, two, bobs, eves := sign(t, "ana", "t1"), sign(t, "ana", "t2"), sign(t, "bob", ""), sign(t, "eve", "e1")
	stolen := []<-chan string{c.join(t, old, 0, one), c.join(t, modern, 0, one), c.join(t, old, 1, one), c.join(t, modern, 1, one)}
	bob := []<-chan string{c.join(t, old, 0, bobs), c.join(t, modern, 1, bobs)}
	stay := []<-chan string{c.join(t, modern, 0, two), c.join(t, old, 1, two), c.join(t, old, 0, eves), c.join(t, modern, 1, eves)}

	revoke := func(body string, gone []<-chan string) {
		t.Helper()
		asked := time.Now()
		if status, answer := c.call(t, "POST", "/api/tokens/revoke", admin, body); status != 200 || !strings.Contains(answer, "until") {
			t.Fatalf("%s answered %d %s", body, status, answer)
		}
		late := time.NewTimer(time.Second - time.Since(asked))
		defer late.Stop()
		for i, g := range gone {
			select {
			case last := <-g:
				if !strings.Contains(last, "closing") || !strings.Contains(last, "token revoked") {
					t.Errorf("%s: connection %d was told %q", body, i, last)
				}
			case <-late.C:
				t.Fatalf("%s: connection %d is open after a second", body, i)
			}
		}
		t.Logf("%s: %d connections closed %v after the request", body, len(gone), time.Since(asked))
	}
	revoke(`{"jti":"t1"}`, stolen)
	refused := func(when, token string, bridges ...int) {
		t.Helper()
		if status, answer := c.call(t, "POST", "/api/events", token, `{"type":"status.x"}`); status != 401 || !strings.Contains(answer, "revoked") {
			t.Errorf("%s: the api answered %d %s", when, status, answer)
		}
		for _, i := range bridges {
			for _, dial := range []dialer{old, modern} {
				if _, err := dial(t, c.bridges[i], token); fault.KindOf(err) != fault.Unauthorized || !strings.Contains(err.Error(), "the token was revoked") {
					t.Errorf("%s: bridge %d: %v", when, i+1, err)
				}
			}
		}
	}
	refused("at once", one, 0, 1)
	revoke(`{"user":"bob"}`, bob)
	refused("of the user", bobs, 0, 1)
	testkit.Eventually(t, 5*time.Second, func() bool { // issued in a later second
		_, err := old(t, c.bridges[0], sign(t, "bob", ""))
		return err == nil
	}, "the user comes in with a new token")
	for i, g := range stay {
		select {
		case last := <-g:
			t.Errorf("connection %d of a good token ended: %q", i, last)
		default:
		}
	}

	if err := c.process[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.redis.Kill()
	refused("without redis", one, 0)
	c.join(t, modern, 0, two) // good tokens come in
	if status, answer := c.call(t, "POST", "/api/events", two, `{"type":"status.x"}`); status != 202 {
		t.Errorf("without redis the api answered %d %s", status, answer)
	}
	if status, answer := c.call(t, "POST", "/api/tokens/revoke", admin, `{"jti":"t9"}`); status != 503 {
		t.Errorf("revoked without redis: %d %s", status, answer)
	}
	if err := c.process[1].Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() bool { return answers(c.bridges[1] + "/healthz") }, "the bridge is started again")
	for _, token := range []string{one, two} { // it cannot know
		if _, err := old(t, c.bridges[1], token); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("a bridge that knows no revocations says %v", err)
		}
	}
	c.redis.Restart() // with nothing: it keeps no disk
	testkit.Eventually(t, 20*time.Second, func() bool {
		_, err := old(t, c.bridges[1], one)
		return fault.KindOf(err) == fault.Unauthorized
	}, "the bridge has the revocations from those who know them")
	refused("after redis came back", one, 0, 1)
	refused("after redis came back", bobs, 0, 1)
	c.join(t, modern, 1, two)
}

// TestPresence: who is online where, to whom it is shown, and that a killed bridge's users are
// offline within the heartbeat time-out.
func TestPresence(t *testing.T) {
	const timeout = 3 * time.Second
	c := startCrowd(t, "BRIDGE_PRESENCE_TIMEOUT="+timeout.String())
	anas, bobs, admin := sign(t, "ana", ""), sign(t, "bob", ""), sign(t, "root", "", "admin")
	state := func(user, token string) (s struct {
		Online      bool
		Connections int
		Since       int64
	}) {
		t.Helper()
		status, body := c.call(t, "GET", "/api/users/"+user+"/presence", token, "")
		if err := json.Unmarshal([]byte(body), &s); status != 200 || err != nil {
			t.Fatalf("answered %d %s", status, body)
		}
		return s
	}
	if s := state("ana", anas); s.Online || s.Connections != 0 || s.Since != 0 {
		t.Errorf("before anything %+v", s)
	}
	began := time.Now().UnixMilli()
	c.join(t, old, 0, anas)
	phone, err := modern(t, c.bridges[1], anas)
	if err != nil {
		t.Fatal(err)
	}
	c.join(t, modern, 0, bobs)
	testkit.Eventually(t, time.Second, func() bool { return state("ana", anas).Connections == 2 && state("bob", admin).Connections == 1 }, "both users are online within a second")
	if s := state("ana", admin); !s.Online || s.Since < began || s.Since > time.Now().UnixMilli() {
		t.Errorf("ana is %+v, and came after %d", s, began)
	}
	if status, _ := c.call(t, "GET", "/api/users/bob/presence", anas, ""); status != 403 {
		t.Errorf("another user's presence answered %d", status)
	}
	killed := time.Now()
	if err := c.process[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, timeout+time.Second/2, func() bool { return !state("bob", admin).Online && state("ana", anas).Connections == 1 }, "the killed bridge's users count no more")
	t.Logf("right %v after the kill", time.Since(killed))
	if err := c.process[1].Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
	<-phone
	if s := state("ana", anas); s.Online {
		t.Errorf("after the end of the last bridge %+v", s)
	}
}
