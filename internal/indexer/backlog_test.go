package indexer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/checkpoint"
	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/wal"
)

// newTestBacklog has a spool in dir that goes on from index done.
func newTestBacklog(t *testing.T, dir string, done uint64, maxBytes int, o wal.Options) (*backlog, spans) {
	t.Helper()
	o.Dir, o.MinFree = dir, -1
	spool, err := wal.Open(o)
	must(t, err)
	b, held, err := newBacklog(spool, done, maxBytes, 5*time.Second, newMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	must(t, err)
	return b, held
}

func closeBacklog(t *testing.T, b *backlog) {
	t.Helper()
	must(t, errors.Join(b.reader.Close(), b.spool.Close()))
}

func at(e event.Event, prev uint64) item { return item{event: e, prev: prev, at: time.Now()} }

func TestBacklogRipens(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b, _ := newTestBacklog(t, dir, 0, 1<<30, wal.Options{})
		defer closeBacklog(t, b)
		events := some(t, 2500)
		put := func(from, to int) {
			for i, e := range events[from:to] {
				must(t, b.put(t.Context(), at(e, uint64(from+i))))
			}
		}
		take := func(flush time.Duration) *batch {
			x := b.next(t.Context(), 100, flush)
			if x != nil {
				b.confirm(x)
			}
			return x
		}
		start := time.Now()
		go func() {
			<-time.After(300 * time.Millisecond) // simulated
			put(0, 1)
		}()
		if x := take(500 * time.Millisecond); len(x.items) != 1 || time.Since(start) != 800*time.Millisecond {
			t.Errorf("a lone event was ripe after %v, want 800ms", time.Since(start))
		}
		put(1, 101)
		start = time.Now()
		if x := take(500 * time.Millisecond); len(x.items) != 100 || time.Since(start) != 0 {
			t.Errorf("%d events after %v", len(x.items), time.Since(start))
		}
		put(101, 2500)
		for _, want := range []int{2000, 399} {
			if x := take(time.Millisecond); len(x.items) != want {
				t.Errorf("took %d events, want %d", len(x.items), want)
			}
		}
		put(0, 3)
		b.close()
		if x := take(time.Hour); len(x.items) != 3 {
			t.Errorf("%d events from a closed backlog", len(x.items))
		}
		if x := take(time.Hour); x != nil {
			t.Error("a closed and empty backlog has a batch")
		}
	})
}

// Memory is bounded, and whoever is held up by that is no snail.
func TestBacklogIsBounded(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		events := some(t, 4)
		one := at(events[0], 0)
		b, _ := newTestBacklog(t, dir, 0, 3*one.size()+5, wal.Options{})
		defer closeBacklog(t, b)
		for i, e := range events[:3] {
			if b.waited() {
				t.Error("there was room")
			}
			must(t, b.put(t.Context(), at(e, uint64(i))))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := b.put(ctx, at(events[3], 3)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a fourth event found room: %v", err)
		}
		cancel()
		if !b.waited() {
			t.Error("it is full")
		}
		ended := make(chan error)
		go func() { ended <- b.put(t.Context(), at(events[3], 3)) }()
		synctest.Wait()
		b.confirm(b.next(t.Context(), 1, 0))
		must(t, <-ended)
		b.confirm(b.next(t.Context(), 1, 0))
		if !b.waited() || b.waited() {
			t.Error("it was full once")
		}
		if n, bytes, _, _, _ := b.figures(); n != 0 || bytes != 0 {
			t.Errorf("%d events of %d bytes are left", n, bytes)
		}
	})
}

