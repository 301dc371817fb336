// Package topics is the subscription index: which subscribers want a message that begins
// with given bytes. It is a radix tree, so a lookup costs at most one step for each byte of
// the longest subscription on the way, however many subscriptions there are and however
// hostile their choice is.
package topics

import (
	"bytes"
	"slices"
	"strings"
)

// Index maps topic prefixes to subscribers of type K, counting repeats. The zero value is
// empty and ready. Not safe for concurrent use.
type Index[K comparable] struct {
	root  node[K]
	byKey map[K]map[string]int // how often each subscriber asked for each topic
	total int                  // different topics
}

// node holds its children by value and its first subscriber too, in 64 bytes, so that a step
// touches little memory.
type node[K comparable] struct {
	prefix string    // from the parent to here; empty at the root and in a hole only
	next   []node[K] // children: at their first byte minus low, with holes; or in the order of rare.firsts
	one    K         // who asked for exactly this topic, if wanted
	rare   *rare[K]  // nil for most nodes
	low    byte
	wanted bool
}

// rare is what few nodes need.
type rare[K comparable] struct {
	more   []K    // who else asked for exactly this topic, each once
	firsts []byte // first byte of each child's prefix when those lie far apart, else nil
}

func (n *node[K]) uncommon() *rare[K] {
	if n.rare == nil {
		n.rare = new(rare[K])
	}
	return n.rare
}

// add notes one more subscriber and reports whether it is the first.
func (n *node[K]) add(k K) (first bool) {
	if n.wanted {
		r := n.uncommon()
		r.more = append(r.more, k)
		return false
	}
	n.one, n.wanted = k, true
	return true
}

// subtract forgets a subscriber and reports whether it was the last.
func (n *node[K]) subtract(k K) (last bool) {
	var zero K
	if n.rare == nil || len(n.rare.more) == 0 {
		n.one, n.wanted = zero, false
		return true
	}
	more := n.rare.more
	end := len(more) - 1
	if n.one == k {
		n.one = more[end]
	} else {
		more[slices.Index(more, k)] = more[end]
	}
	more[end] = zero
	n.rare.more = more[:end]
	return false
}

// Add notes that k wants topic. fresh reports whether k did not want it before, and first
// whether nobody did.
func (x *Index[K]) Add(k K, topic string) (fresh, first bool) {
	if x.byKey == nil {
		x.byKey = map[K]map[string]int{}
	}
	if x.byKey[k] == nil {
		x.byKey[k] = map[string]int{}
	}
	x.byKey[k][topic]++
	if x.byKey[k][topic] > 1 {
		return false, false
	}
	if first = x.insert(topic).add(k); first {
		x.total++
	}
	return true, first
}

// Remove takes one Add back. gone reports whether k does not want topic any more, and last
// whether nobody does. Removing what was never added changes nothing.
func (x *Index[K]) Remove(k K, topic string) (gone, last bool) {
	switch x.byKey[k][topic] {
	case 0:
		return false, false
	case 1:
		delete(x.byKey[k], topic)
		if len(x.byKey[k]) == 0 {
			delete(x.byKey, k)
		}
		return true, x.detach(k, topic)
	}
	x.byKey[k][topic]--
	return false, false
}

// Drop forgets k and returns the topics that nobody wants any more, sorted.
func (x *Index[K]) Drop(k K) (last []string) {
	for topic := range x.byKey[k] {
		if x.detach(k, topic) {
			last = append(last, topic)
		}
	}
	delete(x.byKey, k)
	slices.Sort(last)
	return last
}

// Match appends to dst every subscriber of a prefix of msg. A subscriber of several of them
// is appended several times.
func (x *Index[K]) Match(msg []byte, dst []K) []K {
	n, at := &x.root, 0
	for n != nil {
		if n.wanted {
			dst = append(dst, n.one)
			if n.rare != nil {
				dst = append(dst, n.rare.more...)
			}
		}
		n, at = n.step(msg, at)
	}
	return dst
}

// Any reports whether anybody wants msg.
func (x *Index[K]) Any(msg []byte) bool {
	n, at := &x.root, 0
	for n != nil {
		if n.wanted {
			return true
		}
		n, at = n.step(msg, at)
	}
	return false
}

// Topics lists the different topics, sorted.
func (x *Index[K]) Topics() []string {
	all := x.root.collect("", make([]string, 0, x.total))
	slices.Sort(all)
	return all
}

