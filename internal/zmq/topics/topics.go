// Package topics is the subscription index: which subscribers want a message that begins
// with given bytes. It is a radix tree, so a lookup costs at most one step for each byte of
// the longest subscription on the way, however many subscriptions there are and however
// hostile their choice is.
package topics

import (
	"encoding/binary"
	"slices"
)

// Cost is how many bytes of memory a subscription to topic takes at most, on average.
func Cost(topic string) int64 { return 128 + 8*int64(len(topic)) }

// Index maps topic prefixes to subscribers of type K, counting repeats. The zero value is
// empty and ready. Not safe for concurrent use.
type Index[K comparable] struct {
	tree  tree
	subs  slots[subscriber[K]]
	ids   map[K]uint32    // in subs
	sets  slots[[]member] // who wants a topic that several want, or one more than once
	total int             // different topics
}

// shared marks the number of a set; a node's who is else the number of its only subscriber.
const shared = 1 << 31

type member struct {
	id    uint32 // in subs
	times int
}

// subscriber is one who wants something. Its log holds no pointers, unlike a map: see tree.
type subscriber[K comparable] struct {
	key    K
	topics int    // different ones that it wants
	log    []byte // each after its length, as they came; besides, ones not wanted any more, and repeats
	stale  int    // how many of the latter
}

func (s *subscriber[K]) note(topic string) {
	s.log = append(binary.AppendUvarint(s.log, uint64(len(topic))), topic...)
}

// Add notes that k wants topic. fresh reports whether k did not want it before, and first
// whether nobody did.
func (x *Index[K]) Add(k K, topic string) (fresh, first bool) {
	id := x.ids[k]
	if id == 0 {
		if x.ids == nil {
			x.ids = map[K]uint32{}
		}
		id = x.subs.take(subscriber[K]{key: k})
		x.ids[k] = id
	}
	fresh, first = x.join(&x.tree.nodes[x.tree.insert(topic)].who, id)
	if fresh {
		s := x.subs.at(id)
		s.topics++
		s.note(topic)
	}
	if first {
		x.total++
	}
	x.tree.compact()
	return fresh, first
}

// Remove takes one Add back. gone reports whether k does not want topic any more, and last
// whether nobody does. Removing what was never added changes nothing.
func (x *Index[K]) Remove(k K, topic string) (gone, last bool) {
	id := x.ids[k]
	if id == 0 {
		return false, false
	}
	if gone, last = x.detach(id, topic, false); !gone {
		return false, false
	}
	x.tree.compact()
	s := x.subs.at(id)
	s.topics--
	s.stale++
	switch {
	case s.topics == 0:
		x.forget(id)
	case s.stale > s.topics:
		wanted := x.list(id)
		s.stale, s.log = 0, nil
		for _, topic := range wanted {
			s.note(topic)
		}
	}
	return gone, last
}

// Drop forgets k and returns the topics that nobody wants any more, sorted.
func (x *Index[K]) Drop(k K) (last []string) {
	id := x.ids[k]
	if id == 0 {
		return nil
	}
	for _, topic := range x.list(id) {
		if _, nobody := x.detach(id, topic, true); nobody {
			last = append(last, topic)
		}
	}
	x.tree.compact()
	x.forget(id)
	return last
}

// Match appends to dst every subscriber of a prefix of msg. A subscriber of several of them
// is appended several times.
func (x *Index[K]) Match(msg []byte, dst []K) []K {
	for n, end := x.tree.first(msg); n != nil; n, end = x.tree.seek(n, msg, end) {
		if n.who&shared == 0 {
			dst = append(dst, x.subs.at(n.who).key)
			continue
		}
		for _, m := range *x.sets.at(n.who &^ shared) {
			dst = append(dst, x.subs.at(m.id).key)
		}
	}
	return dst
}

