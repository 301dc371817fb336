package topics

import (
	"fmt"
	"testing"
)

// BenchmarkAny looks a message up among many subscriptions, each message under another one.
func BenchmarkAny(b *testing.B) {
	for _, n := range []int{1, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var x Index[int]
			messages := make([][]byte, n)
			for i := range messages {
				topic := fmt.Sprintf("t.%08d.", i)
				x.Add(1, topic)
				messages[i] = []byte(topic + "....")
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if !x.Any(messages[i]) {
					b.Fatal("not found")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

// BenchmarkMatchOne is BenchmarkAny for a publisher with one peer.
func BenchmarkMatchOne(b *testing.B) {
	for _, n := range []int{1, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var x Index[*int]
			peer := new(int)
			messages := make([][]byte, n)
			for i := range messages {
				topic := fmt.Sprintf("t.%08d.", i)
				x.Add(peer, topic)
				messages[i] = []byte(topic + "....")
			}
			b.ReportAllocs()
			i, hits := 0, []*int(nil)
			for b.Loop() {
				if hits = x.Match(messages[i], hits[:0]); len(hits) != 1 {
					b.Fatal("not found")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}