// Len is the number of different topics.
func (x *Index[K]) Len() int { return x.total }

// Count is the number of different topics that k wants.
func (x *Index[K]) Count(k K) int { return len(x.byKey[k]) }

// step goes to the child that msg continues with at a place, or to nil, and to the place after it.
func (n *node[K]) step(msg []byte, at int) (*node[K], int) {
	if at >= len(msg) {
		return nil, 0
	}
	i := int(msg[at]) - int(n.low)
	if n.rare != nil && n.rare.firsts != nil {
		i = bytes.IndexByte(n.rare.firsts, msg[at])
	}
	if uint(i) >= uint(len(n.next)) {
		return nil, 0
	}
	c := &n.next[i]
	end := at + len(c.prefix)
	if end != at+1 && (end == at || end > len(msg) || string(msg[at+1:end]) != c.prefix[1:]) { // the first byte is known
		return nil, 0
	}
	return c, end
}

// child is the one whose prefix begins with first, or nil.
func (n *node[K]) child(first byte) *node[K] {
	i := int(first) - int(n.low)
	if n.rare != nil && n.rare.firsts != nil {
		i = bytes.IndexByte(n.rare.firsts, first)
	}
	if uint(i) >= uint(len(n.next)) || n.next[i].prefix == "" {
		return nil
	}
	return &n.next[i]
}

// children are all that are no holes.
func (n *node[K]) children() []node[K] {
	all := make([]node[K], 0, len(n.next)+1)
	for _, c := range n.next {
		if c.prefix != "" {
			all = append(all, c)
		}
	}
	return all
}

// arrange makes all, of different first bytes, the node's children: with holes between them when those
// take no more than twice as much memory, so that a few topics never take much of it.
func (n *node[K]) arrange(all []node[K]) {
	n.low, n.next = 0, nil
	if n.rare != nil {
		n.rare.firsts = nil
	}
	if len(all) == 0 {
		return
	}
	slices.SortFunc(all, func(a, b node[K]) int { return int(a.prefix[0]) - int(b.prefix[0]) })
	low, high := all[0].prefix[0], all[len(all)-1].prefix[0]
	if int(high)-int(low) >= 2*len(all) {
		firsts := make([]byte, len(all))
		for i := range all {
			firsts[i] = all[i].prefix[0]
		}
		n.uncommon().firsts, n.next = firsts, slices.Clip(all)
		return
	}
	n.low, n.next = low, make([]node[K], int(high)-int(low)+1)
	for _, c := range all {
		n.next[c.prefix[0]-low] = c
	}
}

// insert finds or makes the node of topic, which stays in its place until the index changes again.
func (x *Index[K]) insert(topic string) *node[K] {
	n := &x.root
	for topic != "" {
		c := n.child(topic[0])
		if c == nil {
			n.arrange(append(n.children(), node[K]{prefix: strings.Clone(topic)}))
			return n.child(topic[0])
		}
		if same := common(c.prefix, topic); same < len(c.prefix) { // split the edge
			below := *c
			below.prefix = c.prefix[same:]
			*c = node[K]{prefix: c.prefix[:same]}
			c.arrange([]node[K]{below})
		}
		n, topic = c, topic[len(c.prefix):]
	}
	return n
}

// detach removes k from topic's node, prunes what is empty, and reports whether k was last.
func (x *Index[K]) detach(k K, topic string) bool {
	last := x.root.remove(k, topic)
	if last {
		x.total--
	}
	return last
}

func (n *node[K]) remove(k K, topic string) (last bool) {
	if topic == "" {
		return n.subtract(k)
	}
	c := n.child(topic[0])
	if last = c.remove(k, topic[len(c.prefix):]); !last || c.wanted {
		return last
	}
	switch below := c.children(); len(below) {
	case 0:
		c.prefix = ""
		n.arrange(n.children())
	case 1: // join the edge again
		below[0].prefix = c.prefix + below[0].prefix
		*c = below[0]
	}
	return last
}

func (n *node[K]) collect(path string, dst []string) []string {
	path += n.prefix
	if n.wanted {
		dst = append(dst, path)
	}
	for i := range n.next {
		if n.next[i].prefix != "" {
			dst = n.next[i].collect(path, dst)
		}
	}
	return dst
}

func common(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
