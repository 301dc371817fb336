package topics

import (
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
		key := rapid.IntRange(0, 3)
		topic := rapid.StringOfN(rapid.RuneFrom([]rune("ab.\x00")), 0, 6, -1)
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
				for k := range 4 {
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
				shape(t, &x.root, true)
			},
		})
	})
}

// shape checks that the tree holds nothing it does not need.
func shape[K comparable](t *rapid.T, n *node[K], root bool) {
	below := n.children()
	if !root && (n.prefix == "" || !n.wanted && len(below) < 2) {
		t.Fatalf("superfluous node %q with %d children", n.prefix, len(below))
	}
	if len(n.next) > 2*len(below) {
		t.Fatalf("%d places for %d children", len(n.next), len(below))
	}
	for _, c := range below {
		if found := n.child(c.prefix[0]); found == nil || found.prefix != c.prefix {
			t.Fatal("child under the wrong byte")
		}
		shape(t, &c, false)
	}
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
