// Package harness starts the whole system as a user would: the five programs built from
// this tree, each in its own process, on loopback ports of their own, against a real Redis
// and a real Elasticsearch or the embedded ones. Tests and benchmarks share it.
package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"eventspine/internal/auth"
	embeddedredis "eventspine/internal/embedded/redis"
	embeddedsearch "eventspine/internal/embedded/search"
	"eventspine/internal/testkit/ports"
)

// Secret signs the tokens of a test system.
const Secret = "a-secret-for-tests-only-0123456789"

// Token is a bearer token of the test system for a user with these scopes.
func Token(user string, scopes ...string) string { return sign(Secret, user, scopes) }

func sign(secret, user string, scopes []string) string {
	t, err := auth.Sign(secret, auth.Claims{Subject: user, Scopes: scopes, TTL: time.Hour})
	if err != nil {
		panic(err) // the secret of a system that runs is long enough
	}
	return t
}

// Options say what to start.
type Options struct {
	Bin     string                     // directory of the built programs, as Build made it
	Dir     string                     // for logs and data; must exist
	Workers int                        // 0 means 1
	Proxies int                        // 0 means 1
	Redis   string                     // URL; empty: the embedded one
	ES      string                     // URL; empty: the embedded one
	Curve   bool                       // every process has a key and the list of all, made by eventspine keygen
	Env     []string                   // NAME=VALUE for every process
	EnvOf   func(name string) []string // more of them for one; nil: none

	Place func(name string) Place // where a process runs; nil: all here

	Launch func(*System, []*Process) error // calls Start of each, in an order of its own; nil: downstream first
}

// Place is where a process runs. The zero value is here, on loopback.
type Place struct {
	Host  string                // its IPv4 address
	Start func(*exec.Cmd) error // starts a command there
}

func (p Place) host() string { return cmp.Or(p.Host, "127.0.0.1") }

// System is a running set of processes. The slices are in the order of the data path.
type System struct {
	API, Indexer, Bridge *Process
	Workers, Proxies     []*Process
	Redis, ES            string // their URLs
	APIURL, BridgeURL    string
	WorkerEndpoints      []string
	XSub, XPub, Control  []string          // one of each for each proxy
	Clone                []string          // the first proxy's, for live rules: snapshots, updates, changes
	Ready                map[string]string // /readyz by process name
	Ping                 map[string]string // health endpoint by process name
	Secret               string            // signs its tokens; empty: the constant Secret
	Keys                 string            // directory of the keys, NAME.key of each process and operator.key, and of the list, peers; empty: no CURVE

	ports   []int
	place   func(name string) Place
	closers []func() error
}

// Token is a bearer token of this system for a user with these scopes.
func (s *System) Token(user string, scopes ...string) string {
	return sign(cmp.Or(s.Secret, Secret), user, scopes)
}

