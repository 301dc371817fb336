package clone

import (
	"maps"
	"strconv"
	"strings"
)

const maxHeld = 10_000 // updates that are kept while a snapshot is on its way

// snapshot is a subtree as it was at one number.
type snapshot struct {
	epoch   string
	seq     uint64
	entries map[string]entry
}

// follower is a client's copy of a subtree. It needs no socket and no clock.
type follower struct {
	subtree string
	epoch   string
	seq     uint64 // up to here the copy is known to be complete
	entries map[string]entry
	synced  bool // a snapshot is in and no update was missed since
	held    []message
}

// update takes one published change. It reports whether the copy changed; after it, synced is
// false when a change before this one was missed.
func (f *follower) update(m message) (changed bool) {
	if !strings.HasPrefix(m.key, f.subtree) {
		return false
	}
	if !f.synced {
		if len(f.held) == maxHeld {
			f.held = f.held[:0] // the next snapshot will be older than what comes now, and not fit
		}
		f.held = append(f.held, m)
		return false
	}
	if epoch, told := m.props[propEpoch]; told && epoch != f.epoch {
		f.lose()
		return false
	}
	if m.seq <= f.seq {
		return false
	}
	if before, told := m.prev(level(f.subtree)); told && before > f.seq {
		f.lose()
		return false
	}
	f.seq = m.seq
	if len(m.value) == 0 {
		_, changed = f.entries[m.key]
		delete(f.entries, m.key)
		return changed
	}
	f.entries[m.key] = entry{seq: m.seq, id: m.id, value: m.value}
	return true
}

// lose notes that something was missed. Nothing need be held: a snapshot that is asked for from
// now on has all that was published before.
func (f *follower) lose() { f.synced, f.held = false, nil }

// heartbeat compares the copy with where the server says it stands. After it, synced is false
// when something was missed.
func (f *follower) heartbeat(m message) {
	epoch, told := m.props[propEpoch]
	if !f.synced || !told {
		return
	}
	if epoch != f.epoch || m.seq < f.seq || f.headIn(m) > f.seq {
		f.lose()
		return
	}
	f.seq = m.seq
}

// headIn is the number of the last change in our subtree that the heartbeat tells of.
func (f *follower) headIn(m message) uint64 {
	if level(f.subtree) == 0 {
		return m.seq
	}
	head, ok := m.number(subtrees(f.subtree)[1])
	if !ok {
		head, _ = m.number(propBase)
	}
	return head
}

// restore takes a snapshot and then the updates that came meanwhile. It reports whether the
// copy is another one now; synced is false when the snapshot and those updates do not join.
func (f *follower) restore(s snapshot) (changed bool) {
	before, held, life := f.entries, f.held, f.epoch
	f.epoch, f.seq, f.entries, f.synced, f.held = s.epoch, s.seq, maps.Clone(s.entries), true, nil
	if f.entries == nil {
		f.entries = map[string]entry{}
	}
	for _, m := range held {
		if f.update(m); !f.synced {
			break // the next snapshot will have the rest of them
		}
	}
	return life != f.epoch || !maps.EqualFunc(before, f.entries, func(a, b entry) bool { return a.seq == b.seq && a.id == b.id })
}

// collector gathers the messages of one snapshot.
type collector struct {
	subtree string
	s       snapshot
}

// add takes one message and reports whether the snapshot is whole with it. The error is a badFrame.
func (c *collector) add(m message) (whole bool, err error) {
	if c.s.entries == nil {
		c.s.entries = map[string]entry{}
	}
	if m.key != kthxbai {
		if !strings.HasPrefix(m.key, c.subtree) || len(m.value) == 0 {
			return false, badKey
		}
		c.s.entries[m.key] = entry{seq: m.seq, id: m.id, value: m.value}
		return false, nil
	}
	if count, told := m.props[propCount]; string(m.value) != c.subtree || told && count != strconv.Itoa(len(c.s.entries)) {
		return false, badSubtree
	}
	c.s.seq, c.s.epoch = m.seq, m.props[propEpoch]
	return true, nil
}