// Exact appends to dst every subscriber of the topic itself: not of what it begins with.
func (x *Index[K]) Exact(topic string, dst []K) []K {
	var room [64]uint32
	path := x.tree.path(topic, room[:0])
	if path == nil {
		return dst
	}
	switch who := x.tree.nodes[path[len(path)-1]].who; {
	case who == 0:
	case who&shared == 0:
		dst = append(dst, x.subs.at(who).key)
	default:
		for _, m := range *x.sets.at(who &^ shared) {
			dst = append(dst, x.subs.at(m.id).key)
		}
	}
	return dst
}

// Any reports whether anybody wants msg.
func (x *Index[K]) Any(msg []byte) bool {
	n, _ := x.tree.first(msg)
	return n != nil
}

// Topics lists the different topics, sorted.
func (x *Index[K]) Topics() []string {
	all := make([]string, 0, x.total)
	for _, id := range x.ids {
		all = append(all, x.list(id)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Len is the number of different topics.
func (x *Index[K]) Len() int { return x.total }

// Count is the number of different topics that k wants.
func (x *Index[K]) Count(k K) int {
	if id := x.ids[k]; id != 0 {
		return x.subs.at(id).topics
	}
	return 0
}

// list is what the subscriber wants, sorted.
func (x *Index[K]) list(id uint32) []string {
	s := x.subs.at(id)
	all, text := make([]string, 0, s.topics+s.stale), string(s.log)
	for at := 0; at < len(text); {
		size, n := binary.Uvarint(s.log[at:])
		end := at + n + int(size)
		all, at = append(all, text[at+n:end]), end
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(topic string) bool { return !x.wants(id, topic) })
}

func (x *Index[K]) wants(id uint32, topic string) bool {
	path := x.tree.path(topic, nil)
	if path == nil {
		return false
	}
	who := x.tree.nodes[path[len(path)-1]].who
	return who == id || who&shared != 0 && slices.ContainsFunc(*x.sets.at(who &^ shared), func(m member) bool { return m.id == id })
}

// join counts one more wish at a topic.
func (x *Index[K]) join(who *uint32, id uint32) (fresh, first bool) {
	if *who == 0 {
		*who = id
		return true, true
	}
	if *who&shared == 0 {
		*who = shared | x.sets.take([]member{{*who, 1}})
	}
	set := x.sets.at(*who &^ shared)
	for i := range *set {
		if m := &(*set)[i]; m.id == id {
			m.times++
			return false, false
		}
	}
	*set = append(*set, member{id, 1})
	return true, false
}

// leave takes one wish at a topic back, or all.
func (x *Index[K]) leave(who *uint32, id uint32, all bool) (gone, last bool) {
	if *who == id {
		*who = 0
		return true, true
	}
	if *who&shared == 0 {
		return false, false
	}
	set := x.sets.at(*who &^ shared)
	i := slices.IndexFunc(*set, func(m member) bool { return m.id == id })
	if i < 0 {
		return false, false
	}
	if m := &(*set)[i]; m.times > 1 && !all {
		m.times--
	} else {
		*set, gone = slices.Delete(*set, i, i+1), true
	}
	switch n := *who &^ shared; {
	case len(*set) == 0:
		*who = 0
		x.sets.release(n)
	case len(*set) == 1 && (*set)[0].times == 1:
		*who = (*set)[0].id
		x.sets.release(n)
	}
	return gone, *who == 0
}

// detach removes the subscriber from a topic, once or entirely, and prunes what is empty.
func (x *Index[K]) detach(id uint32, topic string, all bool) (gone, last bool) {
	var room [64]uint32
	path := x.tree.path(topic, room[:0])
	if path == nil {
		return false, false
	}
	gone, last = x.leave(&x.tree.nodes[path[len(path)-1]].who, id, all)
	if last {
		x.total--
		x.tree.prune(path)
	}
	return gone, last
}

func (x *Index[K]) forget(id uint32) {
	delete(x.ids, x.subs.at(id).key)
	x.subs.release(id)
}
