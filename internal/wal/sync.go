package wal

import (
	"time"

	"eventspine/internal/fault"
)

// sync makes what was written safe, all that was written during one fsync by the next one, until
// the writer has ended.
func (l *Log) sync() {
	for range l.syncs {
		for l.syncOnce() {
		}
		l.mu.Lock()
		ended := l.written
		l.mu.Unlock()
		if ended {
			break
		}
	}
	close(l.done)
	l.mu.Lock()
	close(l.grown) // readers look again and see that it is closed
	l.mu.Unlock()
}

// syncOnce reports whether there was anything to sync.
func (l *Log) syncOnce() bool {
	l.mu.Lock()
	groups, s, file := l.unsynced, l.segments[len(l.segments)-1], l.writer.file
	l.unsynced, l.syncing = nil, len(l.unsynced) > 0
	l.mu.Unlock()
	if len(groups) == 0 {
		return false
	}
	began := time.Now()
	err := l.o.sync(file)
	l.m.syncSeconds.Observe(time.Since(began).Seconds())
	l.mu.Lock()
	if err != nil {
		// The pages that could not be written may be taken for clean from now on: nothing in this
		// file is promised any more, and the next records go to another one.
		s.failed = true
		groups, l.unsynced = append(groups, l.unsynced...), nil
	}
	l.syncing = false
	l.settled.Broadcast()
	l.mu.Unlock()
	for _, g := range groups {
		if err != nil {
			l.fail(g, diskError("append to log", err))
			continue
		}
		l.m.groupSeconds.Observe(time.Since(g.began).Seconds())
		close(g.done)
	}
	return true
}

// settle waits until all that was written is synced, or has failed.
func (l *Log) settle() {
	l.mu.Lock()
	for len(l.unsynced) > 0 || l.syncing {
		l.settled.Wait()
	}
	l.mu.Unlock()
}

// submit hands a group that is written to the sync; s is where it was written.
func (l *Log) submit(g *group, s *segment) {
	l.mu.Lock()
	failed := s.failed
	if !failed {
		l.unsynced = append(l.unsynced, g)
	}
	l.mu.Unlock()
	if failed {
		l.fail(g, fault.Errorf("append to log", fault.Unavailable, "the disk failed while the records were being written"))
		return
	}
	select {
	case l.syncs <- struct{}{}:
	default: // the sync under way is followed by another
	}
}
