package wal

import (
	"errors"
	"io"
	"os"
)

const (
	window   = 256 << 10 // bytes read at once
	pageSize = 4 << 10   // bytes given up where the disk cannot read
)

// scanner walks the records of one segment's file.
type scanner struct {
	f     *os.File
	seed  uint32
	at    int64  // of the next record
	next  uint64 // the least index that it can have
	cap   uint64 // the greatest
	slack uint64 // records that may be missing before at
	buf   []byte
	base  int64 // offset of buf in the file
}

// step is what a scanner found before limit.
type step struct {
	index   uint64
	body    []byte // valid until the next step; nil: there is no record any more
	at      int64  // where the record begins
	from    int64  // where the scan began
	skipped int64  // damaged bytes from there
}

// scan finds the next whole record that ends at limit or before.
func (s *scanner) scan(limit int64) (step, error) {
	from := s.at
	for limit-s.at >= recordHead {
		b, err := s.bytes(s.at, recordHead, limit)
		if err != nil {
			return step{}, err
		}
		// Each record takes its head at least: that bounds how many can be missing.
		hi := min(s.cap, s.next+s.slack+uint64(s.at-from)/recordHead)
		n, index, ok := bodyLen(b, limit-s.at, s.next, hi)
		if ok {
			if b, err = s.bytes(s.at, recordHead+n, limit); err != nil {
				return step{}, err
			}
			if whole(b, s.seed, s.at) {
				found := step{index: index, body: b[recordHead:], at: s.at, from: from, skipped: s.at - from}
				s.at, s.next, s.slack = s.at+recordSize(n), index+1, 0
				return found, nil
			}
		}
		s.at += align
	}
	s.at = max(from, aligned(limit))
	s.slack += uint64(s.at-from) / recordHead
	return step{from: from, skipped: max(0, limit-from)}, nil
}

// bytes gives n bytes at offset at, which lie before limit.
func (s *scanner) bytes(at int64, n int, limit int64) ([]byte, error) {
	if at < s.base || at+int64(n) > s.base+int64(len(s.buf)) {
		if err := s.fill(at, max(n, int(min(window, limit-at)))); err != nil {
			return nil, err
		}
	}
	return s.buf[at-s.base:][:n], nil
}

func (s *scanner) fill(at int64, n int) error {
	if cap(s.buf) < n {
		s.buf = make([]byte, n, max(n, window))
	}
	s.buf, s.base = s.buf[:n], at
	_, err := s.f.ReadAt(s.buf, at)
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrClosed) {
		s.buf = s.buf[:0]
		return err
	}
	// What cannot be read is damage: its checksum will not fit. Page by page, to lose the least.
	clear(s.buf)
	for done := 0; done < n; {
		part := s.buf[done:min(n, done+pageSize)]
		if got, err := s.f.ReadAt(part, at+int64(done)); err != nil && !errors.Is(err, io.EOF) {
			clear(part[got:])
		}
		done += len(part)
	}
	return nil
}

// blankFrom reports whether f holds zeroes only from offset at to limit.
func blankFrom(f *os.File, at, limit int64) bool {
	b := make([]byte, min(window, limit-at))
	for at < limit {
		n, err := f.ReadAt(b[:min(int64(len(b)), limit-at)], at)
		if !blank(b[:n]) || n == 0 && err != nil {
			return false
		}
		at += int64(n)
	}
	return true
}
