package indexer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/archive"
	"eventspine/internal/checkpoint"
	"eventspine/internal/embedded/search"
	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
	"eventspine/internal/zmq"
)

// world is what an indexer works with: a Redis with a journal, a publisher in the place of worker and
// proxy, and an Elasticsearch that is there or not.
type world struct {
	t       *testing.T
	config  Config
	pub     *zmq.Socket
	journal *journal.Journal
	redis   rdb.Client
	archive *archive.Archive
	n       int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pub: zmq.New(zmq.XPub, zmq.Options{})}
	at, err := w.pub.Bind(t.Context(), "tcp://127.0.0.1:0")
	must(t, err)
	var proxy sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	proxy.Go(func() { // as the proxy does
		for m, err := w.pub.Recv(ctx); err == nil; m, err = w.pub.Recv(ctx) {
			if answer, _ := fanout.Welcome(m); answer != nil {
				_ = w.pub.TrySend(answer) // only a closed socket does not take it
			}
		}
	})
	c := DefaultConfig()
	c.Health, c.Metrics, c.Proxies, c.ESHosts = "tcp://127.0.0.1:0", "127.0.0.1:0", []string{at}, []string{testkit.FreeAddr(t)}
	c.Flush, c.SpoolAfter, c.RedisURL, c.SpoolDir, c.SpoolFree = 20*time.Millisecond, 100*time.Millisecond, testkit.Miniredis(t), t.TempDir(), 0
	c.Retention = 0 // the events here are old
	w.config = c
	w.redis, err = rdb.Open(c.RedisURL)
	must(t, err)
	w.journal = journal.New(w.redis, journal.Options{})
	w.archive, err = archive.New(archive.Options{URLs: c.ESHosts})
	must(t, err)
	t.Cleanup(func() {
		stop()
		proxy.Wait()
		w.archive.Close()
		http.DefaultClient.CloseIdleConnections()
		must(t, errors.Join(w.redis.Close(), w.pub.Close(context.WithoutCancel(t.Context()))))
	})
	return w
}

// node is a running indexer.
type node struct {
	deps  *Deps
	stop  context.CancelFunc
	ended chan error
}

// start starts an indexer in dir, which stop ends.
func (w *world) start(dir string) *node {
	w.t.Helper()
	c := w.config
	if dir != "" {
		c.SpoolDir = dir
	}
	deps, err := Open(w.t.Context(), c)
	must(w.t, err)
	ctx, stop := context.WithCancel(w.t.Context())
	n := &node{deps: deps, stop: stop, ended: make(chan error, 1)}
	go func() { n.ended <- Run(ctx, c, n.deps) }()
	w.t.Cleanup(stop)
	return n
}

func (w *world) end(n *node) {
	w.t.Helper()
	n.stop()
	must(w.t, <-n.ended)
}

func (w *world) elasticsearch(dir string) *search.Server {
	w.t.Helper()
	s, err := search.Start(w.t.Context(), search.Options{Dir: dir, Addr: w.config.ESHosts[0]})
	must(w.t, err)
	return s
}

// store stores n events and publishes those for which publish says so.
func (w *world) store(n int, publish bool) {
	w.t.Helper()
	entries := make([]journal.Entry, n)
	for i := range entries {
		w.n++
		id := fmt.Sprint("e", w.n)
		raw := fmt.Sprintf(`{"id":%q,"type":"order.created","userId":"u%d","timestamp":%d,"data":{"n":%d}}`, id, w.n%50, 1_700_000_000_000+w.n, w.n)
		entries[i] = journal.Entry{Event: event.Event{ID: id, UserID: fmt.Sprint("u", w.n%50), Raw: []byte(raw)}}
	}
	stored, err := w.journal.Append(w.t.Context(), entries)
	must(w.t, err)
	for _, s := range stored {
		if publish {
			must(w.t, w.pub.Send(w.t.Context(), zmq.Msg{append([]byte("order.created.42 "), s.Raw...)}))
		}
	}
}

