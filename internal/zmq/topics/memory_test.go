package topics

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"
)

// shapes are sets of topics that a radix tree may find hard.
func shapes() map[string]func(i int) string {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}
	long := random(500)
	return map[string]func(i int) string{
		"numbers":          func(i int) string { return fmt.Sprintf("t.%08d.", i) },
		"nested":           func(i int) string { return long[:i%500] },
		"branches":         func(i int) string { return long[:i%500] + random(1) },
		"far apart":        func(i int) string { return string([]byte{byte(i >> 8), byte(i), 0, byte(i%2) * 3, 1}) },
		"every other byte": func(i int) string { return fmt.Sprintf("%b", i/3) + string([]byte{0, 2, 4}[i%3]) },
		"one too long":     func(i int) string { return string([]byte{byte(i >> 8), byte(i)}) + long[:width*(i%9)+1] },
		"random 3":         func(int) string { return random(3) },
		"random 9":         func(int) string { return random(9) },
		"random 100":       func(int) string { return random(100) },
	}
}

// footprint is the memory of all that grows with the subscriptions.
func footprint(x *Index[int]) (bytes int) {
	bytes = cap(x.tree.nodes)*int(unsafe.Sizeof(node{})) + cap(x.sets.values)*int(unsafe.Sizeof([]member{})) + 4*cap(x.sets.idle)
	for _, s := range x.subs.values {
		bytes += cap(s.log)
	}
	for _, set := range x.sets.values {
		bytes += cap(set) * int(unsafe.Sizeof(member{}))
	}
	return bytes
}

func TestMemoryIsWhatItCosts(t *testing.T) {
	for name, shape := range shapes() {
		t.Run(name, func(t *testing.T) {
			var x Index[int]
			cost, added := 0, []string(nil)
			within := func(i int) {
				if got := footprint(&x); i%16 == 0 && got > cost+4096 { // which a few may take
					t.Fatalf("%d bytes for %d topics that cost %d", got, x.Len(), cost)
				}
			}
			for i := range 3000 {
				topic := shape(i)
				for k := range 1 + i%2 {
					if fresh, _ := x.Add(k, topic); fresh {
						cost += int(Cost(topic))
						added = append(added, topic)
					}
				}
				within(i)
			}
			for i, topic := range added {
				for k := range 2 {
					if gone, _ := x.Remove(k, topic); gone && i%3 > 0 {
						cost -= int(Cost(topic))
					} else if gone {
						x.Add(k, topic)
					}
				}
				within(i)
			}
			x.Drop(0)
			x.Drop(1)
			if x.Len() > 0 || footprint(&x) > 4096 {
				t.Fatalf("%d bytes are left of nothing", footprint(&x))
			}
		})
	}
}

// TestALongTopic: neither the stack nor the time of what is done with one grows out of proportion.
func TestALongTopic(t *testing.T) {
	var x Index[int]
	long := strings.Repeat("x", 1<<20)
	x.Add(1, long)
	x.Add(2, long[:len(long)-1])
	x.Add(2, long[:1]+"y")
	if !x.Any([]byte(long)) || len(x.Topics()) != 3 {
		t.Fatal("lost")
	}
	x.Remove(2, long[:1]+"y")
	if last := x.Drop(1); len(last) != 1 || last[0] != long {
		t.Fatalf("%d topics dropped", len(last))
	}
	x.Remove(2, long[:len(long)-1])
	if len(x.tree.nodes) > 1 {
		t.Fatalf("%d nodes are left of nothing", len(x.tree.nodes))
	}
}