// An event goes to the disk when it has waited long, or memory is half full, and not before; the
// batches that hold it are given up.
func TestOldEventsMoveToTheSpool(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b, _ := newTestBacklog(t, dir, 0, 1<<20, wal.Options{})
		defer closeBacklog(t, b)
		ctx, stop := context.WithCancel(t.Context())
		moved := make(chan struct{})
		go func() { defer close(moved); b.move(ctx) }()
		events := some(t, 5000)
		must(t, b.put(ctx, at(events[0], 0)))
		x := b.next(ctx, 1, 0)
		<-time.After(4900 * time.Millisecond) // simulated
		must(t, b.put(ctx, at(events[1], 1)))
		synctest.Wait()
		if b.spool.End() != 1 || x.ctx.Err() != nil {
			t.Fatal("it was moved too soon")
		}
		<-time.After(150 * time.Millisecond) // simulated
		synctest.Wait()
		if n, _, spooled, _, _ := b.figures(); n != 0 || spooled != 2 || x.ctx.Err() == nil {
			t.Fatalf("after 5 s, %d events are in memory, %d in the spool", n, spooled)
		}
		b.confirm(x) // too late: it is the spool's now
		y := b.next(ctx, 1, 0)
		if len(y.items) != 2 || b.state().Positions[1].Seq != 0 {
			t.Errorf("a batch of %d; safe is %v", len(y.items), b.state())
		}
		b.confirm(y)
		if s := b.state(); s.Done != 3 || s.Positions[1] != (checkpoint.Position{Seq: 2, Epoch: 7}) {
			t.Errorf("safe is %+v", s)
		}
		size := 0
		for i := 2; size <= 1<<19; i++ {
			it := at(events[i], uint64(i))
			size += it.size()
			must(t, b.put(ctx, it))
		}
		synctest.Wait()
		if n, _, spooled, _, _ := b.figures(); n != 0 || spooled < 1000 {
			t.Errorf("half full, %d events are in memory, %d in the spool", n, spooled)
		}
		stop()
		<-moved
	})
}

// A spool that is full holds up the follower and not the way to Elasticsearch, and goes on by itself.
func TestAFullSpool(t *testing.T) {
	dir := t.TempDir()
	b, _ := newTestBacklog(t, dir, 0, 1<<20, wal.Options{MaxBytes: 256 << 10})
	defer closeBacklog(t, b)
	events := some(t, 5000)
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	n := 0
	for ; b.put(ctx, at(events[n], uint64(n))) == nil; n++ {
		if n%500 == 499 {
			_ = b.toSpool(t.Context()) // it says full below
		}
	}
	if _, _, spooled, full, _ := b.figures(); spooled == 0 || !full || !b.waited() || n == len(events) {
		t.Fatalf("after %d events %d are in the spool, full %v", n, spooled, full)
	}
	total := 0
	for total < n {
		x := b.next(t.Context(), 1, 0)
		total += len(x.items)
		b.confirm(x)
		b.spool.Trim(b.state().Done, time.Now())
	}
	if at := b.state().Positions[1].Seq; at != uint64(n) {
		t.Errorf("safe is %d of %d", at, n)
	}
	must(t, b.put(t.Context(), at(events[n], uint64(n))))
	must(t, b.toSpool(t.Context()))
	if _, _, _, full, _ := b.figures(); full {
		t.Error("it still says full")
	}
}

// TestNothingIsSkipped does what may happen in any order, with a crash now and then that loses memory
// and what was not saved: at each start, every event before the place where the follower goes on is
// confirmed or in the spool, and every position that was safe was so rightly.
func TestNothingIsSkipped(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &skipWorld{t: t, r: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), confirmed: map[[2]uint64]bool{}}
			for range 6 {
				w.life()
			}
		})
	}
}

type skipWorld struct {
	t         *testing.T
	r         *rand.Rand
	dir       string
	confirmed map[[2]uint64]bool
	saved     checkpoint.State
}

