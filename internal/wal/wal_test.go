package wal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/fault"
)

func TestWhatWasAppendedIsThereAfterAReopen(t *testing.T) {
	o := small(t.TempDir())
	l := open(t, o)
	fill(t, l, 300)
	generation := l.Generation()
	for round := range 3 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, o)
		if l.Generation() != generation || generation == 0 || generation >= 1<<53 {
			t.Fatalf("generation %d became %d", generation, l.Generation())
		}
		end := uint64(301 + round*50)
		if l.First() != 1 || l.End() != end || len(l.Segments()) < 4 {
			t.Fatalf("first %d, end %d, %d segments", l.First(), l.End(), len(l.Segments()))
		}
		wantAll(t, l, 1, end)
		fill(t, l, 50)
		wantAll(t, l, 1, end+50)
	}
}

func TestManyAppendersShareSyncs(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := small(t.TempDir())
	o.Metrics = registry
	l := open(t, o)
	const appenders, each = 32, 60
	var last uint64
	var stamps []uint64
	var wg sync.WaitGroup
	for range appenders {
		wg.Go(func() {
			for range each {
				records := [][]byte{make([]byte, 8), make([]byte, 8)}
				first, err := l.Append(t.Context(), records, func(first uint64) {
					stamps = append(stamps, first) // stamps run one after the other
					copy(records[0], "first")
					copy(records[1], "second")
				})
				if err != nil || first == 0 {
					t.Errorf("append: %d, %v", first, err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stamps {
		if s != last+1 {
			t.Fatalf("stamp %d after %d", s, last)
		}
		last = s + 1
	}
	got := all(t, l, 1)
	if len(got) != 2*appenders*each {
		t.Fatalf("%d records", len(got))
	}
	for i, r := range got {
		if want := [2]string{"first\x00\x00\x00", "second\x00\x00"}[i%2]; r.index != uint64(i+1) || r.body != want {
			t.Fatalf("record %d is %d %q", i, r.index, r.body)
		}
	}
	if n, err := testutil.GatherAndCount(registry, "eventspine_wal_sync_seconds"); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}

func TestReaderWaitsForWhatIsCommitted(t *testing.T) {
	l := open(t, small(t.TempDir()))
	readers := make([]*Reader, 3)
	var wg sync.WaitGroup
	for i := range readers {
		readers[i] = l.Reader(0)
		wg.Go(func() {
			for want := uint64(1); want <= 200; want++ {
				index, b, err := readers[i].Next(soon(t))
				if err != nil || index != want || string(b) != string(body(want)) {
					t.Errorf("%d %q %v; want %d", index, b, err, want)
					return
				}
			}
			_, _, err := readers[i].Next(soon(t)) // until the log is closed
			if fault.KindOf(err) != fault.Unavailable || !errors.Is(err, os.ErrClosed) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
	fill(t, l, 200)
	ended, cancel := context.WithCancel(t.Context())
	r := l.Reader(201)
	cancel()
	if _, _, err := r.Next(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with an ended context: %v", err)
	}
	_ = r.Close()
	_ = l.Close()
	wg.Wait()
	for _, r := range readers {
		_ = r.Close()
	}
	if _, err := l.Append(t.Context(), [][]byte{{1}}, nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("append to a closed log: %v", err)
	}
}

func TestSeek(t *testing.T) {
	o := small(t.TempDir())
	o.SegmentBytes = 1 << 20 // with marks inside
	l := open(t, o)
	for range 40 {
		var records [][]byte
		for i := range 500 {
			records = append(records, body(l.End()+uint64(i)))
		}
		if _, err := l.Append(t.Context(), records, nil); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	l = open(t, o)
	r := l.Reader(1)
	defer func() { _ = r.Close() }()
	for _, at := range []uint64{20_000, 1, 7, 19_999, 10_000, 10_001, 3, 9_999, 0, 15_000} {
		r.Seek(at)
		for want := max(at, 1); want < min(at+3, l.End()); want++ {
			index, b, err := r.Next(soon(t))
			if err != nil || index != want || string(b) != string(body(want)) {
				t.Fatalf("after Seek(%d): %d %q %v", at, index, b, err)
			}
		}
	}
}

func TestTrimKeepsWhatIsNeeded(t *testing.T) {
	l := open(t, small(t.TempDir()))
	fill(t, l, 400)
	segments := l.Segments()
	future := time.Now().Add(time.Hour)
	behind := l.Reader(1) // in the first segment while it goes
	defer func() { _ = behind.Close() }()
	if i, _, err := behind.Next(t.Context()); i != 1 || err != nil {
		t.Fatal(i, err)
	}

	l.Trim(segments[2].First, time.Now().Add(-time.Hour))
	if l.First() != 1 {
		t.Error("young segments were removed")
	}
	l.Trim(segments[2].First-1, future)
	if l.First() != segments[1].First {
		t.Errorf("first is %d; a segment with needed records was removed, or one without was kept", l.First())
	}
	l.Trim(segments[2].First, future)
	wantAll(t, l, segments[2].First, 401)
	if i, _, err := behind.Next(t.Context()); i != 2 || err != nil {
		t.Errorf("a reader inside a removed segment got %d, %v", i, err)
	}
	l.Trim(1<<60, future)
	if l.End() != 401 {
		t.Errorf("end %d", l.End())
	}
	for l.First() != 401 { // the last segment goes too, once another was begun
		if soon(t).Err() != nil {
			t.Fatal("the last segment stays")
		}
		l.Trim(1<<60, future)
	}
	fill(t, l, 1)
	for i := uint64(3); ; i++ {
		index, b, err := behind.Next(soon(t))
		if err != nil || string(b) != string(body(index)) {
			t.Fatal(index, err)
		}
		if index != i {
			if index != l.First() {
				t.Errorf("the reader jumped to %d; the first kept is %d", index, l.First())
			}
			break
		}
	}
}

func TestNotes(t *testing.T) {
	o := small(t.TempDir())
	count := 0
	o.Note = func() []byte { count++; return []byte(strings.Repeat("n", count)) }
	l := open(t, o)
	fill(t, l, 200)
	_ = l.Close()
	l = open(t, o)
	for i, s := range l.Segments() {
		if string(s.Note) != strings.Repeat("n", i+1) || s.Created.IsZero() || s.Bytes == 0 {
			t.Errorf("segment %d: %q %v %d", i, s.Note, s.Created, s.Bytes)
		}
	}
	if count != len(l.Segments()) || count < 2 {
		t.Errorf("%d notes for %d segments", count, len(l.Segments()))
	}
}

func TestAFullLogRefusesAndRecovers(t *testing.T) {
	o := small(t.TempDir())
	o.MaxBytes = 64 << 10
	o.Metrics = prometheus.NewRegistry()
	l := open(t, o)
	var err error
	for err == nil {
		i := l.End()
		stamped := false
		_, err = l.Append(t.Context(), [][]byte{body(i)}, func(uint64) { stamped = true })
		if stamped != (err == nil) {
			t.Fatal("stamped although refused")
		}
	}
	if fault.KindOf(err) != fault.Overloaded || l.Size() > o.MaxBytes || l.Size() < o.MaxBytes*9/10 {
		t.Fatalf("%v at %d bytes", err, l.Size())
	}
	end := l.End()
	l.Trim(l.Segments()[2].First, time.Now().Add(time.Hour))
	fill(t, l, 10)
	wantAll(t, l, l.First(), end+10)
	if n := testutil.ToFloat64(l.m.refused.WithLabelValues("full")); n != 1 {
		t.Errorf("%v refused", n)
	}
}

func TestALowDiskRefusesAndRecovers(t *testing.T) {
	o := small(t.TempDir())
	l := open(t, o)
	fill(t, l, 1)
	l.o.MinFree = 1 << 60
	_, err := l.Append(t.Context(), [][]byte{body(2)}, nil)
	if fault.KindOf(err) != fault.Overloaded {
		t.Fatal(err)
	}
	l.o.MinFree = 1
	fill(t, l, 1)
	wantAll(t, l, 1, 3)
}

func TestWithdrawnBeforeItIsWritten(t *testing.T) {
	o := small(t.TempDir())
	hold, held := make(chan struct{}), make(chan struct{})
	l := open(t, o)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := l.Append(t.Context(), [][]byte{body(1)}, func(uint64) { close(held); <-hold })
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	wg.Go(func() {
		_, err := l.Append(ctx, [][]byte{[]byte("withdrawn")}, nil)
		got <- err
	})
	for queued := false; !queued; {
		l.mu.Lock()
		queued = len(l.queue) == 1
		l.mu.Unlock()
	}
	cancel()
	if err := <-got; fault.KindOf(err) != fault.Unavailable {
		t.Error(err)
	}
	close(hold)
	wg.Wait()
	fill(t, l, 1)
	wantAll(t, l, 1, 3)
}

func TestBadArguments(t *testing.T) {
	l := open(t, small(t.TempDir()))
	for want, records := range map[fault.Kind][][]byte{fault.Invalid: nil, fault.TooLarge: {make([]byte, MaxRecord+1)}} {
		if _, err := l.Append(t.Context(), records, nil); fault.KindOf(err) != want {
			t.Errorf("%v: %v", want, err)
		}
	}
	if _, err := Open(Options{}); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
}

// A directory that is not this log's, or not ours now, is told in one line and left as it is.
func TestForeignDirectories(t *testing.T) {
	o := small(t.TempDir())
	l := open(t, o)
	fill(t, l, 200)
	if _, err := Open(o); !oneLine(err, "is in use by another process (pid ") {
		t.Errorf("a second opener: %v", err)
	}
	_ = l.Close()
	two := segmentNames(t, o.Dir)[1]
	for name, c := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"a stray file":       {func(dir string) error { return write(dir, "notes.txt", "hello") }, "notes.txt is not a file of this log; move it away"},
		"a stray directory":  {func(dir string) error { return os.Mkdir(filepath.Join(dir, "sub"), 0o700) }, "sub is not a file of this log"},
		"a foreign segment":  {func(dir string) error { return write(dir, segmentName(1<<40), strings.Repeat("x", 500)) }, "is not a file of this log"},
		"a newer version":    {func(dir string) error { return edit(dir, two, func(h *header) { h.version = 2 }) }, "has format version 2 and this program reads 1; let the version that wrote it finish"},
		"another log's file": {func(dir string) error { return edit(dir, two, func(h *header) { h.generation++ }) }, "belongs to another log"},
		"a renamed file": {func(dir string) error {
			return os.Rename(filepath.Join(dir, two), filepath.Join(dir, segmentName(5)))
		}, "was renamed: it begins at index"},
		"a header lost, nothing whole": {func(dir string) error { return write(dir, segmentName(1<<40), "") }, "move it away"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Dir = copyDir(t, o.Dir)
			if err := c.change(o.Dir); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, o.Dir)
			l, err := Open(o)
			if err == nil {
				_ = l.Close()
			}
			if !oneLine(err, c.want) {
				t.Errorf("%v\nwant: %s", err, c.want)
			}
			after := snapshot(t, o.Dir)
			for name, was := range before {
				if name != lockFile && after[name] != was {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
}

func oneLine(err error, want string) bool {
	return fault.KindOf(err) == fault.Invalid && err != nil && strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "\n")
}

func write(dir, name, content string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
}

// edit writes both copies of a segment's header anew.
func edit(dir, name string, change func(*header)) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	h, _ := parseHeader(b[:headerSize])
	change(&h)
	copy(b, h.append(h.append(nil)))
	return write(dir, name, string(b))
}

func segmentNames(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ext) {
			names = append(names, e.Name())
		}
	}
	return names
}

func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out[e.Name()] = string(b)
		}
	}
	return out
}

func TestAnUnfinishedSegmentIsRemoved(t *testing.T) {
	o := small(t.TempDir())
	l := open(t, o)
	fill(t, l, 5)
	_ = l.Close()
	if err := write(o.Dir, "00000000000000000006.wal.tmp", "spineW"); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	wantAll(t, l, 1, 6)
	if _, err := os.Stat(filepath.Join(o.Dir, "00000000000000000006.wal.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
