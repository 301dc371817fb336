package topics

import (
	"bytes"
	"encoding/binary"
)

const width = 8 // bytes of a topic that a node holds

// tree is a radix tree whose nodes lie in one slice and hold no pointers, so that a step touches
// little memory and the garbage collector none. A set of topics has one shape, whatever came
// before. The zero value is empty.
type tree struct {
	nodes []node // the root first; at most 1<<32, which take 80 GB
	waste int    // how many of them nothing refers to
}

// node stands for the topic that the texts from the root to it make. What is longer than width
// without a branch is a chain of nodes, full ones but for the last. The first byte of a node's text
// says where it lies among its siblings.
type node struct {
	next   uint32 // the first of its children: each at its first byte minus low, with holes between, or see sparse
	who    uint32 // whatever the user of the tree keeps for the topic; 0: nothing
	low    byte
	last   byte        // places of children minus one
	sparse bool        // children are sorted, without holes, as their first bytes lie far apart
	size   byte        // of the text; 0 in a hole and at the root
	text   [width]byte // its first size bytes
}

// first is the first node on the way of msg that somebody wants, or nil, and where its topic ends.
func (t *tree) first(msg []byte) (*node, int) {
	if len(t.nodes) == 0 {
		return nil, 0
	}
	if n := &t.nodes[0]; n.who == 0 {
		return t.seek(n, msg, 0)
	}
	return &t.nodes[0], 0
}

// seek goes on from n, whose topic ends at msg[:end], to the next node below that somebody wants,
// or to nil, and to where its topic ends.
func (t *tree) seek(n *node, msg []byte, end int) (*node, int) {
	for nodes := t.nodes; end < len(msg); {
		i := msg[end] - n.low
		if n.sparse {
			i = t.search(n, msg[end])
		}
		at := int(n.next) + int(i)
		if i > n.last || at >= len(nodes) {
			return nil, 0
		}
		n = &nodes[at] // for want of children that is the root, as good as a hole
		if n.size != 1 && !n.begins(msg[end:]) {
			return nil, 0
		}
		end += int(n.size)
		if n.who != 0 {
			return n, end
		}
	}
	return nil, 0
}

// begins reports whether msg begins with the node's text. Nothing begins with a hole.
func (n *node) begins(msg []byte) bool {
	if len(msg) < width {
		return n.size > 0 && bytes.HasPrefix(msg, n.text[:n.size])
	}
	differ := binary.LittleEndian.Uint64(msg) ^ binary.LittleEndian.Uint64(n.text[:])
	return differ<<((8*(width-n.size))&63) == 0 && n.size > 0
}

// search is the place of the sparse child that begins with first, or 255, which none has.
func (t *tree) search(n *node, first byte) byte {
	all := t.children(n)
	low, high := 0, len(all)
	for low < high {
		switch middle := (low + high) / 2; {
		case all[middle].text[0] == first:
			return byte(middle)
		case all[middle].text[0] < first:
			low = middle + 1
		default:
			high = middle
		}
	}
	return 255
}

func (t *tree) children(n *node) []node {
	if n.next == 0 {
		return nil
	}
	return t.nodes[n.next:][:int(n.last)+1]
}

// child is the one of the node that begins with first, or 0.
func (t *tree) child(at uint32, first byte) uint32 {
	n := &t.nodes[at]
	i := first - n.low
	if n.sparse {
		i = t.search(n, first)
	}
	if i > n.last || t.nodes[n.next+uint32(i)].size == 0 {
		return 0
	}
	return n.next + uint32(i)
}

// path appends to dst the nodes from the root to topic's, or gives nil if it has none.
func (t *tree) path(topic string, dst []uint32) []uint32 {
	if len(t.nodes) == 0 {
		return nil
	}
	at := uint32(0)
	for dst = append(dst, at); topic != ""; dst = append(dst, at) {
		if at = t.child(at, topic[0]); at == 0 {
			return nil
		}
		n := &t.nodes[at]
		same := n.common(topic)
		if same < int(n.size) {
			return nil
		}
		topic = topic[same:]
	}
	return dst
}