func (w *skipWorld) life() {
	t, ctx := w.t, w.t.Context()
	b, held := newTestBacklog(t, w.dir, w.saved.Done, 1<<20, wal.Options{SegmentBytes: 2 << 10, MaxBytes: 1 << 20})
	defer closeBacklog(t, b)
	b.known(w.saved.Positions)
	start := b.state().Positions
	held.onto(start)
	w.check(b, start)
	last := map[int]uint64{}
	for p := range 3 {
		last[p] = start[p].Seq
	}
	var flying []*batch
	for range 300 {
		switch k := w.r.IntN(10); {
		case k < 5:
			p := w.r.IntN(3)
			seq := last[p] + 1
			if w.r.IntN(20) == 0 {
				seq += 100 // what lies between is lost for good, as the follower said
				for n := last[p] + 1; n < seq; n++ {
					w.confirmed[[2]uint64{uint64(p), n}] = true
				}
			}
			e, err := event.ParseStored(fmt.Appendf(nil, `{"id":"%d-%d","type":"a","timestamp":1,"partition":%[1]d,"seq":%d,"prev":{"user":0,"feed":0},"epoch":7}`, p, seq))
			must(t, err)
			must(t, b.put(ctx, at(e, last[p])))
			last[p] = seq
		case k < 7 && len(flying) < 3:
			if n, _, _, _, _ := b.figures(); b.read < b.end || n > b.taken {
				if x := b.next(ctx, 1, 0); x != nil {
					flying = append(flying, x)
				}
			}
		case k < 8 && len(flying) > 0:
			i := w.r.IntN(len(flying))
			x := flying[i]
			flying = append(flying[:i], flying[i+1:]...)
			for _, it := range x.items {
				w.confirmed[[2]uint64{uint64(it.event.Partition), it.event.Seq}] = true
			}
			b.confirm(x)
		case k == 8 && w.r.IntN(4) == 0:
			must(t, b.toSpool(ctx))
		case k == 9:
			w.saved = b.state()
			b.spool.Trim(w.saved.Done, time.Now().Add(time.Minute))
		}
	}
	w.check(b, b.state().Positions)
}

// check fails when something before the positions is neither confirmed nor in the spool.
func (w *skipWorld) check(b *backlog, at checkpoint.Set) {
	w.t.Helper()
	inSpool := map[[2]uint64]bool{}
	r := b.spool.Reader(b.done)
	defer func() { _ = r.Close() }()
	for i := b.done; i < b.end; i++ {
		_, record, err := r.Next(w.t.Context())
		must(w.t, err)
		p, _, err := parsePlace(record)
		must(w.t, err)
		inSpool[[2]uint64{uint64(p.partition), p.seq}] = true
	}
	for p, end := range at {
		for n := uint64(1); n <= end.Seq; n++ {
			if k := [2]uint64{uint64(p), n}; !w.confirmed[k] && !inSpool[k] {
				w.t.Fatalf("event %v is before %v, neither confirmed nor in the spool", k, end)
			}
		}
	}
}

// A record in the middle that is damaged: what lies beyond is indexed, and the follower reads the
// journal from there on.
func TestDamageInTheSpoolIsReadFromTheJournal(t *testing.T) {
	dir := t.TempDir()
	b, _ := newTestBacklog(t, dir, 0, 1<<20, wal.Options{})
	for i, e := range some(t, 100) {
		must(t, b.put(t.Context(), at(e, uint64(i))))
	}
	must(t, b.toSpool(t.Context()))
	closeBacklog(t, b)
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	must(t, err)
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	_, err = f.WriteAt([]byte("damaged"), info.Size()/2)
	must(t, errors.Join(err, f.Close()))

	b, held := newTestBacklog(t, dir, 0, 1<<20, wal.Options{})
	defer closeBacklog(t, b)
	start := checkpoint.Set{}
	held.onto(start)
	x := b.next(t.Context(), 1, 0)
	if n := start[1].Seq; n < 20 || n > 80 || len(x.items) != 99 {
		t.Fatalf("it goes on after %d, with %d of the spool", n, len(x.items))
	}
	b.confirm(x)
	if got := b.state(); got.Positions[1] != start[1] || got.Done != 101 {
		t.Errorf("safe is %+v", got)
	}
	for i, e := range some(t, 100)[start[1].Seq:] { // out of the journal
		must(t, b.put(t.Context(), at(e, start[1].Seq+uint64(i))))
	}
	b.confirm(b.next(t.Context(), 1, 0))
	if got := b.state().Positions[1].Seq; got != 100 {
		t.Errorf("safe is %d", got)
	}
}

func TestASpoolOfAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	spool, err := wal.Open(wal.Options{Dir: dir, MinFree: -1})
	must(t, err)
	defer func() { must(t, spool.Close()) }()
	_, err = spool.Append(t.Context(), [][]byte{{recordVersion + 1, 0, 0, 0, 0}}, nil)
	must(t, err)
	_, _, err = newBacklog(spool, 0, 1, time.Second, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("it was opened: %v", err)
	}
}

