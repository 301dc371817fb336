package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
	"eventspine/internal/run"
)

const secret = "a-secret-for-tests-only-0123456789"

// call runs the command line in an empty directory and returns what it printed.
func call(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, notes bytes.Buffer
	c := root()
	c.SetOut(&out)
	c.SetErr(&notes)
	c.SetArgs(args)
	err = c.ExecuteContext(t.Context())
	return out.String(), notes.String(), err
}

func TestWrongUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("JWT_SECRET", "")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"token"}, "JWT_SECRET"},
		{[]string{"token", "extra"}, "extra"},
		{[]string{"revoke"}, "--id or --user"},
		{[]string{"revoke", "--id", "a", "--user", "b"}, "--id or --user"},
		{[]string{"revoke", "--id", "a"}, "no token"},
		{[]string{"emit"}, "--type or --file"},
		{[]string{"emit", "--type", "a", "--file", "b"}, "--type or --file"},
		{[]string{"emit", "--type", "a.b"}, "no token"},
		{[]string{"emit", "--type", "a.b", "--token", "x", "--data", "{"}, "--data"},
		{[]string{"emit", "--file", "/no/such/file", "--token", "x"}, "/no/such/file"},
		{[]string{"emit", "--nonsense"}, "nonsense"},
		{[]string{"tail"}, "--user or --all"},
		{[]string{"tail", "--all", "--user", "x"}, "--user or --all"},
		{[]string{"tail", "--all", "--via", "socketio"}, "--via zmq"},
		{[]string{"tail", "--user", "x", "--via", "pigeon"}, "pigeon"},
		{[]string{"tail", "--user", "x", "--topic", "alert."}, "--via zmq"},
		{[]string{"tail", "--user", "x"}, "no token"},
		{[]string{"tail", "--all", "--xpub", "nonsense"}, "nonsense"},
		{[]string{"dev", "now"}, "now"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			_, _, err := call(t, c.args...)
			if err == nil || run.Code(err) != run.ExitUsage || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v (code %d), want code 2 and %q", err, run.Code(err), c.says)
			}
		})
	}
}

