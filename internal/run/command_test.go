package run

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	var status int
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked %s", r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("{\"checks\":\"as they are\"}\n"))
	}))
	defer web.Close()
	at := "METRICS_ADDR=" + strings.TrimPrefix(web.URL, "http://")
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		args           []string
		environ        []string
		status, code   int
		stdout, stderr string
	}{
		"no argument runs the service": {nil, nil, 0, ExitOK, "stopped", ""},
		"ready":                        {[]string{"healthcheck"}, []string{at}, 200, ExitOK, "as they are", ""},
		"not ready, and why":           {[]string{"healthcheck"}, []string{at}, 503, ExitFailure, "", "503 {\"checks\":\"as they are\"}"},
		"away":                         {[]string{"healthcheck"}, []string{"METRICS_ADDR=" + strings.TrimPrefix(gone.URL, "http://")}, 0, ExitFailure, "", "refused"},
		"no address":                   {[]string{"healthcheck"}, []string{"METRICS_ADDR="}, 0, ExitUsage, "", "METRICS_ADDR is empty"},
		"an address that is none":      {[]string{"healthcheck"}, []string{"METRICS_ADDR=%zz"}, 0, ExitUsage, "", "METRICS_ADDR is no address"},
		"a wrong setting":              {[]string{"healthcheck"}, []string{at, "PORT=x"}, 200, ExitUsage, "", "PORT cannot be"},
		"version":                      {[]string{"version"}, nil, 0, ExitOK, "eventspine demo dev (go", ""},
		"another argument":             {[]string{"--port", "1"}, nil, 0, ExitUsage, "", "\"--port 1\" is no argument"},
		"too many":                     {[]string{"healthcheck", "now"}, []string{at}, 200, ExitUsage, "", "is no argument"},
	} {
		t.Run(name, func(t *testing.T) {
			status = c.status
			var stdout, stderr bytes.Buffer
			code := command[settings, string, *settings](t.Context(), service(nil, nil), c.args, c.environ, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("code %d\nstdout %s\nstderr %s", code, &stdout, &stderr)
			}
			if (c.stderr == "") != (stderr.Len() == 0) || strings.Count(stderr.String(), "\n") > 1 {
				t.Errorf("stderr %s", &stderr)
			}
		})
	}
}
