package wal

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sort"

	"eventspine/internal/fault"
)

// Reader gives a log's records in order, as soon as they are written: those of the last fsync under way
// are among them. It is for one goroutine at a time.
type Reader struct {
	l    *Log
	want uint64 // the least index to give
	seg  *segment
	scan scanner
}

// Reader begins at index from, or at First where that is later. Several may read at once, while
// the log is appended to and trimmed.
func (l *Log) Reader(from uint64) *Reader { return &Reader{l: l, want: max(from, 1)} }

// Seek goes on at index.
func (r *Reader) Seek(index uint64) {
	r.want = max(index, 1)
	if r.seg == nil {
		return
	}
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if s := r.l.holding(r.want); s == r.seg {
		r.place(s)
		return
	}
	r.leave()
}

// place puts the scanner near r.want. Log.mu is held.
func (r *Reader) place(s *segment) {
	m := s.start(r.want)
	r.scan.at, r.scan.next, r.scan.slack = m.at, m.index, 0
}

func (r *Reader) leave() {
	if r.scan.f != nil {
		_ = r.scan.f.Close() // it was only read
	}
	r.seg, r.scan = nil, scanner{buf: r.scan.buf[:0]}
}

// Close lets go of the file.
func (r *Reader) Close() error {
	r.leave()
	return nil
}

// Next waits for the next record until ctx ends or the log is closed (Unavailable). record is
// valid until the next call. Where records are damaged, or were trimmed before they were read,
// the index jumps; damage is reported once, in the log's logger and metrics.
func (r *Reader) Next(ctx context.Context) (index uint64, record []byte, err error) {
	for {
		index, record, wait, err := r.next()
		if err != nil || wait == nil {
			return index, record, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, nil, fault.E("read log", fault.Unavailable, ctx.Err())
		}
	}
}

// TryNext is Next that does not wait: index 0 says that no more is written. Log.Grown tells
// when to come again.
func (r *Reader) TryNext() (index uint64, record []byte, err error) {
	index, record, _, err = r.next()
	return index, record, err
}

// next gives a record, or what to wait for.
func (r *Reader) next() (index uint64, record []byte, wait <-chan struct{}, err error) {
	for {
		limit, over, wait, err := r.look()
		if err != nil {
			return 0, nil, nil, err
		}
		switch {
		case r.scan.at < limit:
			s, err := r.scan.scan(limit)
			if err != nil {
				return 0, nil, nil, diskError("read log", err)
			}
			switch {
			case s.skipped > 0 && s.body == nil && blankFrom(r.scan.f, s.from, limit):
				r.scan.slack = 0 // a process ended before it could cut them off: what may be missing shows by the next index
			case s.skipped > 0:
				r.l.damaged(r.seg, s.from, s.skipped, "record")
			}
			if s.body != nil {
				r.pass(s)
			}
			if s.body != nil && s.index >= r.want {
				r.want = s.index + 1
				return s.index, s.body, nil, nil
			}
		case over:
			r.follow()
		default:
			return 0, nil, wait, nil
		}
	}
}

// pass keeps a mark in segments that were written before this process began.
func (r *Reader) pass(s step) {
	if s.at-r.seg.data < markEvery {
		return
	}
	r.l.mu.Lock()
	r.seg.passed(s.index, s.at)
	r.l.mu.Unlock()
}

// look opens the segment where r.want is. It tells how far that is committed, whether another
// segment follows it, and what to wait for otherwise.
func (r *Reader) look() (limit int64, over bool, wait <-chan struct{}, err error) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.seg == nil {
		s := l.holding(r.want)
		f, err := os.Open(s.path)
		for errors.Is(err, fs.ErrNotExist) && s != l.segments[len(l.segments)-1] { // being trimmed
			s = l.after(s)
			f, err = os.Open(s.path)
		}
		if err != nil {
			return 0, false, nil, diskError("read log", err)
		}
		r.want = max(r.want, s.first)
		r.seg, r.scan.f, r.scan.seed = s, f, s.seed
		r.place(s)
	}
	last := l.segments[len(l.segments)-1]
	r.scan.cap = l.end - 1
	if over = r.seg != last; over {
		r.scan.cap = l.after(r.seg).first - 1
	}
	if !over && r.scan.at >= r.seg.size {
		select {
		case <-l.done:
			return 0, false, nil, fault.E("read log", fault.Unavailable, os.ErrClosed)
		default:
		}
	}
	return r.seg.size, over, l.grown, nil
}

// holding is the segment that index is in, or would be. mu is held.
func (l *Log) holding(index uint64) *segment {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > index })
	return l.segments[max(i-1, 0)]
}

// after is the segment that follows s; s may have been trimmed, and is not the last. mu is held.
func (l *Log) after(s *segment) *segment {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > s.first })
	return l.segments[i]
}

// follow leaves a segment that was read to its end for the next one.
func (r *Reader) follow() {
	r.l.mu.Lock()
	next := r.l.after(r.seg)
	r.l.mu.Unlock()
	if r.scan.next < next.first && r.scan.slack == 0 { // otherwise the damage was told
		r.l.damaged(r.seg, r.seg.size, 0, "end: records up to "+segmentName(next.first)+" are missing")
	}
	r.want = max(r.want, next.first)
	r.leave()
}