// insert finds or makes the node of topic. It may move all others.
func (t *tree) insert(topic string) uint32 {
	if len(t.nodes) == 0 {
		t.nodes = make([]node, 1)
	}
	at := uint32(0)
	for topic != "" {
		c := t.child(at, topic[0])
		if c == 0 {
			var leaf node
			leaf.size = byte(copy(leaf.text[:], topic))
			t.arrange(at, leaf)
			c = t.child(at, topic[0])
		}
		same := t.nodes[c].common(topic)
		if same < int(t.nodes[c].size) {
			t.split(c, same)
		}
		at, topic = c, topic[same:]
	}
	return at
}

// split makes the rest of the node's text, from size on, a child of its own.
func (t *tree) split(at uint32, size int) {
	upper := node{size: byte(size)}
	lower := t.nodes[at]
	lower.size = byte(copy(lower.text[:], lower.text[copy(upper.text[:size], lower.text[:]):lower.size]))
	t.nodes[at] = upper
	t.arrange(at, lower)
	t.fill(t.nodes[at].next)
}

// prune takes away what the last node of the path was needed for, after nobody wants its topic any more.
func (t *tree) prune(path []uint32) {
	for i := len(path) - 1; i > 0; i-- {
		n := &t.nodes[path[i]]
		if n.who != 0 {
			return
		}
		if n.next != 0 {
			t.fill(path[i])
			return
		}
		n.size = 0
		t.arrange(path[i-1], node{})
	}
}

// fill takes text from the node's only child, if nobody wants the node itself, until it is full,
// and so on down the chain.
func (t *tree) fill(at uint32) {
	for n := &t.nodes[at]; n.who == 0 && n.next != 0 && n.last == 0 && n.size < width; n = &t.nodes[at] {
		c := &t.nodes[n.next]
		moved := copy(n.text[n.size:], c.text[:c.size])
		if n.size += byte(moved); moved == int(c.size) {
			whole := *c
			whole.size, whole.text = n.size, n.text
			*n, *c = whole, node{}
			t.waste++
			continue
		}
		c.size = byte(copy(c.text[:], c.text[moved:c.size]))
		n.low, at = c.text[0], n.next
	}
}

// arrange lays out the node's children anew, with one more unless that is a hole: with holes
// between them when those take no more than twice as much memory, so that a few topics never take
// much of it.
func (t *tree) arrange(at uint32, more node) {
	var room [256]node
	all := room[:0]
	old := t.children(&t.nodes[at])
	for _, c := range old {
		if more.size > 0 && c.size > 0 && c.text[0] > more.text[0] {
			all, more = append(all, more), node{}
		}
		if c.size > 0 {
			all = append(all, c)
		}
	}
	if more.size > 0 {
		all = append(all, more)
	}
	clear(old)
	n := &t.nodes[at]
	base := n.next
	n.next, n.low, n.last, n.sparse = 0, 0, 0, false
	if len(all) == 0 {
		t.waste += len(old)
		return
	}
	low := all[0].text[0]
	places := int(all[len(all)-1].text[0]-low) + 1
	sparse := places > 2*len(all)
	if sparse {
		places = len(all)
	}
	if places > len(old) {
		base = uint32(len(t.nodes))
		t.nodes = append(t.nodes, make([]node, places)...)
		t.waste += len(old)
	} else {
		t.waste += len(old) - places
	}
	n = &t.nodes[at]
	n.next, n.low, n.last, n.sparse = base, low, byte(places-1), sparse
	for i, c := range all {
		if !sparse {
			i = int(c.text[0] - low)
		}
		t.nodes[int(base)+i] = c
	}
}

// compact copies what is in use, level by level, when that is less than half.
func (t *tree) compact() {
	if 2*t.waste <= len(t.nodes) {
		return
	}
	used := make([]node, 1, len(t.nodes)-t.waste)
	used[0] = t.nodes[0]
	for i := 0; i < len(used); i++ {
		if below := t.children(&used[i]); below != nil {
			used[i].next = uint32(len(used))
			used = append(used, below...)
		}
	}
	t.nodes, t.waste = used, 0
}

// common is how many first bytes of topic the node's text has.
func (n *node) common(topic string) int {
	size := min(int(n.size), len(topic))
	for i := range size {
		if n.text[i] != topic[i] {
			return i
		}
	}
	return size
}
