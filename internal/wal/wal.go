package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
)

// Options are a log's settings. Only Dir has no default.
type Options struct {
	Dir          string                // of this log alone; made when absent
	Name         string                // in metrics and log lines, such as "api"; "" is "wal"
	SegmentBytes int64                 // a segment that has as many is followed by another; 0: 64 MiB, at most an eighth of MaxBytes
	MaxBytes     int64                 // of all segments; past it Append refuses; 0: 2 GiB
	MinFree      int64                 // bytes the file system must have left after an append; 0: 256 MiB; negative: none
	Note         func() []byte         // what a new segment's header says, at most MaxNote bytes; runs between two groups, in index order; nil: nothing
	Log          *slog.Logger          // nil: none
	Metrics      prometheus.Registerer // nil: none

	sync func(*os.File) error // in place of fdatasync, in tests
}

func (o Options) withDefaults() Options {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxBytes, 2<<30)
	def(&o.SegmentBytes, 64<<20)
	def(&o.MinFree, 256<<20)
	o.SegmentBytes = max(min(o.SegmentBytes, o.MaxBytes/8), 1)
	if o.Name == "" {
		o.Name = "wal"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("wal", o.Name)
	if o.Note == nil {
		o.Note = func() []byte { return nil }
	}
	return o
}

// Log is one directory's log. Safe for concurrent use.
type Log struct {
	o          Options
	m          *metrics
	generation uint64
	opened     uint64
	lock       *os.File
	flusher    *flusher // nil: Options.sync is used
	writer     writer
	wake       chan struct{} // a token: there is a group to write
	syncs      chan struct{} // a token: there is a group to sync
	done       chan struct{} // closed when all is written and synced, and the log is closed

	mu       sync.Mutex
	segments []*segment // oldest first, one at least; the last is being written
	end      uint64     // index the next record gets
	queue    []*group
	closing  bool
	roll     bool          // the last segment is to be followed by another
	unsynced []*group      // written, and not synced
	syncing  bool          // an fsync is under way
	settled  *sync.Cond    // of mu: syncing became false
	written  bool          // the writer has ended
	grown    chan struct{} // closed when end grew or the log closes
}

// Open opens the log in o.Dir, or begins one there. It cuts what a crash tore off at the end; it
// reads the last segment only. Errors are of kind Invalid, with the file and what to do, for a
// directory that holds something else, is in use or was written by another version; nothing is
// changed then.
func Open(o Options) (*Log, error) {
	o = o.withDefaults()
	if o.Dir == "" {
		return nil, fault.Errorf("open log", fault.Invalid, "no directory is given")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fault.E("open log", fault.Invalid, err)
	}
	lock, opened, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{o: o, lock: lock, opened: opened, wake: make(chan struct{}, 1), syncs: make(chan struct{}, 1), done: make(chan struct{}), grown: make(chan struct{})}
	l.settled = sync.NewCond(&l.mu)
	l.m = newMetrics(o.Metrics, l)
	if err := l.open(); err != nil {
		l.m.unregister(o.Metrics)
		return nil, errors.Join(err, lock.Close())
	}
	if l.o.sync == nil {
		l.flusher = newFlusher()
		l.o.sync = l.flusher.sync
	}
	go l.write()
	go l.sync()
	return l, nil
}

func (l *Log) open() error {
	all, stale, err := list(l.o.Dir)
	if err != nil {
		return err
	}
	if l.generation, err = generationOf(all); err != nil {
		return err
	}
	for _, path := range stale {
		if err := os.Remove(path); err != nil {
			return diskError("open log", err)
		}
	}
	if len(all) == 0 {
		l.generation, l.end = newGeneration(), 1
		return l.begin()
	}
	for _, s := range all {
		if s.state != headWhole {
			l.damaged(&s.segment, 0, s.data, "header")
		}
		if s.state == headLost {
			s.seed = seed(l.generation, s.first)
		}
		l.segments = append(l.segments, &s.segment)
	}
	return l.recover(all[len(all)-1].state == headLost)
}

func newGeneration() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])                          // never fails
	return binary.LittleEndian.Uint64(b[:])>>11 | 1 // below 2^53, so that any JSON reader can have it; not 0
}

// recover finds the end of the last segment and cuts what follows it.
func (l *Log) recover(lost bool) error {
	last := l.segments[len(l.segments)-1]
	f, err := os.OpenFile(last.path, os.O_RDWR, 0)
	if err != nil {
		return diskError("open log", err)
	}
	l.writer.file = f
	size := last.size
	end, err := l.findEnd(last, f, lost)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if torn := size - end; torn > 0 && !blankFrom(f, end, size) {
		l.m.cut.Add(float64(torn))
		l.o.Log.Warn("cut the torn end of the log", "file", last.path, "offset", end, "bytes", torn)
	}
	last.size = aligned(end)
	if err := l.writer.repair(last.size); err != nil {
		return errors.Join(diskError("open log", err), f.Close())
	}
	return nil
}