// mark publishes where every partition ends.
func (w *world) mark() {
	w.t.Helper()
	for p := range w.config.Partitions {
		seq, epoch, err := w.journal.Head(w.t.Context(), p)
		must(w.t, err)
		must(w.t, w.pub.Send(w.t.Context(), zmq.Msg{fmt.Appendf(nil, `_mark.%d {"seq":%d,"epoch":%d}`, p, seq, epoch)}))
	}
}

func (w *world) count() int {
	c, err := w.archive.Count(w.t.Context(), archive.Query{AnyUser: true})
	if err != nil {
		return -1
	}
	return int(c)
}

// indexed waits until the index holds every event that was stored, once.
func (w *world) indexed(what string) {
	w.t.Helper()
	eventually(w.t, what, func() bool { return w.count() == w.n }, func() string { return fmt.Sprintf("%d of %d", w.count(), w.n) })
}

func (n *node) ready(t *testing.T) string {
	t.Helper()
	res, err := http.Get("http://" + n.deps.Metrics() + "/readyz")
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return fmt.Sprint(res.StatusCode, " ", string(b))
}

func (n *node) isReady(t *testing.T) {
	t.Helper()
	eventually(t, "the subscription", func() bool { return n.deps.follow.Ready() == nil })
}

func eventually(t *testing.T, what string, ok func() bool, say ...func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			for _, s := range say {
				what += ", " + s()
			}
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestNothingIsMissed: Elasticsearch comes late, goes and comes back without its data; the indexer
// ends meanwhile and starts again; events are stored while it is away, and the wire loses some.
func TestNothingIsMissed(t *testing.T) {
	w := newWorld(t)
	w.store(40, false) // before anybody is there
	n := w.start("")
	if got := n.ready(t); !strings.HasPrefix(got, "503") || !strings.Contains(got, "elasticsearch") {
		t.Errorf("without Elasticsearch: %s", got)
	}
	n.isReady(t)
	w.store(250, true)
	w.mark()
	spooled := func() float64 { return testutil.ToFloat64(n.deps.m.spooled) }
	eventually(t, "the spool", func() bool { return spooled() >= 290 })

	w.end(n) // Elasticsearch never came
	w.store(30, true)
	n = w.start("")
	first := w.elasticsearch(t.TempDir())
	n.isReady(t)
	w.indexed("what was stored before it started")
	if got := n.ready(t); !strings.HasPrefix(got, "200") {
		t.Errorf("with everything there: %s", got)
	}
	w.store(20, true)
	w.store(5, false)
	w.store(20, true)
	w.store(5, false)
	w.mark()
	w.indexed("what the wire lost")

	must(t, first.Close())
	before := testutil.ToFloat64(n.deps.m.retries) // it was started before Elasticsearch
	w.store(50, true)
	eventually(t, "the failure", func() bool { return testutil.ToFloat64(n.deps.m.retries) > before })
	w.n = 50
	second := w.elasticsearch(t.TempDir()) // without its data
	defer func() { must(t, second.Close()) }()
	w.indexed("the events of the outage")
	if ok, err := w.archive.Prepared(t.Context()); !ok || err != nil {
		t.Errorf("the template was not installed again: %v, %v", ok, err)
	}
	w.end(n)
	shared, err := checkpoint.New(w.redis, "indexer").Load(t.Context())
	must(t, err)
	state, err := checkpoint.ReadFile(filepath.Join(w.config.SpoolDir, checkpointing))
	must(t, err)
	for p := range w.config.Partitions {
		seq, epoch, err := w.journal.Head(t.Context(), p)
		must(t, err)
		want := checkpoint.Position{Seq: seq, Epoch: epoch}
		if got := shared[p]; got != want && seq != epoch {
			t.Errorf("the checkpoint of partition %d is %v in Redis, the journal ends at %v", p, got, want)
		}
		if state.Positions[p] != shared[p] {
			t.Errorf("the checkpoint of partition %d is %v on disk and %v in Redis", p, state.Positions[p], shared[p])
		}
	}
}

// TestTwoIndexersSideBySide follow the same events into the same index.
func TestTwoIndexersSideBySide(t *testing.T) {
	w := newWorld(t)
	es := w.elasticsearch(t.TempDir())
	defer func() { must(t, es.Close()) }()
	a, b := w.start(t.TempDir()), w.start(t.TempDir())
	a.isReady(t)
	b.isReady(t)
	w.store(500, true)
	w.indexed("by both")
	w.end(b)
	w.store(100, true)
	w.indexed("by one")
	w.end(a)
	w.store(100, true)
	c := w.start(t.TempDir()) // a new one, with nothing but the checkpoint in Redis
	c.isReady(t)
	w.indexed("by the next")
	if got := testutil.ToFloat64(c.deps.m.received); got != 100 {
		t.Errorf("it began %v events before the end, want 100", got)
	}
	w.end(c)
}

// TestEndsInTimeWithoutElasticsearch: what cannot be indexed is on disk, and indexed at the next start,
// also when Redis has forgotten everything by then.
func TestEndsInTimeWithoutElasticsearch(t *testing.T) {
	w := newWorld(t)
	n := w.start("")
	n.isReady(t)
	w.store(10, true)
	eventually(t, "the events", func() bool { return testutil.ToFloat64(n.deps.m.received) == 10 })
	start := time.Now()
	w.end(n)
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("it took %v to end", d)
	}
	must(t, w.redis.FlushAll(t.Context()).Err())
	es := w.elasticsearch(t.TempDir())
	defer func() { must(t, es.Close()) }()
	n = w.start("")
	n.isReady(t)
	w.journal = journal.New(w.redis, journal.Options{})
	w.store(10, true)
	w.indexed("both epochs")
	w.end(n)
}

