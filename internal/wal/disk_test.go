package wal

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/fault"
)

var farFuture = time.Now().AddDate(100, 0, 0)

// smallDisk mounts a file system of its own for the test. That needs root; without it the test
// is skipped, or fails where EVENTSPINE_REQUIRE_SERVERS is set for root.
func smallDisk(t *testing.T, bytes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); err != nil {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" && os.Geteuid() == 0 {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		t.Skipf("a file system of its own needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A disk that is really full, in the middle of a write, costs only what was not answered for.
func TestTheDiskIsFull(t *testing.T) {
	disk := smallDisk(t, "1m")
	o := small(filepath.Join(disk, "log"))
	o.SegmentBytes = 128 << 10
	l := open(t, o)
	notes := 0 // what an owner keeps by stamps
	fillUp := func() (n int) {
		for {
			records := [][]byte{body(l.End()), make([]byte, 20_000)}
			_, err := l.Append(t.Context(), records, func(first uint64) {
				if first == 0 {
					notes--
				} else {
					notes++
				}
			})
			if err == nil {
				n++
				continue
			}
			if fault.KindOf(err) != fault.Overloaded {
				t.Fatal(err)
			}
			return n
		}
	}
	n := fillUp()
	if n < 10 || notes != n {
		t.Fatalf("%d appends fit, %d stamps stand", n, notes)
	}
	if m := fillUp(); m != 0 {
		t.Errorf("%d fit although nothing became free", m)
	}
	if got := len(all(t, l, 1)); got != 2*n || l.End() != uint64(2*n+1) {
		t.Fatalf("%d records of %d appends, end %d", got, n, l.End())
	}
	l.Trim(l.Segments()[3].First, farFuture)
	more := fillUp()
	if more < 5 || notes != n+more {
		t.Errorf("after a trim %d more fit, %d stamps stand", more, notes)
	}
	_ = l.Close()
	l = open(t, o) // on the full disk
	if l.End() != uint64(2*(n+more)+1) {
		t.Errorf("end is %d after %d appends", l.End(), n+more)
	}
}