func TestToken(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("JWT_SECRET", secret)
	out, _, err := call(t, "token", "--user", "ana", "--scope", "emit,admin", "--ttl", "5m", "--id", "t1")
	if err != nil {
		t.Fatal(err)
	}
	settings := auth.DefaultSettings()
	settings.JWTSecret = secret
	v, err := auth.NewVerifier(settings, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Verify(t.Context(), strings.TrimSpace(out))
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "ana" || !id.Has("emit") || !id.Has("admin") || id.ID != "t1" || time.Until(id.Expires) > 5*time.Minute {
		t.Errorf("the token says %+v", id)
	}
}

// The secret may lie in a file, as in containers and units.
func TestTokenFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JWT_SECRET_FILE", path)
	t.Setenv("JWT_ISSUER", "here")
	out, _, err := call(t, "token", "--user", "ana")
	if err != nil {
		t.Fatal(err)
	}
	settings := auth.DefaultSettings()
	settings.JWTSecret, settings.JWTIssuer = secret, "here"
	v, err := auth.NewVerifier(settings, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), strings.TrimSpace(out)); err != nil {
		t.Error(err)
	}
	t.Setenv("JWT_SECRET_FILE", path+".gone")
	if _, _, err := call(t, "token", "--user", "ana"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestTokenOfANamedSecret: the token names the secret, the issuer and the audience, and can be
// revoked by an id of its own.
func TestTokenOfANamedSecret(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("JWT_SECRET", secret)
	t.Setenv("JWT_SECRETS", "old=the-older-secret-0123456789,new=the-newer-secret-0123456789")
	t.Setenv("JWT_ISSUER", "shop")
	settings := auth.DefaultSettings()
	settings.JWTSecrets, settings.JWTIssuer, settings.JWTAudience = "new=the-newer-secret-0123456789", "shop", "spine"
	v, err := auth.NewVerifier(settings, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for range 2 {
		out, _, err := call(t, "token", "--user", "ana", "--kid", "new", "--audience", "spine")
		if err != nil {
			t.Fatal(err)
		}
		id, err := v.Verify(t.Context(), strings.TrimSpace(out))
		if err != nil || id.Subject != "ana" || id.ID == "" || ids[id.ID] {
			t.Errorf("the token says %+v, %v", id, err)
		}
		ids[id.ID] = true
	}
	for _, args := range [][]string{{"--kid", "old", "--audience", "spine"}, {"--audience", "spine"}, {"--kid", "new"}, {"--kid", "new", "--audience", "spine", "--issuer", "x"}} {
		out, _, err := call(t, append([]string{"token", "--user", "ana"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), strings.TrimSpace(out)); err == nil {
			t.Errorf("%v is good, too", args)
		}
	}
	if _, _, err := call(t, "token", "--user", "ana", "--kid", "none"); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("an unknown secret: %v", err)
	}
}

// A running `eventspine dev` leaves its secret, so that no flag is needed beside it.
func TestTokenBesideDev(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("JWT_SECRET", "")
	if err := os.Mkdir(".eventspine", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (local{Secret: secret}).save(".eventspine"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := call(t, "token", "--user", "ana"); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(".eventspine", localFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret is in a file of mode %v, %v", info.Mode(), err)
	}
}

func TestVersion(t *testing.T) {
	out, _, err := call(t, "version")
	if err != nil || !strings.HasPrefix(out, "eventspine ") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestConfigNamesEverything(t *testing.T) {
	out, _, err := call(t, "config")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ZMQ_PROCESSING_HOST", "ZMQ_PROXY_XSUB", "ZMQ_PROXY_XPUB", "ES_HOST", "REDIS_URL", "JWT_SECRET", "INSTANCE_ID", "PORT", "STATSD_ADDR"} {
		if !strings.Contains(out, "  "+name+" ") {
			t.Errorf("%s is missing", name)
		}
	}
	for _, s := range allSettings() {
		for _, x := range s.settings {
			if x.Meaning == "" {
				t.Errorf("%s: %s has no meaning", s.name, x.Name)
			}
			if strings.Contains(x.Value, "0.0.0.0") {
				t.Errorf("%s: %s is on every address by default", s.name, x.Name)
			}
		}
	}
}

// docs/settings.md is made from the code; `make generate` writes it anew.
func TestSettingsPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	var now bytes.Buffer
	if err := settingsMarkdown(&now); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, now.Bytes()) {
		t.Error("docs/settings.md is not what the code says; run make generate")
	}
}

// scripted answers the API's routes by the test's script. It stands in for the API only where
// the API would have to be broken on purpose.
func scripted(t *testing.T, answer func(w http.ResponseWriter, body []byte, n int)) string {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Authorization") != "Bearer tok" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		answer(w, body, n)
		n++
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func events(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"id":"e%d","type":"a.b"}`+"\n\n", i)
	}
	return b.Bytes()
}

// results answers a batch: status by line.
func results(w http.ResponseWriter, body []byte, status func(line string) int) {
	type result struct {
		Status int               `json:"status"`
		Error  map[string]string `json:"error,omitempty"`
	}
	var out struct {
		Results []result `json:"results"`
	}
	for l := range strings.Lines(string(body)) {
		r := result{Status: status(l)}
		if r.Status == 400 {
			r.Error = map[string]string{"detail": "type is wrong"}
		}
		out.Results = append(out.Results, r)
	}
	w.WriteHeader(http.StatusMultiStatus)
	_ = json.NewEncoder(w).Encode(out)
}

func emitFile(t *testing.T, url string, n int, more ...string) (stdout, stderr string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events.ndjson")
	if err := os.WriteFile(file, events(n), 0o600); err != nil {
		t.Fatal(err)
	}
	return call(t, append([]string{"emit", "--file", file, "--api", url, "--token", "tok"}, more...)...)
}

func TestEmitFileSendsEachLineOnce(t *testing.T) {
	got := map[string]int{}
	url := scripted(t, func(w http.ResponseWriter, body []byte, _ int) {
		results(w, body, func(l string) int { got[strings.TrimSpace(l)]++; return 202 })
	})
	out, _, err := emitFile(t, url, 450)
	if err != nil || !strings.Contains(out, "450 accepted, 0 refused") {
		t.Fatalf("%q, %v", out, err)
	}
	for l, n := range got {
		if n != 1 {
			t.Errorf("%s was sent %d times", l, n)
		}
	}
	if len(got) != 450 {
		t.Errorf("%d different lines came", len(got))
	}
}

func TestEmitFileSendsAgainWhatHadNoRoom(t *testing.T) {
	accepted := map[string]int{}
	url := scripted(t, func(w http.ResponseWriter, body []byte, n int) {
		w.Header().Set("Retry-After", "0")
		switch n {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1: // every second one has no room
			i := 0
			results(w, body, func(l string) int {
				if i++; i%2 == 0 {
					return 503
				}
				accepted[l]++
				return 202
			})
		default:
			results(w, body, func(l string) int { accepted[l]++; return 202 })
		}
	})
	out, _, err := emitFile(t, url, 20)
	if err != nil || !strings.Contains(out, "20 accepted") {
		t.Fatalf("%q, %v", out, err)
	}
}

func TestEmitFileNamesRefusedLines(t *testing.T) {
	url := scripted(t, func(w http.ResponseWriter, body []byte, _ int) {
		results(w, body, func(l string) int {
			if strings.Contains(l, `"e1"`) {
				return 400
			}
			return 202
		})
	})
	out, notes, err := emitFile(t, url, 3)
	if err == nil || run.Code(err) != run.ExitUsage || !strings.Contains(out, "2 accepted, 1 refused") {
		t.Errorf("%q, %v", out, err)
	}
	if !strings.Contains(notes, ":3: ") || !strings.Contains(notes, "type is wrong") { // lines 2 and 4 are empty
		t.Errorf("the notes do not name line 3: %q", notes)
	}
}

func TestEmitStopsAtABrokenAnswer(t *testing.T) {
	url := scripted(t, func(w http.ResponseWriter, _ []byte, _ int) { w.WriteHeader(http.StatusInternalServerError) })
	if _, _, err := emitFile(t, url, 3); err == nil || run.Code(err) != run.ExitFailure {
		t.Errorf("got %v", err)
	}
	if _, _, err := call(t, "emit", "--type", "a.b", "--api", url, "--token", "bad"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a refused token gives %v", err)
	}
	if _, _, err := call(t, "emit", "--type", "a.b", "--api", "http://127.0.0.1:1", "--token", "tok"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("nobody listening gives %v", err)
	}
}

func TestEmitOne(t *testing.T) {
	var got string
	url := scripted(t, func(w http.ResponseWriter, body []byte, _ int) {
		got = string(body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"x"}`)
	})
	out, _, err := call(t, "emit", "--type", "a.b", "--user", `o"brien`, "--data", `{"n":1}`, "--api", url, "--token", "tok")
	if err != nil || !strings.Contains(out, `"x"`) {
		t.Fatalf("%q, %v", out, err)
	}
	if want := `{"type":"a.b","userId":"o\"brien","data":{"n":1}}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}

func TestPaceKeepsTheSchedule(t *testing.T) {
	e := emitter{rate: 1000}
	if n := e.batchSize(); n != 100 {
		t.Errorf("a paced batch has %d events", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.pace(ended, time.Now(), 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("an event due in a second does not wait: %v", err)
	}
	if err := e.pace(t.Context(), time.Now().Add(-time.Hour), 1); err != nil {
		t.Errorf("an event that is late waits: %v", err)
	}
}

func TestTailWants(t *testing.T) {
	for _, c := range []struct {
		user, topic, body string
		want              bool
	}{
		{"", "a.b.x", `{"userId":"x"}`, true},
		{"", "_ack.api", `{}`, false},
		{"x", "a.b.x", `{"userId":"x"}`, true},
		{"x", "a.b.*", `{"userId":"*"}`, true},
		{"x", "a.b.y", `{"userId":"y"}`, false},
		{"x", "a.b.y", `not json`, false},
	} {
		f := follow{user: c.user}
		if f.wants(c.topic, []byte(c.body)) != c.want {
			t.Errorf("%+v", c)
		}
	}
}
