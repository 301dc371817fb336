package event

import (
	"testing"

	"pgregory.net/rapid"
)

func TestTailPosition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Uint64Range(0, 1<<53-1)
		want := Position{Partition: rapid.IntRange(0, 1023).Draw(t, "partition"), Seq: number.Draw(t, "seq") | 1, Epoch: number.Draw(t, "epoch"),
			Prev: Prev{User: number.Draw(t, "user"), Feed: number.Draw(t, "feed")}}
		raw := Splice([]byte(`{"id":"a","type":"status","data":{"seq":1,"epoch":2}}`), AppendPosition(nil, want))
		got, ok := TailPosition(raw)
		if !ok || got != want {
			t.Fatalf("TailPosition(%s) = %+v, %v", raw, got, ok)
		}
	})
}

func TestTailPositionLeavesTheRest(t *testing.T) {
	const good = `{"id":"a","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":3}`
	if p, ok := TailPosition([]byte(good)); !ok || p != (Position{7, 5, 3, Prev{1, 2}}) {
		t.Fatalf("%+v, %v", p, ok)
	}
	for _, raw := range []string{"", "}", "{}", `{"id":"a"}`, good + "}", good[1:], good[:len(good)-1], good + " ",
		`{"id":"a","partition":7,"seq":0,"prev":{"user":1,"feed":2},"epoch":3}`,
		`{"id":"a","partition":7,"seq":05,"prev":{"user":1,"feed":2},"epoch":3}`,
		`{"id":"a","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":}`,
		`{"id":"a","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":99999999999999999999}`,
		`{"id":"a","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":9007199254740992}`,
		`{"id":"a","data":{"x":1,"partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":3}}`,
		`{"id":"a","seq":5,"partition":7,"prev":{"user":1,"feed":2},"epoch":3}`,
		`"id":"a","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":3}`,
	} {
		if p, ok := TailPosition([]byte(raw)); ok {
			t.Errorf("TailPosition(%s) = %+v", raw, p)
		}
	}
}

// FuzzTailPosition: whatever it reads, ParseStored reads too, where that can read anything.
func FuzzTailPosition(f *testing.F) {
	f.Add([]byte(`{"id":"a","type":"status","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":3}`))
	f.Add([]byte(`{"id":"a","type":"status","data":",\"partition\":7","partition":7,"seq":5,"prev":{"user":1,"feed":2},"epoch":3}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, ok := TailPosition(raw)
		e, err := ParseStored(raw)
		if ok && err == nil && e.Position != p {
			t.Fatalf("%s: %+v, and in full %+v", raw, p, e.Position)
		}
	})
}

func BenchmarkTailPosition(b *testing.B) {
	raw := []byte(`{"id":"0191d5e4","type":"notification.order","userId":"42","data":{"n":1},"partition":7,"seq":1234567890,"prev":{"user":1234567,"feed":1234567},"epoch":1234567000}`)
	for b.Loop() {
		if _, ok := TailPosition(raw); !ok {
			b.Fatal("not read")
		}
	}
}
