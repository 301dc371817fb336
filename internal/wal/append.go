package wal

import (
	"context"
	"errors"
	"os"
	"time"

	"eventspine/internal/fault"
)

const (
	groupBytes = 8 << 20 // of records that are written together; a longer list of records is a group alone
	chunkBytes = 1 << 20 // of records that are written at once
	aheadBytes = 1 << 20 // of zeroes that a segment is kept longer than it need be
	aheadShare = 8       // and at most this part of its limit
	zeroBytes  = 64 << 10
	lookEvery  = 20 * time.Millisecond // how long the disk's room is known, at most
)

// entry is one Append.
type entry struct {
	records   [][]byte
	size      int64
	stamp     func(uint64)
	withdrawn bool // guarded by Log.mu until the group was taken
	first     uint64
	err       error
}

// group is what is written together.
type group struct {
	entries []*entry
	size    int64
	taken   bool          // guarded by Log.mu
	done    chan struct{} // closed when every entry has its first or err

	kept  []*entry // those that were written
	began time.Time
}

// writer is what only the goroutine that writes uses, after Open.
type writer struct {
	file   *os.File
	broken bool  // the file may hold more than what counts
	room   int64 // up to where the file was filled with zeroes
	buf    []byte
	zeroes []byte

	spare  int64 // bytes that may be written before the disk is asked for its room again
	looked time.Time
}

// fits reports whether size more bytes leave least bytes free on the disk. It asks the disk where half
// of what was free is used up, or that was some time ago.
func (w *writer) fits(size, least int64, dir string, now time.Time) bool {
	if size > w.spare || now.Sub(w.looked) >= lookEvery {
		free, err := freeBytes(dir)
		if err != nil {
			return true // writing will tell
		}
		w.spare, w.looked = (free-least)/2+size, now
		if free-size < least {
			w.spare = 0
			return false
		}
	}
	w.spare -= size
	return true
}

// repair makes the file end at size again.
func (w *writer) repair(size int64) error {
	w.broken = true
	if err := w.file.Truncate(size); err != nil {
		return err
	}
	if err := syncData(w.file); err != nil {
		return err
	}
	w.broken, w.room = false, size
	return nil
}

// extend fills the file with zeroes well past size. To overwrite what is there changes nothing but
// the bytes, so that an fsync need not wait for the file system's own journal.
func (w *writer) extend(size, limit int64) {
	ahead := min(aheadBytes, limit/aheadShare)
	if w.broken || w.room-size >= ahead/2 || ahead < 2*pageSize {
		return
	}
	to := (size + ahead) &^ (pageSize - 1)
	if len(w.zeroes) == 0 {
		w.zeroes = make([]byte, zeroBytes)
	}
	for from := max(w.room, size); from < to; {
		n, err := w.file.WriteAt(w.zeroes[:min(int64(len(w.zeroes)), to-from)], from)
		if from += int64(n); err != nil { // a full disk shows when there are records to write
			to = from
		}
	}
	w.room = to
}

// Append keeps the records together, in order, and returns the index of the first when they are
// on the disk. The records must not be changed before it returns. stamp, when not nil, runs when
// the indexes are given and before the bytes are copied, in index order; what it does to the
// records is kept. It runs again, with 0, when the records could not be written after all: then
// the indexes go to others, and in reverse order each owner takes back what it noted.
//
// Errors: Overloaded when the log is full or the disk has too little room; Unavailable when the
// disk fails, the log is closed, or ctx ends before the records are being written; TooLarge past
// MaxRecord. Nothing is kept then, but for one case: when the disk fails in the middle of the fsync,
// readers have seen the records, and it is not known whether they survive a restart.
func (l *Log) Append(ctx context.Context, records [][]byte, stamp func(first uint64)) (first uint64, err error) {
	const op = "append to log"
	e := &entry{records: records, stamp: stamp}
	for _, r := range records {
		if len(r) > MaxRecord {
			return 0, fault.Errorf(op, fault.TooLarge, "a record has %d bytes; at most %d are allowed", len(r), MaxRecord)
		}
		e.size += recordSize(len(r))
	}
	if len(records) == 0 {
		return 0, fault.Errorf(op, fault.Invalid, "no record is given")
	}
	if err := ctx.Err(); err != nil {
		return 0, fault.E(op, fault.Unavailable, err)
	}
	g, err := l.enqueue(e)
	if err != nil {
		return 0, err
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		if l.withdraw(g, e) {
			return 0, fault.E(op, fault.Unavailable, ctx.Err())
		}
		<-g.done
	}
	return e.first, e.err
}

func (l *Log) enqueue(e *entry) (*group, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return nil, fault.E("append to log", fault.Unavailable, os.ErrClosed)
	}
	n := len(l.queue)
	if n == 0 || l.queue[n-1].size+e.size > groupBytes {
		l.queue = append(l.queue, &group{done: make(chan struct{})})
		n++
	}
	g := l.queue[n-1]
	g.entries, g.size = append(g.entries, e), g.size+e.size
	l.poke()
	return g, nil
}

func (l *Log) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Log) withdraw(g *group, e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.withdrawn = !g.taken
	return e.withdrawn
}

// write writes group after group until the log is closed and all is written.
func (l *Log) write() {
	defer l.finish()
	for {
		l.mu.Lock()
		var g *group
		if len(l.queue) > 0 {
			g, l.queue = l.queue[0], l.queue[1:]
			g.taken = true
		}
		closing, roll := l.closing, l.roll && g == nil
		l.mu.Unlock()
		switch {
		case g != nil:
			l.commit(g)
		case roll:
			l.rollOver()
		case closing:
			return
		default:
			<-l.wake
		}
	}
}

