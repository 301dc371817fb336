package run

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"eventspine/internal/config"
	"eventspine/internal/fault"
)

// Unreleased is the version of a program that was not built for a release.
const Unreleased = "dev"

// version is stamped by the release build.
var version = Unreleased

// Version is the release that this program belongs to, such as 1.2.0, or Unreleased.
func Version() string { return version }

// About is one line: the version, Go's version, and the revision of the source where it is known.
func About() string {
	revision, goVersion := "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return fmt.Sprintf("%s (%s, revision %s)", version, goVersion, revision)
}

// command does what the arguments after the program's name say: none runs the service,
// healthcheck asks the running one whether it is ready, version prints the version. It returns
// the exit code.
func command[C any, D any, P interface {
	*C
	config.Service
}](ctx context.Context, s Service[C, D], args, environ []string, stdout, stderr io.Writer) int {
	switch strings.Join(args, " ") {
	case "":
		return Exec[C, D, P](ctx, s, environ, stdout, stderr)
	case "healthcheck":
		cfg := P(&s.Config)
		if err := config.Load(cfg, environ, s.Prefix); err != nil {
			return refuse(stderr, s.Name, err)
		}
		said, err := healthcheck(ctx, cfg.Base().Metrics)
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "eventspine %s: %v\n", s.Name, err)
			return Code(err)
		}
		_, _ = fmt.Fprintln(stdout, said)
		return ExitOK
	case "version":
		_, _ = fmt.Fprintf(stdout, "eventspine %s %s\n", s.Name, About())
		return ExitOK
	}
	_, _ = fmt.Fprintf(stderr, "eventspine %s: %q is no argument of it; without one it runs the service, and there are healthcheck and version. "+
		"Settings come from the environment.\n", s.Name, strings.Join(args, " "))
	return ExitUsage
}

// refuse prints one line for each wrong setting.
func refuse(w io.Writer, name string, err error) int {
	for _, f := range fault.FieldsOf(err) {
		_, _ = fmt.Fprintf(w, "eventspine %s: %s %s\n", name, f.Name, f.Reason)
	}
	return ExitUsage
}

const (
	healthTimeout = 4 * time.Second // of the whole question; the service gives each of its checks 1 s
	healthLimit   = 64 << 10        // bytes of the answer
)

// healthcheck asks /readyz at METRICS_ADDR and returns what it said. The error is of kind
// Unavailable when the service is away or not ready, and then names what is missing; Invalid
// when there is no address to ask.
func healthcheck(ctx context.Context, addr string) (string, error) {
	if addr == "" {
		return "", fault.BadFields("", fault.Field{Name: "METRICS_ADDR", Reason: "is empty: the service answers no health checks"})
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", http.NoBody)
	if err != nil {
		return "", fault.BadFields("", fault.Field{Name: "METRICS_ADDR", Reason: "is no address: " + err.Error()})
	}
	client := http.Client{Transport: &http.Transport{DialContext: new(net.Dialer).DialContext, DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		return "", fault.E("ask whether it is ready", fault.Unavailable, err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, healthLimit))
	if err != nil {
		return "", fault.E("ask whether it is ready", fault.Unavailable, err)
	}
	said := strings.TrimSpace(string(body))
	if answer.StatusCode != http.StatusOK {
		return "", fault.Errorf("ask whether it is ready", fault.Unavailable, "%d %s", answer.StatusCode, said)
	}
	return said, nil
}