// findEnd walks the last segment and returns the offset after its last whole record.
func (l *Log) findEnd(last *segment, f *os.File, lost bool) (int64, error) {
	end := min(last.data, last.size)
	l.end = last.first
	scan := scanner{f: f, seed: last.seed, at: last.data, next: last.first, cap: ^uint64(0)}
	for {
		s, err := scan.scan(last.size)
		if err != nil {
			return 0, diskError("open log", err)
		}
		if s.body == nil {
			break
		}
		if s.skipped > 0 {
			l.damaged(last, s.from, s.skipped, "record")
		}
		last.passed(s.index, s.at)
		end, l.end = scan.at, s.index+1
	}
	if lost && l.end == last.first {
		return 0, fault.Errorf("open log", fault.Invalid, "%s: the header is damaged and it holds no record that is whole; move it away", last.path)
	}
	return min(end, last.size), nil
}

// begin makes the next segment the one that is written.
func (l *Log) begin() error {
	note := l.o.Note()
	if len(note) > MaxNote {
		return fault.Errorf("begin segment", fault.TooLarge, "the note has %d bytes; at most %d are allowed", len(note), MaxNote)
	}
	if err := l.seal(); err != nil {
		return diskError("end segment", err)
	}
	l.mu.Lock()
	first := l.end
	l.mu.Unlock()
	s, f, err := begin(l.o.Dir, header{version: version, generation: l.generation, first: first, created: time.Now()}, note)
	if err != nil {
		return diskError("begin segment", err)
	}
	if l.writer.file != nil {
		_ = l.writer.file.Close() // all of it is synced, or given up
	}
	l.mu.Lock()
	l.writer.file, l.writer.room, l.writer.broken = f, s.size, false
	l.segments = append(l.segments, s)
	l.mu.Unlock()
	return nil
}

// seal ends the segment that is written: all of it is synced, and it has no zeroes at its end.
func (l *Log) seal() error {
	if l.writer.file == nil {
		return nil
	}
	l.settle()
	l.mu.Lock()
	s, file := l.segments[len(l.segments)-1], l.writer.file
	l.mu.Unlock()
	if err := file.Truncate(s.size); err != nil && !s.failed {
		return err
	}
	l.writer.room = s.size
	return nil
}

// First is the oldest index that is kept; it is End when nothing is.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[0].first
}

// End is the index that the next record gets.
func (l *Log) End() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// Grown is closed when End is above index, or the log is closed.
func (l *Log) Grown(index uint64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.end <= index {
		return l.grown
	}
	now := make(chan struct{})
	close(now)
	return now
}

// Generation tells this log from every other: random, not 0, below 2^53, the same for as long
// as the directory lives.
func (l *Log) Generation() uint64 { return l.generation }

// Opened is higher each time that the directory is opened, and below 2^33 for some centuries.
func (l *Log) Opened() uint64 { return l.opened }

// Size is the bytes of all segments.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sizeLocked()
}

func (l *Log) sizeLocked() (n int64) {
	for _, s := range l.segments {
		n += s.size
	}
	return n
}

// Segments lists the files, oldest first.
func (l *Log) Segments() []Segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Segment, len(l.segments))
	for i, s := range l.segments {
		out[i] = Segment{First: s.first, Note: s.note, Created: s.created, Bytes: s.size}
	}
	return out
}

// Trim removes the oldest segments, as long as all their records are below before and their last
// one was written before olderThan. A last segment that could go is followed by a new one soon,
// so that a later Trim removes it.
func (l *Log) Trim(before uint64, olderThan time.Time) {
	removed := false
	for s := l.trimmable(before, olderThan); s != nil; s = l.trimmable(before, olderThan) {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.o.Log.Warn("a segment could not be removed", "file", s.path, "error", err.Error())
			break
		}
		removed = true
		l.mu.Lock()
		if l.segments[0] == s {
			l.segments = l.segments[1:]
		}
		l.mu.Unlock()
	}
	if removed {
		_ = syncDir(l.o.Dir) // a file that comes back is trimmed again
	}
	l.mu.Lock()
	s := l.segments[len(l.segments)-1]
	l.roll = l.roll || len(l.segments) == 1 && l.end > s.first && l.end <= before && s.last.Before(olderThan)
	roll := l.roll
	l.mu.Unlock()
	if roll {
		l.poke()
	}
}

// Roll lets the next segment begin, whose note tells how things stand then, unless the last one has no
// record yet. It does not wait for that; Close does.
func (l *Log) Roll() {
	l.mu.Lock()
	l.roll = l.roll || !l.closing && l.end > l.segments[len(l.segments)-1].first
	roll := l.roll
	l.mu.Unlock()
	if roll {
		l.poke()
	}
}

// trimmable is the oldest segment when Trim may remove it.
func (l *Log) trimmable(before uint64, olderThan time.Time) *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segments) < 2 || l.segments[1].first > before || !l.segments[0].last.Before(olderThan) {
		return nil
	}
	return l.segments[0]
}

// damaged reports damage once for each place.
func (l *Log) damaged(s *segment, at, n int64, what string) {
	l.mu.Lock()
	told := s.told[at]
	if s.told == nil {
		s.told = map[int64]bool{}
	}
	s.told[at] = true
	l.mu.Unlock()
	if !told {
		l.m.damaged.Inc()
		l.o.Log.Error("the log is damaged; what is whole is used", "file", s.path, "offset", at, "bytes", n, "what", what)
	}
}

// Close writes what Append was given, ends the readers and lets go of the directory.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closing = true
	l.mu.Unlock()
	l.poke()
	<-l.done
	err := errors.Join(l.seal(), l.writer.file.Close(), l.lock.Close())
	if l.flusher != nil {
		err = errors.Join(err, l.flusher.close())
	}
	return err
}
