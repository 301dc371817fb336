package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"eventspine/test/harness"
	"eventspine/test/netns"
)

// Options say what a run needs. Elasticsearch is a real one that is there already; a run in a network
// of its own has one of its own, as the other is out of reach there.
type Options struct {
	Bin  string // directory of the built programs
	Dir  string // for logs and data; must exist
	ES   string // URL
	Plan Plan
	Rate float64 // events a second
	// Users is how many users there are, each with a browser.
	Users int
	Env   []string         // further NAME=VALUE for every process
	Apart bool             // machines with addresses of their own, as netns has them, instead of links: netns.Rerun comes first
	Say   func(string)     // told what happens
	Clock func() time.Time // nil: time.Now
}

const (
	lossRate = 0.01
	lossyOf  = 5 // packets in a hundred

	narrowRate = 50_000_000 / 8        // bytes a second
	slowness   = 30 * time.Millisecond // of each piece on a slow link, of each packet where they are late
	unevenness = 10 * time.Millisecond // of those packets
	diskSize   = "512m"
)

// machines are those of a run that has a network of its own, with the addresses that a deployment has. The
// load and the browsers are on outside.
var machines = []struct {
	name, host string
	runs       []string
}{
	{"outside", "10.0.1.1", nil},
	{"api", "10.0.1.10", []string{"api-1"}},
	{"processing", "10.0.1.20", []string{"redis", "proxy-1", "worker-1"}},
	{"worker", "10.0.1.21", []string{"worker-2"}},
	{"delivery", "10.0.1.30", []string{"elasticsearch", "indexer-1", "bridge-1"}},
}

// world is the system with links in its ways, its Redis, and its disk.
type world struct {
	o     Options
	sys   *harness.System
	redis *harness.Process
	direct,
	redisDir string
	search  *harness.Search // an Elasticsearch of the run's own; nil: another's
	links   map[string][]*link
	net     *netns.Net               // nil: all is on loopback
	places  map[string]harness.Place // by process
	ends    map[string][]netns.Match // of each link
	disk    string                   // where the logs are; empty: no disk of their own
	mounted bool

	mu   sync.Mutex
	down map[string]bool // processes that are meant to be down
}

// start starts everything and waits until all is ready.
func start(ctx context.Context, o Options) (*world, error) {
	w := &world{o: o, links: map[string][]*link{}, down: map[string]bool{}, redisDir: filepath.Join(o.Dir, "redis")}
	if err := w.start(ctx); err != nil {
		return nil, errors.Join(err, w.stop())
	}
	return w, nil
}

func (w *world) start(ctx context.Context) error {
	if err := os.MkdirAll(w.redisDir, 0o700); err != nil {
		return err
	}
	if err := w.plug(ctx); err != nil {
		return err
	}
	var err error
	w.redis, w.direct, err = harness.RedisIn(ctx, w.places["redis"], w.redisDir, "--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0", "--aof-load-truncated", "yes")
	if err != nil {
		return err
	}
	if w.o.Plan.has(Search) || w.o.Apart {
		if w.search, err = harness.StartSearch(ctx, w.places["elasticsearch"], w.o.Dir); err != nil {
			return err
		}
		w.o.ES = w.search.URL
	}
	if err := w.mount(ctx); err != nil {
		return err
	}
	o := harness.Options{Bin: w.o.Bin, Dir: w.o.Dir, Workers: 2, Redis: w.direct, ES: w.o.ES,
		EnvOf: func(name string) []string { return []string{clockEnv + "=" + w.clock(name)} },
		Place: func(name string) harness.Place { return w.places[name] }}
	if !w.o.Apart {
		if err := w.link(&o); err != nil {
			return err
		}
	}
	o.Env = append(o.Env, w.o.Env...)
	for name, dir := range map[string]string{"API_WAL_DIR": "api-1", "INDEXER_SPOOL_DIR": "indexer-1"} {
		o.Env = append(o.Env, name+"="+filepath.Join(w.disk, dir))
	}
	for _, name := range services {
		if err := w.step(name, 0); err != nil {
			return err
		}
	}
	if w.sys, err = harness.StartOnly(ctx, o); err != nil {
		return err
	}
	w.settleLinks()
	if err := w.sys.AllReady(ctx, time.Minute); err != nil {
		return errors.Join(err, w.sys.Logs())
	}
	return nil
}

// plug makes the machines, where the run has a network of its own.
func (w *world) plug(ctx context.Context) (err error) {
	if !w.o.Apart {
		return nil
	}
	w.places = map[string]harness.Place{}
	for _, m := range machines {
		if len(m.runs) == 0 {
			if w.net, err = netns.NewNet(ctx, m.host); err != nil {
				return err
			}
			continue
		}
		machine, err := w.net.Machine(ctx, m.host)
		if err != nil {
			return err
		}
		for _, name := range m.runs {
			w.places[name] = harness.Place{Host: m.host, Start: machine.Start}
		}
	}
	return nil
}

