package wal

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"eventspine/internal/fault"
)

// Readers see a record at once; who appended it waits for the fsync, with all others that came
// meanwhile.
func TestReadersNeedNotWaitForTheDisk(t *testing.T) {
	o := small(t.TempDir())
	gate, syncs := make(chan struct{}), atomic.Int64{}
	o.sync = func(f *os.File) error {
		<-gate
		syncs.Add(1)
		return syncData(f)
	}
	l := open(t, o)
	var waiting sync.WaitGroup
	answered := atomic.Int64{}
	r := l.Reader(1)
	defer func() { _ = r.Close() }()
	const n = 20
	for i := uint64(1); i <= n; i++ {
		waiting.Go(func() {
			if _, err := l.Append(t.Context(), [][]byte{body(i)}, nil); err != nil {
				t.Error(err)
			}
			answered.Add(1)
		})
		if index, b, err := r.Next(soon(t)); err != nil || index != i || string(b) != string(body(i)) {
			t.Fatalf("reader got %d %q, %v; want %d", index, b, err, i)
		}
	}
	if a := answered.Load(); a != 0 {
		t.Errorf("%d appends were answered before anything was synced", a)
	}
	close(gate)
	waiting.Wait()
	if s := syncs.Load(); s > 3 {
		t.Errorf("%d appends that waited took %d syncs", n, s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantAll(t, open(t, small(o.Dir)), 1, n+1)
}

// The flusher syncs as fdatasync does, again and again, and tells of what cannot be synced.
func TestFlusher(t *testing.T) {
	s := newFlusher()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := f.WriteAt([]byte("text"), int64(i*5000)); err != nil {
			t.Fatal(err)
		}
		if err := s.sync(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	if err := s.sync(null); err == nil || syncData(null) == nil {
		t.Error("what cannot be synced was")
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	l := open(t, Options{Dir: t.TempDir(), MinFree: -1}) // with its own
	fill(t, l, 20)
}

// After an fsync that failed nothing in that file is promised; the next records go to another
// file, and no index is given twice.
func TestAfterAFailedSync(t *testing.T) {
	o := small(t.TempDir())
	bad := atomic.Bool{}
	o.sync = func(f *os.File) error {
		if bad.CompareAndSwap(true, false) {
			return syscall.EIO
		}
		return syncData(f)
	}
	l := open(t, o)
	fill(t, l, 5)
	for range 3 {
		bad.Store(true)
		before := l.End()
		stamps := []uint64{}
		_, err := l.Append(t.Context(), [][]byte{body(before)}, func(first uint64) { stamps = append(stamps, first) })
		if fault.KindOf(err) != fault.Unavailable {
			t.Fatalf("append while the disk fails: %v", err)
		}
		if l.End() != before+1 || len(stamps) != 1 || stamps[0] != before {
			t.Fatalf("end %d, stamps %v: the index %d must not be given twice", l.End(), stamps, before)
		}
		fill(t, l, 2)
	}
	if got := len(l.Segments()); got != 4 {
		t.Errorf("%d segments, want one more for each failure", got)
	}
	wantAll(t, l, 1, l.End())
	end := l.End()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantAll(t, open(t, small(o.Dir)), 1, end)
}

// The zeroes that a killed process leaves at the end of its files are no damage.
func TestZeroesAtTheEndAreNoDamage(t *testing.T) {
	o := small(t.TempDir())
	o.SegmentBytes = 128 << 10
	l := open(t, o)
	for range 3 {
		fill(t, l, 1500)
	}
	path := l.Segments()[1]
	dir := copyDir(t, o.Dir) // as after kill -9
	info, err := os.Stat(filepath.Join(dir, segmentName(l.Segments()[len(l.Segments())-1].First)))
	if err != nil || len(l.Segments()) < 3 {
		t.Fatal(err, len(l.Segments()))
	}
	if size := l.Segments()[len(l.Segments())-1].Bytes; info.Size() <= size {
		t.Fatalf("the file has %d bytes, %d of records: nothing was filled ahead", info.Size(), size)
	}
	older := filepath.Join(dir, segmentName(path.First))
	if err := os.Truncate(older, path.Bytes+8<<10); err != nil {
		t.Fatal(err)
	}
	out := &lines{}
	o.Dir, o.Log = dir, out.logger()
	again := open(t, o)
	wantAll(t, again, 1, l.End())
	if s := out.String(); strings.Contains(s, "damaged") || strings.Contains(s, "torn") {
		t.Errorf("zeroes were taken for damage:\n%s", s)
	}
	fill(t, again, 10)
	wantAll(t, again, 1, l.End()+10)
}
