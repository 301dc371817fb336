package topics

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// naive is the index as one would explain it.
type naive map[int]map[string]int

func (n naive) wants(k int, msg string) (times int) {
	for topic, count := range n[k] {
		if count > 0 && strings.HasPrefix(msg, topic) {
			times++
		}
	}
	return times
}

func (n naive) topics() []string {
	var all []string
	for _, topics := range n {
		for topic, count := range topics {
			if count > 0 && !slices.Contains(all, topic) {
				all = append(all, topic)
			}
		}
	}
	slices.Sort(all)
	return all
}

func (n naive) others(k int, topic string) bool {
	for key, topics := range n {
		if key != k && topics[topic] > 0 {
			return true
		}
	}
	return false
}

func TestIndexAgreesWithTheNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x Index[int]
		model := naive{}
		key := rapid.IntRange(1, 4)
		topic := rapid.OneOf(
			rapid.SampledFrom([]string{"", "a", "b"}),
			// short ones far apart, and long ones with much in common
			rapid.StringOfN(rapid.RuneFrom([]rune("ab.\x00\x7f")), 0, 6, -1),
			rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 0, 3*width+1, -1),
			rapid.Map(rapid.IntRange(0, 3*width+1), func(n int) string { return strings.Repeat("a", n) }),
			rapid.Map(rapid.IntRange(0, 3*width+1), func(n int) string { return strings.Repeat("\x00", n) }),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 2), func(b []byte) string { return string(b) }))
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				k, s := key.Draw(t, "k"), topic.Draw(t, "topic")
				if model[k] == nil {
					model[k] = map[string]int{}
				}
				before := model[k][s]
				model[k][s]++
				fresh, first := x.Add(k, s)
				if fresh != (before == 0) || first != (before == 0 && !model.others(k, s)) {
					t.Fatalf("Add(%d, %q) = %v, %v with %v", k, s, fresh, first, model)
				}
			},
			"remove": func(t *rapid.T) {
				k, s := key.Draw(t, "k"), topic.Draw(t, "topic")
				before := model[k][s]
				if before > 0 {
					model[k][s]--
				}
				gone, last := x.Remove(k, s)
				if gone != (before == 1) || last != (before == 1 && !model.others(k, s)) {
					t.Fatalf("Remove(%d, %q) = %v, %v with %v", k, s, gone, last, model)
				}
			},
			"drop": func(t *rapid.T) {
				k := key.Draw(t, "k")
				var want []string
				for s, count := range model[k] {
					if count > 0 && !model.others(k, s) {
						want = append(want, s)
					}
				}
				slices.Sort(want)
				delete(model, k)
				if got := x.Drop(k); !slices.Equal(got, want) {
					t.Fatalf("Drop(%d) = %q, want %q", k, got, want)
				}
			},
			"": func(t *rapid.T) {
				msg := topic.Draw(t, "message")
				hits := x.Match([]byte(msg), nil)
				if x.Any([]byte(msg)) != (len(hits) > 0) {
					t.Fatalf("Any(%q) disagrees with Match %v", msg, hits)
				}
				for k := range 5 {
					got := 0
					for _, h := range hits {
						if h == k {
							got++
						}
					}
					if want := model.wants(k, msg); got != want {
						t.Fatalf("Match(%q) gave %d %d times, want %d", msg, k, got, want)
					}
				}
				if got, want := x.Topics(), model.topics(); !slices.Equal(got, want) || x.Len() != len(want) {
					t.Fatalf("Topics() = %q (%d), want %q", got, x.Len(), want)
				}
				shape(t, &x)
			},
		})
	})
}