// link puts links in the ways of all processes.
func (w *world) link(o *harness.Options) error {
	for i, name := range []string{linkWork, linkWork, linkPub, linkSub, linkRedis, linkSearch} {
		l, err := newLink(name == linkSub, w.o.Plan.Seed+uint64(i))
		if err != nil {
			return err
		}
		w.links[name] = append(w.links[name], l)
	}
	w.links[linkRedis][0].to(hostOf(w.direct))
	w.links[linkSearch][0].to(hostOf(w.o.ES))
	at := func(name string) string { return w.links[name][0].addr() }
	o.Redis, o.ES = "redis://"+at(linkRedis)+"/0", "http://"+at(linkSearch)
	o.Env = append(o.Env, "ZMQ_PROCESSING_HOST=tcp://"+at(linkWork)+",tcp://"+w.links[linkWork][1].addr(),
		"ZMQ_PROXY_XSUB=tcp://"+at(linkPub), "ZMQ_PROXY_XPUB=tcp://"+at(linkSub))
	return nil
}

// settleLinks says where the links lead.
func (w *world) settleLinks() {
	to := map[string][]string{linkWork: w.sys.WorkerEndpoints, linkPub: w.sys.XSub, linkSub: w.sys.XPub, linkRedis: {w.direct}, linkSearch: {w.o.ES}}
	w.ends = map[string][]netns.Match{}
	for name, urls := range to {
		for i, u := range urls {
			if !w.o.Apart {
				w.links[name][i].to(hostOf(u))
				continue
			}
			at, err := netip.ParseAddrPort(hostOf(u))
			if err == nil { // the harness made it
				w.ends[name] = append(w.ends[name], netns.Match{Host: at.Addr().String(), Port: int(at.Port())})
			}
		}
	}
	for _, m := range machines {
		w.ends[m.name] = []netns.Match{{Host: m.host}}
	}
}

// hostOf is the host:port of a URL.
func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// mount gives the logs a small disk of their own, where that is allowed.
func (w *world) mount(ctx context.Context) error {
	w.disk = filepath.Join(w.o.Dir, "disk")
	if err := os.MkdirAll(w.disk, 0o700); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return nil
	}
	out, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "mode=0700,size="+diskSize, "chaos", w.disk).CombinedOutput()
	w.mounted = err == nil
	if err != nil {
		w.o.Say(fmt.Sprintf("no disk of its own for the logs: %v %s", err, out))
	}
	return nil
}

func (w *world) stop() error {
	var errs []error
	if w.sys != nil {
		errs = append(errs, w.sys.Stop())
	}
	for _, ls := range w.links {
		for _, l := range ls {
			_ = l.Close()
		}
	}
	if w.redis != nil {
		_ = w.redis.Stop(5 * time.Second)
	}
	if w.search != nil {
		errs = append(errs, w.search.Close())
	}
	if w.net != nil {
		errs = append(errs, w.net.Close())
	}
	if w.mounted {
		out, err := exec.CommandContext(context.Background(), "umount", w.disk).CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("umount: %w %s", err, out))
		}
	}
	return errors.Join(errs...)
}

func (w *world) process(name string) *harness.Process {
	for _, p := range w.sys.Processes() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// supervise starts again what ended by itself, as a supervisor does, until the context ends.
func (w *world) supervise(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, 500*time.Millisecond)
		w.mu.Lock()
		for _, p := range w.sys.Processes() {
			if ctx.Err() == nil && !w.down[p.Name] && !p.Running() {
				w.o.Say(p.Name + " ended by itself and is started again")
				if err := p.Start(); err != nil {
					w.o.Say(err.Error())
				}
			}
		}
		w.mu.Unlock()
	}
}

// do does one fault from its beginning to its end.
func (w *world) do(ctx context.Context, f Fault, l *load) error {
	switch f.Kind {
	case Kill, Restart:
		return w.kill(ctx, f)
	case Hurry:
		return w.hurry(ctx, f)
	case Ahead, Back:
		return w.misset(ctx, f)
	case Burst:
		l.factor.Store(4)
		defer l.factor.Store(1)
		return w.kill(ctx, f)
	case Stop:
		return w.freeze(ctx, f)
	case Redis, Rollback:
		return w.killRedis(ctx, f)
	case Flush:
		out, err := exec.CommandContext(ctx, "redis-cli", "-u", w.direct, "FLUSHALL").CombinedOutput()
		if err != nil {
			return fmt.Errorf("FLUSHALL: %w %s", err, out)
		}
		return nil
	case Search:
		if err := w.search.Kill(); err != nil {
			return err
		}
		pause(ctx, f.For)
		return w.search.Start()
	case Full:
		return w.fill(ctx, f.For)
	case Hole, Lossy, Late, Narrow:
		return w.harmPackets(ctx, f)
	default:
		return w.harm(ctx, f)
	}
}