// FuzzRecord: whatever a record holds, it gives the event that was written or none.
func FuzzRecord(f *testing.F) {
	e, err := event.ParseStored([]byte(body("a", 3)))
	if err != nil {
		f.Fatal(err)
	}
	it := item{event: e, prev: 2}
	f.Add(it.record())
	f.Fuzz(func(t *testing.T, record []byte) {
		got, err := parseRecord(record, time.Time{})
		if err != nil {
			return
		}
		again, err := parseRecord(got.record(), time.Time{})
		if err != nil || again.prev != got.prev || again.event.Position != got.event.Position || string(again.event.Raw) != string(got.event.Raw) {
			t.Errorf("%q became %+v, then %+v, %v", record, got, again, err)
		}
	})
}

// pagesOf is a journal that holds events of partition 1.
type pagesOf []event.Event

func (p pagesOf) Read(_ context.Context, _ int, after uint64, limit int) (out [][]byte, err error) {
	for _, e := range p {
		if e.Seq > after && len(out) < limit {
			out = append(out, e.Raw)
		}
	}
	return out, nil
}

// TestDamageInTheSpoolIsMended: a record that is damaged after it was written, in the middle or at
// the end, holds the checkpoint only until its event was read from the journal; one that the journal
// has no more is given up with an error.
func TestDamageInTheSpoolIsMended(t *testing.T) {
	const n = 100
	for name, c := range map[string]struct {
		at      int64 // percent of the file
		journal func([]event.Event) pagesOf
		said    string
	}{
		"in the middle":                   {50, func(all []event.Event) pagesOf { return all }, ""},
		"at the end":                      {99, func(all []event.Event) pagesOf { return all }, ""},
		"no longer in the journal":        {50, func(all []event.Event) pagesOf { return all[80:] }, "no longer has"},
		"nothing in the journal any more": {99, func([]event.Event) pagesOf { return nil }, "no longer has"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b, _ := newTestBacklog(t, dir, 0, 1<<20, wal.Options{})
			defer closeBacklog(t, b)
			all := some(t, n)
			for i, e := range all {
				must(t, b.put(t.Context(), at(e, uint64(i))))
			}
			must(t, b.toSpool(t.Context()))
			damage(t, dir, c.at)
			for x := b.next(t.Context(), 1, 0); x != nil; x = nil {
				b.confirm(x)
			}
			if got := b.state().Positions[1].Seq; got >= n {
				t.Fatalf("safe is %d: nothing was damaged", got)
			}
			var text strings.Builder
			d := &mender{backlog: b, journal: c.journal(all), m: b.m, log: slog.New(slog.NewTextHandler(&text, nil))}
			for range 3 {
				for p, after := range b.takeTorn() {
					must(t, d.mend(t.Context(), p, after))
				}
				for b.mustTake() {
					b.confirm(b.next(t.Context(), 1, 0))
				}
			}
			if got := b.state().Positions[1].Seq; got != n || len(b.takeTorn()) > 0 {
				t.Errorf("safe is %d, want %d", got, n)
			}
			if said := strings.Contains(text.String(), "level=ERROR"); said != (c.said != "") || !strings.Contains(text.String(), c.said) {
				t.Errorf("the log is %s", text.String())
			}
			e := stored(t, "later", n+1) // and it goes on
			must(t, b.put(t.Context(), at(e, n)))
			b.confirm(b.next(t.Context(), 1, 0))
			if got := b.state().Positions[1].Seq; got != n+1 {
				t.Errorf("then safe is %d", got)
			}
		})
	}
}

// damage changes some bytes of the only segment.
func damage(t *testing.T, dir string, percent int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	must(t, err)
	whole, err := os.ReadFile(files[0])
	must(t, err)
	size := int64(len(bytes.TrimRight(whole, "\x00"))) // without what it is filled with ahead
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("damaged"), size*percent/100)
	must(t, errors.Join(err, f.Close()))
}

// mustTake reports whether memory holds something to take.
func (b *backlog) mustTake() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.items) > b.taken
}