// shape checks that the index holds nothing it does not need, in the one shape that its topics have.
func shape[K comparable](t *rapid.T, x *Index[K]) {
	if len(x.tree.nodes) == 0 {
		return
	}
	if 2*x.tree.waste > len(x.tree.nodes) {
		t.Fatalf("%d of %d nodes are waste", x.tree.waste, len(x.tree.nodes))
	}
	sets := 0
	places := 1 + below(t, &x.tree, 0, func(who uint32) {
		if who&shared == 0 {
			return
		}
		sets++
		if set := *x.sets.at(who &^ shared); len(set) == 0 || len(set) == 1 && set[0].times < 2 {
			t.Fatalf("a set of its own for %v", set)
		}
	})
	if places+x.tree.waste != len(x.tree.nodes) {
		t.Fatalf("%d places and %d of waste are not the %d nodes", places, x.tree.waste, len(x.tree.nodes))
	}
	if got := len(x.sets.values) - len(x.sets.idle); got != sets {
		t.Fatalf("%d sets kept, %d needed", got, sets)
	}
	if got := len(x.subs.values) - len(x.subs.idle); got != len(x.ids) {
		t.Fatalf("%d subscribers kept, %d known", got, len(x.ids))
	}
	var zero K
	for _, id := range x.subs.idle {
		if s := x.subs.at(id); s.key != zero || s.log != nil {
			t.Fatalf("%v is kept of nobody", s)
		}
	}
	for _, id := range x.ids {
		s, lines := x.subs.at(id), 0
		for at := 0; at < len(s.log); lines++ {
			size, n := binary.Uvarint(s.log[at:])
			at += n + int(size)
		}
		if s.topics == 0 || s.stale > s.topics || lines != s.topics+s.stale {
			t.Fatalf("%d lines for %d topics, %d of them stale", lines, s.topics, s.stale)
		}
	}
}

// below looks at the nodes under one, and counts their places.
func below(t *rapid.T, x *tree, at uint32, seen func(who uint32)) (places int) {
	n := x.nodes[at]
	children := 0
	for i, c := range x.children(&n) {
		places++
		if c.size == 0 {
			if c != (node{}) {
				t.Fatalf("hole %v", c)
			}
			continue
		}
		children++
		if place := n.next + uint32(i); x.child(at, c.text[0]) != place {
			t.Fatal("child under the wrong byte")
		}
		places += below(t, x, n.next+uint32(i), seen)
	}
	if all := x.children(&n); len(all) > 0 {
		span := int(all[len(all)-1].text[0]) - int(all[0].text[0]) + 1
		if n.sparse != (span > 2*children) || n.sparse && len(all) > children || !n.sparse && len(all) != span {
			t.Fatalf("%d places for %d children within %d bytes, sparse: %v", len(all), children, span, n.sparse)
		}
	}
	if n.who != 0 {
		seen(n.who)
	}
	if at != 0 && n.who == 0 && (children == 0 || children == 1 && n.size < width) {
		t.Fatalf("superfluous node %q with %d children", n.text[:n.size], children)
	}
	return places
}

func TestCount(t *testing.T) {
	var x Index[string]
	x.Add("ana", "a")
	x.Add("ana", "a")
	x.Add("ana", "b")
	if got := x.Count("ana"); got != 2 {
		t.Errorf("Count = %d, want 2 different topics", got)
	}
	if got := x.Count("bob"); got != 0 {
		t.Errorf("Count of a stranger = %d", got)
	}
	if last := x.Drop("bob"); last != nil {
		t.Errorf("Drop of a stranger = %q", last)
	}
}

// A lookup must not depend on how many subscriptions there are, nor a hostile subscriber's
// nested ones cost others more than one step a byte.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var x Index[int]
			for i := range n {
				x.Add(i, fmt.Sprintf("notification.order.%d ", i))
			}
			msg := []byte(`notification.order.77 {"id":"1","data":{}}`)
			var hits []int
			b.ReportAllocs()
			for b.Loop() {
				hits = x.Match(msg, hits[:0])
			}
		})
	}
	b.Run("nested 5000", func(b *testing.B) {
		var x Index[int]
		msg := []byte(strings.Repeat("x", 5000))
		for i := range msg {
			x.Add(1, string(msg[:i]))
		}
		var hits []int
		for b.Loop() {
			hits = x.Match(msg, hits[:0])
		}
	})
}