func (w *world) kill(ctx context.Context, f Fault) error {
	var errs []error
	w.mu.Lock()
	for _, name := range f.Targets {
		w.down[name] = true
		p := w.process(name)
		switch {
		case !p.Running():
		case f.Kind == Restart:
			errs = append(errs, p.Stop(20*time.Second))
		default:
			errs = append(errs, p.Signal(syscall.SIGKILL))
		}
	}
	w.mu.Unlock()
	pause(ctx, f.For)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range f.Targets {
		w.down[name] = false
		errs = append(errs, w.process(name).Start())
	}
	return errors.Join(errs...)
}

// hurry ends a process as it should be, and once more while it starts: then by the signal itself,
// or with code 0 where it had come so far.
func (w *world) hurry(ctx context.Context, f Fault) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.process(f.Targets[0])
	err := p.Stop(20 * time.Second)
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		return err
	}
	pause(ctx, min(f.For, time.Second)/2)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	switch code, err := p.Wait(20 * time.Second); {
	case err != nil:
		return err
	case code > 0: // -1: by the signal
		return fmt.Errorf("%s ended with code %d when it was told to while it started", p.Name, code)
	}
	return p.Start()
}

func (w *world) freeze(ctx context.Context, f Fault) error {
	p := w.process(f.Targets[0])
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	pause(ctx, f.For)
	return p.Signal(syscall.SIGCONT)
}

// killRedis kills it, and starts it again with the file it wrote; for a rollback what it wrote
// in its last second is cut off first, in the middle of a command maybe.
func (w *world) killRedis(ctx context.Context, f Fault) error {
	size := map[string]int64{}
	if f.Kind == Rollback {
		for name, n := range w.appendOnly() {
			size[name] = n
		}
		pause(ctx, time.Second)
	}
	if err := w.redis.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	for name, n := range size {
		if err := os.Truncate(name, n); err != nil {
			return err
		}
	}
	pause(ctx, f.For)
	return w.redis.Start()
}

func (w *world) appendOnly() map[string]int64 {
	out := map[string]int64{}
	files, _ := filepath.Glob(filepath.Join(w.redisDir, "appendonlydir", "*.incr.aof")) // the pattern is good
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			out[f] = info.Size()
		}
	}
	return out
}

// fill leaves no room on the disk of the logs for a while.
func (w *world) fill(ctx context.Context, d time.Duration) error {
	if !w.mounted {
		w.o.Say("left out: there is no disk of its own to fill")
		return nil
	}
	name := filepath.Join(w.disk, "ballast")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	piece := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(piece)
	}
	_ = f.Close()
	pause(ctx, d)
	return os.Remove(name)
}

func (w *world) harm(ctx context.Context, f Fault) error {
	links := w.links[f.Targets[0]]
	if len(links) == 0 {
		return fmt.Errorf("%s needs a link, and this run has none", f.Kind)
	}
	for _, l := range links {
		switch f.Kind {
		case Cut:
			l.cut()
		case Slow:
			l.slow(slowness)
		case Break:
			l.sever()
		case Drop:
			l.drop(lossRate)
		default:
			return fmt.Errorf("nobody knows how to do %s", f.Kind)
		}
	}
	pause(ctx, f.For)
	for _, l := range links {
		l.heal()
	}
	return nil
}

// packetHarms says what each kind does to packets.
var packetHarms = map[Kind]netns.Harm{
	Hole:   {Lose: 100},
	Lossy:  {Lose: lossyOf},
	Late:   {Late: slowness, Jitter: unevenness},
	Narrow: {Rate: narrowRate},
}

// harmPackets does harm for a while to the packets of a link or of a machine, or to all.
func (w *world) harmPackets(ctx context.Context, f Fault) error {
	if w.net == nil {
		return fmt.Errorf("%s needs a network of the run's own", f.Kind)
	}
	var match []netns.Match
	for _, t := range f.Targets {
		match = append(match, w.ends[t]...)
	}
	if len(match) == 0 && len(f.Targets) > 0 {
		return fmt.Errorf("%s: nobody knows %v", f.Kind, f.Targets)
	}
	name, before := string(f.Kind), w.net.Lost()
	if err := w.net.Harm(name, packetHarms[f.Kind], match...); err != nil {
		return err
	}
	pause(ctx, f.For)
	w.net.Heal(name)
	if n := w.net.Lost() - before; n > 0 {
		w.o.Say(fmt.Sprintf("%d packets vanished", n))
	}
	return nil
}
