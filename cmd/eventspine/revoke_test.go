package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRevoke(t *testing.T) {
	t.Chdir(t.TempDir())
	var asked string
	status := http.StatusOK
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"until":1}`)
	}))
	defer api.Close()
	for _, c := range []struct{ flag, value, want string }{
		{"--id", `a"b`, `POST /api/tokens/revoke Bearer x {"jti":"a\"b"}`},
		{"--user", "ana", `POST /api/tokens/revoke Bearer x {"user":"ana"}`},
	} {
		out, _, err := call(t, "revoke", "--api", api.URL, "--token", "x", c.flag, c.value)
		if err != nil || out != "revoked\n" || asked != c.want {
			t.Errorf("%s: %q, %v; asked %s", c.flag, out, err, asked)
		}
	}
	status = http.StatusForbidden
	if out, _, err := call(t, "revoke", "--api", api.URL, "--token", "x", "--id", "a"); err == nil || !strings.Contains(err.Error(), "403") || out != "" {
		t.Errorf("refused: %q, %v", out, err)
	}
}
