package wal

import (
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"eventspine/internal/fault"
)

// Segment describes one file of the log. Note is nil where the file's header is damaged.
type Segment struct {
	First   uint64 // index of its first record
	Note    []byte
	Created time.Time
	Bytes   int64
}

// segment is one file. first, path, seed and data never change; the rest is guarded by Log.mu.
type segment struct {
	first   uint64
	path    string
	seed    uint32
	data    int64 // where its records begin
	created time.Time
	note    []byte
	size    int64 // bytes that are written
	failed  bool  // an fsync failed: nothing more is written here
	last    time.Time
	marks   []mark
	told    map[int64]bool // offsets of damage that were reported
}

// mark is a place in a segment from where a reader may start.
type mark struct {
	index uint64
	at    int64
}

const markEvery = 256 << 10 // bytes between two marks

// passed notes that the record index begins at offset at.
func (s *segment) passed(index uint64, at int64) {
	if n := len(s.marks); n == 0 || s.marks[n-1].at+markEvery <= at {
		s.marks = append(s.marks, mark{index, at})
	}
}

// start is the last known place at or before index.
func (s *segment) start(index uint64) mark {
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].index > index })
	if i == 0 {
		return mark{s.first, s.data}
	}
	return s.marks[i-1]
}

// found is a segment's file as listed, before all of them were looked at.
type found struct {
	segment
	header header
	state  headState
}

type headState uint8

const (
	headWhole headState = iota
	headHurt            // one copy is damaged
	headLost            // both are
)

// list finds the segments in dir, oldest first, and what a crash left of one that was being
// begun. It fails for anything that is not this log's.
func list(dir string) (all []*found, stale []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fault.E("open log", fault.Invalid, err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		first, ok := segmentFirst(e.Name())
		switch {
		case ok && e.Type().IsRegular():
			f, err := inspect(path, first)
			if err != nil {
				return nil, nil, err
			}
			all = append(all, f)
		case e.Name() == lockFile, e.Name() == "lost+found" && e.IsDir():
		case e.Type().IsRegular() && isUnfinished(e.Name()):
			stale = append(stale, path)
		default:
			return nil, nil, foreign(path)
		}
	}
	slices.SortFunc(all, func(a, b *found) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return all, stale, nil
}

// isUnfinished tells the name under which a segment is begun.
func isUnfinished(name string) bool {
	base, ok := strings.CutSuffix(name, tmpExt)
	_, named := segmentFirst(base + ext)
	return ok && named
}

func foreign(path string) error {
	return fault.Errorf("open log", fault.Invalid, "%s is not a file of this log; move it away, or give the log a directory of its own", path)
}

// inspect reads a segment's header.
func inspect(path string, first uint64) (*found, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, diskError("open log", err)
	}
	b, err := readUpTo(path, 0, notesAt)
	if err != nil {
		return nil, diskError("open log", err)
	}
	s := &found{segment: segment{first: first, path: path, size: info.Size(), last: info.ModTime(), created: info.ModTime()}, state: headLost}
	two := make([]byte, notesAt)
	copy(two, b)
	one, oneOK := parseHeader(two[:headerSize])
	other, otherOK := parseHeader(two[headerSize:])
	switch {
	case oneOK && otherOK && one == other:
		s.header, s.state = one, headWhole
	case oneOK:
		s.header, s.state = one, headHurt
	case otherOK:
		s.header, s.state = other, headHurt
	case !blank(two) && string(two[:8]) != magic && string(two[headerSize:headerSize+8]) != magic:
		return nil, foreign(path)
	}
	return s, s.adopt()
}

func readUpTo(path string, at int64, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, n)
	got, err := f.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:got], nil
}

// adopt takes what the header says.
func (s *found) adopt() error {
	if s.state == headLost {
		s.data = 0 // records are looked for from the start
		return nil
	}
	h := s.header
	switch {
	case h.version != version:
		return fault.Errorf("open log", fault.Invalid, "%s has format version %d and this program reads %d; "+
			"let the version that wrote it finish, or move the directory away", s.path, h.version, version)
	case h.first != s.first:
		return fault.Errorf("open log", fault.Invalid, "%s was renamed: it begins at index %d; give it its name back", s.path, h.first)
	}
	s.created, s.seed = h.created, seed(h.generation, h.first)
	s.data = aligned(notesAt + int64(h.noteLen))
	note, err := readUpTo(s.path, notesAt, int(h.noteLen))
	if err != nil {
		return diskError("open log", err)
	}
	if len(note) == int(h.noteLen) && crc32.Checksum(note, castagnoli()) == h.noteCRC {
		s.note = note
	} else {
		s.state = headHurt
	}
	return nil
}

// generationOf is the one generation of all segments, 0 when there are none.
func generationOf(all []*found) (uint64, error) {
	var g uint64
	for _, s := range all {
		switch {
		case s.state == headLost:
		case g == 0:
			g = s.header.generation
		case g != s.header.generation:
			return 0, fault.Errorf("open log", fault.Invalid, "%s belongs to another log than the files before it; move it away", s.path)
		}
	}
	if g == 0 && len(all) > 0 {
		return 0, fault.Errorf("open log", fault.Invalid, "%s: the header is damaged and no other file tells whose it is; "+
			"move the directory away to begin a new log", all[0].path)
	}
	return g, nil
}

// begin creates the segment's file with its header, under its final name only when it is whole.
func begin(dir string, h header, note []byte) (*segment, *os.File, error) {
	path := filepath.Join(dir, segmentName(h.first))
	tmp := strings.TrimSuffix(path, ext) + tmpExt
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	head := appendSegmentHead(nil, h, note)
	if err := publish(f, head, tmp, path); err != nil {
		_ = os.Remove(tmp) // only to leave no trace; Open removes it too
		return nil, nil, errors.Join(err, f.Close())
	}
	size := int64(len(head))
	return &segment{first: h.first, path: path, seed: seed(h.generation, h.first), data: size, size: size,
		created: h.created, last: h.created, note: note}, f, nil
}

func publish(f *os.File, head []byte, tmp, path string) error {
	if _, err := f.Write(head); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fs.ErrExist, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