// finish lets the sync end, and waits for it.
func (l *Log) finish() {
	l.mu.Lock()
	l.written = true
	l.mu.Unlock()
	select {
	case l.syncs <- struct{}{}:
	default: // it will look once more anyway
	}
	<-l.done
}

// rollOver begins the next segment before the last one is full. A failure is left to the next
// Trim and to the next append.
func (l *Log) rollOver() {
	if err := l.begin(); err != nil {
		l.o.Log.Warn("the next segment could not be begun", "error", err.Error())
	}
	l.mu.Lock()
	l.roll = false
	l.mu.Unlock()
}

// commit gives the group's entries their indexes and writes them. Readers see them; those who
// appended them wait for the next fsync. What could not be written has its err.
func (l *Log) commit(g *group) {
	g.began = time.Now()
	var err error
	if g.kept, err = l.admit(g); err == nil && len(g.kept) > 0 {
		err = l.store(g)
	}
	if err == nil && len(g.kept) > 0 {
		return
	}
	l.fail(g, err)
}

// fail answers for a group that is not kept, or of which it is not known.
func (l *Log) fail(g *group, err error) {
	if err != nil {
		l.m.refuse(err, g.kept)
		for _, e := range g.kept {
			e.first, e.err = 0, err
		}
	}
	close(g.done)
}

// admit refuses what there is no room for. The rest is returned; an error is for all of it.
func (l *Log) admit(g *group) (kept []*entry, err error) {
	l.mu.Lock()
	active, room := l.segments[len(l.segments)-1], l.o.MaxBytes-l.sizeLocked()
	full := active.size >= l.o.SegmentBytes || active.failed
	l.mu.Unlock()
	var size int64
	var refused []*entry
	for _, e := range g.entries {
		switch {
		case e.withdrawn:
		case size+e.size > room:
			e.err = fault.Errorf("append to log", fault.Overloaded, "the log in %s has reached its limit of %d bytes", l.o.Dir, l.o.MaxBytes)
			refused = append(refused, e)
		default:
			kept, size = append(kept, e), size+e.size
		}
	}
	if len(refused) > 0 {
		l.m.refuse(errFull, refused)
	}
	if len(kept) == 0 {
		return nil, nil
	}
	if l.o.MinFree > 0 && !l.writer.fits(size, l.o.MinFree, l.o.Dir, g.began) {
		return kept, fault.E("append to log", fault.Overloaded, errDisk)
	}
	if l.writer.broken {
		if err := l.writer.repair(active.size); err != nil {
			return kept, diskError("repair log", err)
		}
	}
	if full {
		return kept, l.begin()
	}
	return kept, nil
}

var (
	errFull = errors.New("the log is full")
	errDisk = errors.New("the disk has too little room left")
)

// store writes the entries, lets the readers see them, and hands the group to the fsync.
func (l *Log) store(g *group) error {
	l.mu.Lock()
	s, index := l.segments[len(l.segments)-1], l.end
	l.mu.Unlock()
	c := chunk{w: &l.writer, seed: s.seed, at: s.size, end: index}
	stamped, err := 0, error(nil)
	for ; stamped < len(g.kept) && err == nil; stamped++ {
		err = c.add(g.kept[stamped])
	}
	if err == nil {
		err = c.flush()
	}
	if err != nil {
		l.undo(g.kept[:stamped], s)
		return diskError("append to log", err)
	}
	l.m.records.Add(float64(c.end - index))
	l.m.bytes.Add(float64(c.at - s.size))
	l.publish(s, c)
	l.submit(g, s)
	l.writer.extend(c.at, l.o.SegmentBytes)
	return nil
}

// chunk encodes entries and writes them when there are many.
type chunk struct {
	w     *writer
	seed  uint32
	at    int64  // where the next record goes
	end   uint64 // its index
	marks []mark
}

func (c *chunk) add(e *entry) error {
	e.first = c.end
	if e.stamp != nil {
		e.stamp(c.end)
	}
	c.marks = append(c.marks, mark{c.end, c.at})
	for _, r := range e.records {
		had := len(c.w.buf)
		c.w.buf = appendRecord(c.w.buf, c.seed, c.at, c.end, r)
		c.at += int64(len(c.w.buf) - had)
		c.end++
		if len(c.w.buf) >= chunkBytes {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what is encoded.
func (c *chunk) flush() error {
	w := c.w
	_, err := w.file.WriteAt(w.buf, c.at-int64(len(w.buf)))
	w.buf = w.buf[:0]
	return err
}

// undo takes back what was stamped and cuts what was written.
func (l *Log) undo(stamped []*entry, s *segment) {
	for i := len(stamped) - 1; i >= 0; i-- {
		if stamped[i].stamp != nil {
			stamped[i].stamp(0)
		}
	}
	if err := l.writer.repair(s.size); err != nil {
		l.o.Log.Error("the log could not be written and not be cut; it refuses records until it can", "file", s.path, "error", err.Error())
	}
}

// publish makes the records of c visible.
func (l *Log) publish(s *segment, c chunk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.size, s.last, l.end = c.at, time.Now(), c.end
	for _, m := range c.marks {
		s.passed(m.index, m.at)
	}
	close(l.grown)
	l.grown = make(chan struct{})
}
