// Package layers keeps the shape of the project: who may import whom, and which package is
// the one home of each third-party library.
package layers

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layers lists the packages from the top down. A package imports only packages of lines below
// its own; a line in brackets may also import itself.
var layers = [][]string{
	{"cmd/api", "cmd/worker", "cmd/proxy", "cmd/indexer", "cmd/bridge", "cmd/eventspine", "bench", "test/harness", "deploy/package/sbom"},
	{"internal/suite", "internal/doctor"},
	{"internal/testkit"},
	{"internal/testkit/ports", "test/netns"},
	{"internal/embedded/redis", "internal/embedded/search"},
	{"internal/api", "internal/worker", "internal/proxy", "internal/indexer", "internal/bridge"},
	{"internal/ingest", "internal/fanout", "internal/maintain"},
	{"internal/journal", "internal/checkpoint", "internal/profile", "internal/presence", "internal/archive", "internal/auth"},
	{"internal/rdb", "internal/health"},
	{"internal/status"},
	{"internal/mdp", "internal/clone"},
	{"internal/pirate"},
	{"internal/rules", "internal/keyring"},
	{"internal/zmq", "internal/socketio"},
	{"internal/retry", "internal/telemetry", "internal/quiet", "internal/wal"},
	{"internal/run"},
	{"internal/config"},
	{"internal/event"},
	{"internal/fault"},
}

// exceptions are imports within a line that are meant.
var exceptions = map[string][]string{
	"bench": {"test/harness"},
}

// homes names the packages that may import a third-party module.
var homes = map[string][]string{
	"github.com/go-zeromq/zmq4":            {"internal/zmq"},
	"github.com/googollee/go-socket.io":    {"internal/socketio"},
	"github.com/elastic/go-elasticsearch":  {"internal/archive"},
	"github.com/golang-jwt/jwt":            {"internal/auth"},
	"github.com/go-chi/chi":                {"internal/api"},
	"github.com/redis/go-redis":            {"internal/rdb", "internal/journal", "internal/checkpoint", "internal/profile", "internal/auth", "internal/presence"},
	"github.com/alicebob/miniredis":        {"internal/embedded/redis"},
	"modernc.org/sqlite":                   {"internal/embedded/search"},
	"github.com/expr-lang/expr":            {"internal/rules"},
	"github.com/goccy/go-yaml":             {"internal/rules"},
	"github.com/spf13/cobra":               {"cmd/eventspine"},
	"github.com/cactus/go-statsd-client":   {"internal/telemetry"},
	"github.com/cenkalti/backoff":          {"internal/retry"},
	"github.com/caarlos0/env":              {"internal/config"},
	"golang.org/x/sys":                     {"internal/run", "test/netns"},
	"github.com/prometheus/client_golang/": nil, // anywhere
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "eventspine/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, "eventspine/")
		all = append(all, p)
	}
}

// home is the listed package that contains path, such as internal/zmq for internal/zmq/zmtp.
func home(path string) (string, int) {
	for i, line := range layers {
		for _, name := range line {
			if path == name || strings.HasPrefix(path, name+"/") {
				return name, i
			}
		}
	}
	return "", -1
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		from, level := home(p.ImportPath)
		if strings.HasPrefix(p.ImportPath, "test/") && from == "" {
			continue
		}
		if from == "" {
			t.Errorf("%s is in no layer; add it to the table", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			i, ours := strings.CutPrefix(i, "eventspine/")
			to, below := home(i)
			if !ours || to == from || slices.Contains(exceptions[from], to) {
				continue
			}
			if below <= level {
				t.Errorf("%s imports %s, which is not below it", p.ImportPath, i)
			}
		}
	}
}

func TestLibrariesHaveOneHome(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			for module, allowed := range homes {
				if allowed == nil || !strings.HasPrefix(i, module) {
					continue
				}
				if from, _ := home(p.ImportPath); !slices.Contains(allowed, from) {
					t.Errorf("%s imports %s, whose home is %v", p.ImportPath, i, allowed)
				}
			}
		}
	}
}