// Whatever is wrong with the directory or the checkpoint is one line that says what to do, and
// nothing is overwritten.
func TestBadDirectories(t *testing.T) {
	w := newWorld(t)
	open := func() error {
		d, err := Open(t.Context(), w.config)
		if err == nil {
			return errors.Join(errors.New("it was opened"), d.close(t.Context()))
		}
		return err
	}
	check := func(want string) {
		t.Helper()
		err := open()
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want one line with %q, got %v", want, err)
		}
	}
	d, err := Open(t.Context(), w.config)
	must(t, err)
	check(w.config.SpoolDir) // in use
	must(t, d.health.Run(ended(), nil...))
	must(t, d.close(t.Context()))
	foreign := filepath.Join(w.config.SpoolDir, "spool", "notes.txt")
	must(t, os.WriteFile(foreign, []byte("mine"), 0o600))
	check("notes.txt")
	must(t, os.Remove(foreign))
	file := filepath.Join(w.config.SpoolDir, checkpointing)
	must(t, os.WriteFile(file, []byte("eventspine-checkpoint 9 0\n{}"), 0o600))
	check("version")
	text, err := os.ReadFile(file)
	if must(t, err); string(text) != "eventspine-checkpoint 9 0\n{}" {
		t.Errorf("the file is now %q", text)
	}
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// fixedHeads is a journal that ends where a test says.
type fixedHeads struct{ seq, epoch uint64 }

func (f fixedHeads) Head(context.Context, int) (seq, epoch uint64, err error) {
	return f.seq, f.epoch, nil
}

// A checkpoint that is ahead of the journal belongs to another Redis, unless Redis lost its end.
func TestACheckpointOfAnotherRedis(t *testing.T) {
	w := newWorld(t)
	store := checkpoint.New(w.redis, "indexer")
	must(t, store.Save(t.Context(), checkpoint.Set{3: {Seq: 1000, Epoch: 900}}))
	for name, c := range map[string]struct {
		heads      fixedHeads
		partitions int
		want       string
	}{
		"behind":           {fixedHeads{2000, 900}, 16, ""},
		"at the end":       {fixedHeads{1000, 900}, 16, ""},
		"rolled back":      {fixedHeads{950, 900}, 16, ""},
		"a new epoch":      {fixedHeads{1500, 1500}, 16, ""},
		"another Redis":    {fixedHeads{500, 400}, 16, "names another Redis"},
		"fewer partitions": {fixedHeads{2000, 900}, 3, "PARTITIONS"},
	} {
		k := &keeper{store: store, dir: "/some/dir"}
		err := k.fits(t.Context(), checkpoint.Set{3: {Seq: 1000, Epoch: 900}}, c.heads, c.partitions)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || fault.KindOf(err) != fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
