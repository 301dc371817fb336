package topics

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// program reads operations out of bytes: what, for whom, and which topic.
type program struct{ b []byte }

func (p *program) next() (what byte, who int, topic string, ok bool) {
	if len(p.b) < 3 {
		return 0, 0, "", false
	}
	what, n := p.b[0]&3, min(int(p.b[1]>>2), len(p.b)-3)
	who, times := int(p.b[1]&3), int(p.b[2])
	topic = string(p.b[3 : 3+n])
	if p.b[0]&4 != 0 { // long ones, which a short input could not hold
		topic = strings.Repeat(topic, times)
	}
	p.b = p.b[3+n:]
	return what, who, topic[:min(len(topic), 4*width)], true
}

// FuzzIndex does with an index and with a model of it what the bytes say: both have the same answers.
func FuzzIndex(f *testing.F) {
	f.Add([]byte("\x00\x05\x00a\x00\x06\x00a\x03\x09\x00ab\x01\x05\x00a\x03\x05\x00a"))
	f.Add([]byte("\x04\x04\xffa\x04\x08\xffab\x07\x04\xffa\x02\x00\x00\x07\x04\xffa"))
	f.Add([]byte("\x00\x00\x00\x00\x11\x00\x00\x00\x00\x01\x03\x00\x00\x02\x00\x00\x03\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x Index[int]
		model := naive{}
		for p := (&program{b[:min(len(b), 4096)]}); ; {
			what, who, topic, ok := p.next()
			if !ok {
				break
			}
			switch what {
			case 0:
				if model[who] == nil {
					model[who] = map[string]int{}
				}
				model[who][topic]++
				x.Add(who, topic)
			case 1:
				if model[who][topic] > 0 {
					model[who][topic]--
				}
				x.Remove(who, topic)
			case 2:
				delete(model, who)
				x.Drop(who)
			case 3:
				same(t, &x, model, topic)
			}
		}
		for _, topic := range model.topics() {
			same(t, &x, model, topic+"x")
		}
		if got, want := x.Topics(), model.topics(); !slices.Equal(got, want) || x.Len() != len(want) {
			t.Fatalf("Topics() = %q (%d), want %q", got, x.Len(), want)
		}
		for who := range maps.Keys(model) {
			x.Drop(who)
		}
		if x.Len() != 0 || x.Any([]byte("a")) {
			t.Fatalf("an empty index has %q", x.Topics())
		}
	})
}

// same compares who gets a message.
func same(t *testing.T, x *Index[int], model naive, msg string) {
	t.Helper()
	hits := x.Match([]byte(msg), nil)
	if x.Any([]byte(msg)) != (len(hits) > 0) {
		t.Fatalf("Any(%q) disagrees with Match %v", msg, hits)
	}
	named := x.Exact(msg, nil)
	for who := range 4 {
		if slices.Contains(named, who) != (model[who][msg] > 0) {
			t.Fatalf("Exact(%q) gave %v", msg, named)
		}
		got := 0
		for _, h := range hits {
			if h == who {
				got++
			}
		}
		if want := model.wants(who, msg); got != want {
			t.Fatalf("Match(%q) gave %d %d times, want %d", msg, who, got, want)
		}
	}
}
