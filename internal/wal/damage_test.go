package wal

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written makes a log of n records and returns its files.
func written(t testing.TB, n int, o Options) map[string][]byte {
	t.Helper()
	l := open(t, o)
	fill(t, l, n)
	_ = l.Close()
	files := map[string][]byte{}
	for _, name := range segmentNames(t, o.Dir) {
		b, err := os.ReadFile(filepath.Join(o.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	return files
}

func place(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := write(dir, name, string(b)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// onlyTrue checks that every record is one that was written, in order, and returns them.
func onlyTrue(t testing.TB, l *Log, n int) []record {
	t.Helper()
	got := all(t, l, 1)
	last := uint64(0)
	for _, r := range got {
		if r.index <= last || r.index > uint64(n) || r.body != string(body(r.index)) {
			t.Fatalf("record %d %q after %d was never written", r.index, r.body, last)
		}
		last = r.index
	}
	return got
}

// Cut anywhere, the log gives what is whole before the cut, and takes new records after it.
func TestTornAtEveryByte(t *testing.T) {
	const n = 12
	o := small(t.TempDir())
	files := written(t, n, o)
	name := segmentNames(t, o.Dir)[0]
	b := files[name]
	step := 1
	if testing.Short() {
		step = 7
	}
	for size := aligned(notesAt); size <= int64(len(b)); size += int64(step) {
		o.Dir = place(t, map[string][]byte{name: b[:size]})
		l, err := Open(o)
		if err != nil {
			t.Fatalf("cut at %d: %v", size, err)
		}
		kept := onlyTrue(t, l, n)
		end := uint64(len(kept)) + 1
		if l.End() != end || size == int64(len(b)) && end != n+1 {
			t.Fatalf("cut at %d: end is %d with %d records", size, l.End(), len(kept))
		}
		fill(t, l, 2)
		wantAll(t, l, 1, end+2)
		_ = l.Close()
		l, err = Open(o)
		if err != nil {
			t.Fatal(err)
		}
		wantAll(t, l, 1, end+2)
		_ = l.Close()
	}
}

// A flipped byte costs the record it is in, and is told with its place.
func TestAFlippedByteInTheMiddle(t *testing.T) {
	const n = 150
	o := small(t.TempDir())
	files := written(t, n, o)
	names := segmentNames(t, o.Dir)
	for range 300 {
		name := names[rand.IntN(len(names)-1)]
		at := rand.IntN(len(files[name]))
		changed := map[string][]byte{}
		for k, v := range files {
			changed[k] = v
		}
		changed[name] = bytes.Clone(files[name])
		changed[name][at] ^= byte(1 << rand.IntN(8))
		var told lines
		o.Dir, o.Log = place(t, changed), told.logger()
		l, err := Open(o)
		if err != nil {
			t.Fatalf("%s at %d: %v", name, at, err)
		}
		got := onlyTrue(t, l, n)
		if again := onlyTrue(t, l, n); len(again) != len(got) {
			t.Errorf("%d records, then %d", len(got), len(again))
		}
		said := strings.Count(told.String(), "the log is damaged")
		if len(got) < n-1 || len(got) == n-1 && said != 1 || said > 1 {
			t.Fatalf("%s at %d: %d of %d records, told %d times:\n%s", name, at, len(got), n, said, told.String())
		}
		if said == 1 && !strings.Contains(told.String(), name) {
			t.Errorf("no file name in %s", told.String())
		}
		_ = l.Close()
	}
}

func TestABlockIsLostInTheMiddle(t *testing.T) {
	const n = 3000
	o := small(t.TempDir())
	o.SegmentBytes = 64 << 10
	files := written(t, n, o)
	name := segmentNames(t, o.Dir)[0]
	for _, lost := range [][2]int{{4096, 8192}, {0, 4096}, {0, 96}, {20_000, 60_000}} {
		for what, garbage := range map[string]func([]byte){
			"zeroes": func(b []byte) { clear(b) },
			"noise": func(b []byte) {
				for i := range b {
					b[i] = byte(rand.Uint32())
				}
			},
			"the block before": func(b []byte) { copy(b, files[name][max(lost[0]-len(b), 0):]) },
		} {
			if what != "zeroes" && lost[0] == 0 {
				continue // then it is no file of ours
			}
			changed := map[string][]byte{}
			for k, v := range files {
				changed[k] = bytes.Clone(v)
			}
			garbage(changed[name][lost[0]:lost[1]])
			var told lines
			o.Dir, o.Log = place(t, changed), told.logger()
			l, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			got := onlyTrue(t, l, n)
			if most := (lost[1]-lost[0])/recordHead + 2; len(got) < n-most || l.End() != n+1 {
				t.Errorf("%s at %v: %d of %d records", what, lost, len(got), n)
			}
			if !strings.Contains(told.String(), "damaged") {
				t.Errorf("%s at %v: nothing was said", what, lost)
			}
			_ = l.Close()
		}
	}
}

// A record's body that holds the image of records is one record, whatever is damaged before it.
func TestImagesOfRecordsInBodies(t *testing.T) {
	o := small(t.TempDir())
	o.SegmentBytes = 1 << 20
	files := written(t, 20, o)
	name := segmentNames(t, o.Dir)[0]
	image := files[name][aligned(notesAt):]
	o.Dir = t.TempDir()
	l := open(t, o)
	for i := range 8 {
		if _, err := l.Append(t.Context(), [][]byte{append(make([]byte, i), image...)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	path := filepath.Join(o.Dir, segmentNames(t, o.Dir)[0])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := aligned(notesAt); at < int64(len(b)); at += recordSize(len(image)) {
		b[at] ^= 1 // every record is damaged, every image is whole
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	if got := all(t, l, 1); len(got) > 1 { // the last ones' heads moved with i
		for _, r := range got {
			if len(r.body) < len(image) {
				t.Errorf("an image was taken for record %d", r.index)
			}
		}
	}
}

// FuzzReader changes the bytes of a log: never a panic, never a record that was not written.
func FuzzReader(f *testing.F) {
	const n = 60
	o := small(f.TempDir())
	files := written(f, n, o)
	names := segmentNames(f, o.Dir)
	f.Add(uint8(0), uint32(100), []byte{1}, uint32(0))
	f.Add(uint8(1), uint32(0), []byte{255, 255, 0, 1}, uint32(7))
	f.Add(uint8(9), uint32(3000), bytes.Repeat([]byte{7}, 300), uint32(4096))
	f.Fuzz(func(t *testing.T, file uint8, at uint32, flips []byte, cut uint32) {
		name := names[int(file)%len(names)]
		changed := map[string][]byte{}
		for k, v := range files {
			changed[k] = v
		}
		b := bytes.Clone(files[name])
		for i, x := range flips {
			b[(int(at)+i)%len(b)] ^= x
		}
		changed[name] = b[:len(b)-int(cut)%len(b)]
		o := small(place(t, changed))
		l, err := Open(o)
		if err != nil {
			return // said, not guessed
		}
		onlyTrue(t, l, n)
		if l.End() > n+1 {
			t.Fatalf("end is %d", l.End())
		}
		if _, err := l.Append(t.Context(), [][]byte{[]byte("new")}, nil); err != nil {
			t.Fatal(err)
		}
		got := all(t, l, l.End()-1)
		if len(got) != 1 || got[0].body != "new" {
			t.Fatalf("the new record is %v", got)
		}
		_ = l.Close()
	})
}