// Build compiles the programs into dir. race adds the race detector.
func Build(ctx context.Context, dir string, race bool) error {
	root, err := Root()
	if err != nil {
		return err
	}
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/...")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// Root is the directory of go.mod.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Start starts everything and waits until every service says that it is ready. On an error
// nothing is left running, and the error holds the end of each log.
func Start(ctx context.Context, o Options) (*System, error) {
	s, err := StartOnly(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.AllReady(ctx, 30*time.Second); err != nil {
		return nil, errors.Join(err, s.Logs(), s.Stop())
	}
	return s, nil
}

// StartOnly starts everything and does not wait.
func StartOnly(ctx context.Context, o Options) (*System, error) {
	s := &System{Redis: o.Redis, ES: o.ES, Ready: map[string]string{}, Ping: map[string]string{}}
	if err := s.start(ctx, o); err != nil {
		return nil, errors.Join(err, s.Logs(), s.Stop())
	}
	return s, nil
}

func (s *System) start(ctx context.Context, o Options) error {
	if err := s.servers(ctx, o); err != nil {
		return err
	}
	if s.place = o.Place; s.place == nil {
		s.place = func(string) Place { return Place{} }
	}
	workers, proxies := max(o.Workers, 1), max(o.Proxies, 1)
	var err error
	if s.ports, err = ports.Free(3 + 2 + workers + 3*proxies + 2*(3+workers+proxies)); err != nil {
		return err
	}
	for i := range proxies {
		at := nameOf("proxy", i)
		s.XSub, s.XPub, s.Control = append(s.XSub, s.endpoint(at)), append(s.XPub, s.endpoint(at)), append(s.Control, s.endpoint(at))
	}
	first := nameOf("proxy", 0)
	s.Clone = []string{s.endpoint(first), s.endpoint(first), s.endpoint(first)}
	for i := range workers {
		s.WorkerEndpoints = append(s.WorkerEndpoints, s.endpoint(nameOf("worker", i)))
	}
	s.APIURL, s.BridgeURL = "http://"+s.address("api-1"), "http://"+s.address("bridge-1")
	if err := s.settle(ctx, o); err != nil {
		return err
	}
	return s.launch(o)
}

// servers starts the embedded servers where no real one was given.
func (s *System) servers(ctx context.Context, o Options) error {
	if s.Redis == "" {
		r, err := embeddedredis.Start(ctx)
		if err != nil {
			return err
		}
		s.Redis, s.closers = r.URL(), append(s.closers, func() error { r.Close(); return nil })
	}
	if s.ES == "" {
		e, err := embeddedsearch.Start(ctx, embeddedsearch.Options{Dir: filepath.Join(o.Dir, "index")})
		if err != nil {
			return err
		}
		s.ES, s.closers = e.URL(), append(s.closers, e.Close)
	}
	return nil
}

// places are the names of the processes, and the ZeroMQ endpoints where each listens.
func (s *System) places() (names []string, at map[string][]string) {
	at = map[string][]string{"api-1": nil, "indexer-1": nil, "bridge-1": nil}
	for i, endpoint := range s.WorkerEndpoints {
		at[nameOf("worker", i)] = []string{endpoint}
	}
	for i := range s.XSub {
		at[nameOf("proxy", i)] = []string{s.XSub[i], s.XPub[i], s.Control[i]}
	}
	at["proxy-1"] = append(at["proxy-1"], s.Clone...)
	return slices.Sorted(maps.Keys(at)), at
}

// settle chooses the ports that every process has, and makes the keys.
func (s *System) settle(ctx context.Context, o Options) error {
	names, at := s.places()
	for _, name := range names {
		s.Ready[name], s.Ping[name] = "http://"+s.address(name), s.endpoint(name)
	}
	if !o.Curve {
		return nil
	}
	s.Keys = filepath.Join(o.Dir, "keys")
	args := []string{"keygen", "--dir", s.Keys, "operator"}
	for _, name := range names {
		args = append(args, name+"="+strings.Join(append(at[name], s.Ping[name]), ","))
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(o.Bin, "eventspine"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("keygen: %w\n%s", err, out)
	}
	return nil
}

func (s *System) launch(o Options) error {
	var all []*Process
	add := func(program, name string, env ...string) *Process {
		env = append(env, "INSTANCE_ID="+name, "METRICS_ADDR="+strings.TrimPrefix(s.Ready[name], "http://"), "ZMQ_HEALTH="+s.Ping[name],
			"REDIS_URL="+s.Redis, "ES_HOST="+s.ES, "JWT_SECRET="+Secret,
			"ZMQ_PROCESSING_HOST="+strings.Join(s.WorkerEndpoints, ","), "ZMQ_PROXY_XSUB="+strings.Join(s.XSub, ","), "ZMQ_PROXY_XPUB="+strings.Join(s.XPub, ","),
			"ZMQ_CONTROL="+strings.Join(s.Control, ","), "ZMQ_CLONE="+strings.Join(s.Clone, ","))
		if s.Keys != "" {
			env = append(env, "CURVE_KEY_FILE="+filepath.Join(s.Keys, name+".key"), "CURVE_PEERS_FILE="+filepath.Join(s.Keys, "peers"))
		}
		env = append(env, o.Env...)
		if o.EnvOf != nil {
			env = append(env, o.EnvOf(name)...)
		}
		p := prepare(name, o.Dir, env, filepath.Join(o.Bin, program))
		p.place = s.place(name)
		all = append(all, p)
		return p
	}
	for i := range s.XSub {
		at := []string{"", "", ""}
		if i == 0 {
			at = s.Clone
		}
		s.Proxies = append(s.Proxies, add("proxy", nameOf("proxy", i), "ZMQ_PROXY_XSUB_BIND="+s.XSub[i], "ZMQ_PROXY_XPUB_BIND="+s.XPub[i],
			"ZMQ_CONTROL_BIND="+s.Control[i], "PROXY_DATA_DIR="+o.Dir,
			"ZMQ_CLONE_SNAPSHOT_BIND="+at[0], "ZMQ_CLONE_UPDATES_BIND="+at[1], "ZMQ_CLONE_CHANGES_BIND="+at[2]))
	}
	s.Indexer = add("indexer", "indexer-1", "INDEXER_SPOOL_DIR="+filepath.Join(o.Dir, "indexer-1"),
		"INDEXER_RETENTION=0s") // several systems share an Elasticsearch, and the events of tests are of any day
	s.Bridge = add("bridge", "bridge-1", "BRIDGE_ADDR="+strings.TrimPrefix(s.BridgeURL, "http://"))
	for i, at := range s.WorkerEndpoints {
		s.Workers = append(s.Workers, add("worker", nameOf("worker", i), "ZMQ_PROCESSING_BIND="+at))
	}
	s.API = add("api", "api-1", "API_ADDR="+strings.TrimPrefix(s.APIURL, "http://"), "API_WAL_DIR="+filepath.Join(o.Dir, "api-1"))
	if o.Launch != nil {
		return o.Launch(s, all)
	}
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

// address is one at which the process may listen.
func (s *System) address(name string) string {
	p := s.ports[0]
	s.ports = s.ports[1:]
	return fmt.Sprintf("%s:%d", s.place(name).host(), p)
}

func (s *System) endpoint(name string) string { return "tcp://" + s.address(name) }

// nameOf is the name of the process number i, from 0.
func nameOf(program string, i int) string { return fmt.Sprintf("%s-%d", program, i+1) }

// AllReady waits until every service's /readyz says yes.
func (s *System) AllReady(ctx context.Context, limit time.Duration) error {
	return Until(ctx, limit, func() error {
		for _, p := range s.Processes() {
			if !p.Running() {
				return fmt.Errorf("%s ended: %w", p.Name, p.ended())
			}
			if err := OK(s.Ready[p.Name] + "/readyz"); err != nil {
				return err
			}
		}
		return nil
	})
}

// Processes lists what runs, upstream first: the order in which to stop.
func (s *System) Processes() []*Process {
	all := append([]*Process{s.API}, s.Workers...)
	all = append(append(all, s.Proxies...), s.Indexer, s.Bridge)
	out := all[:0]
	for _, p := range all {
		if p != nil && p.cmd != nil {
			out = append(out, p)
		}
	}
	return out
}

// Stop ends everything, upstream first, and reports whatever did not end cleanly.
func (s *System) Stop() error {
	var errs []error
	for _, p := range s.Processes() {
		errs = append(errs, p.Stop(15*time.Second))
	}
	for _, c := range s.closers {
		errs = append(errs, c())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Logs is the end of every process's log, as an error to be joined to what went wrong.
func (s *System) Logs() error {
	var b strings.Builder
	for _, p := range s.Processes() {
		text, err := os.ReadFile(p.Log)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "\n--- %s\n%s", p.Name, text[max(0, len(text)-3000):])
	}
	return errors.New(b.String())
}
