package ingest

import (
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

func TestParseNumbered(t *testing.T) {
	for name, c := range map[string]struct {
		frame string
		want  Numbered
		ok    bool
	}{
		"plain":                {"B2 api-1 7 3 0 1 -", Numbered{"api-1", 7, 3, 0, 1, 0, 0}, true},
		"all flags":            {"B2 a/b 7 3 9 1 SRW", Numbered{"a/b", 7, 3, 9, 1, Start | Redelivered | Wait, 0}, true},
		"one flag":             {"B2 a 7 3 9 1 R", Numbered{"a", 7, 3, 9, 1, Redelivered, 0}, true},
		"largest":              {"B2 a 18446744073709551615 65535 18446744073709551615 9007199254740991 W", Numbered{"a", math.MaxUint64, 65535, math.MaxUint64, 1<<53 - 1, Wait, 0}, true},
		"empty":                {"", Numbered{}, false},
		"other version":        {"B1 a 7 3 9 1 -", Numbered{}, false},
		"too few":              {"B2 a 7 3 9 1", Numbered{}, false},
		"numbers never used":   {"B2 a 7 3 9 100 - 98", Numbered{"a", 7, 3, 9, 100, 0, 98}, true},
		"too many":             {"B2 a 7 3 9 1 - 1 1", Numbered{}, false},
		"no number at the end": {"B2 a 7 3 9 9 - -", Numbered{}, false},
		"none never used":      {"B2 a 7 3 9 9 - 0", Numbered{}, false},
		"all never used":       {"B2 a 7 3 9 9 - 9", Numbered{}, false},
		"no source":            {"B2  7 3 9 1 -", Numbered{}, false},
		"no generation":        {"B2 a 0 3 9 1 -", Numbered{}, false},
		"number 0":             {"B2 a 7 3 9 0 -", Numbered{}, false},
		"number too large":     {"B2 a 7 3 9 9007199254740992 -", Numbered{}, false},
		"partition too large":  {"B2 a 7 65536 9 1 -", Numbered{}, false},
		"negative partition":   {"B2 a 7 -1 9 1 -", Numbered{}, false},
		"leading zero":         {"B2 a 7 03 9 1 -", Numbered{}, false},
		"no flags":             {"B2 a 7 3 9 1 ", Numbered{}, false},
		"unknown flag":         {"B2 a 7 3 9 1 X", Numbered{}, false},
		"flags in disorder":    {"B2 a 7 3 9 1 RS", Numbered{}, false},
		"a flag twice":         {"B2 a 7 3 9 1 SS", Numbered{}, false},
		"dash and flag":        {"B2 a 7 3 9 1 -S", Numbered{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseNumbered([]byte(c.frame))
			if (err == nil) != c.ok || got != c.want {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err != nil && fault.KindOf(err) != fault.Corrupt {
				t.Errorf("kind %v", fault.KindOf(err))
			}
		})
	}
}

func TestNumberedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Numbered{
			Source:     rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "source"),
			Generation: rapid.Uint64Min(1).Draw(t, "generation"),
			Partition:  rapid.IntRange(0, maxPartition).Draw(t, "partition"),
			Round:      rapid.Uint64().Draw(t, "round"),
			First:      rapid.Uint64Range(1, maxNumber).Draw(t, "first"),
			Flags:      Flags(rapid.IntRange(0, int(allFlags)).Draw(t, "flags")),
		}
		want.Skip = rapid.Uint64Range(0, want.First-1).Draw(t, "skip")
		got, err := ParseNumbered(want.Append(nil))
		if err != nil || got != want {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
}

func TestAckRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Ack{
			Generation: rapid.Uint64Min(1).Draw(t, "generation"),
			Partition:  rapid.IntRange(0, maxPartition).Draw(t, "partition"),
			Round:      rapid.Uint64().Draw(t, "round"),
			Last:       rapid.Uint64().Draw(t, "last"),
			Epoch:      rapid.Uint64().Draw(t, "epoch"),
			Nak:        rapid.Bool().Draw(t, "nak"),
			First:      rapid.Uint64().Draw(t, "first"),
		}
		if seqs := rapid.SliceOf(rapid.Uint64()).Draw(t, "seqs"); len(seqs) > 0 {
			want.Seqs = seqs
		}
		got, err := ParseAck(want.Append(nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
}

func TestParseAckRefusesWhatIsNone(t *testing.T) {
	for _, body := range []string{"", "[]", "{}", `{"gen":0,"partition":1}`, `{"gen":1,"partition":-1}`, `{"gen":1,"partition":65536}`, `{"gen":1,"last":-1}`, `{"gen":1} x`} {
		if a, err := ParseAck([]byte(body)); fault.KindOf(err) != fault.Corrupt {
			t.Errorf("%s was read as %+v, %v", body, a, err)
		}
	}
}

// A question is a header alone; a batch has as many events as one message may have.
func TestNumberedBatchesComeIn(t *testing.T) {
	r := listen(t, ReceiverOptions{})
	p := pusher(t, r.Endpoint())
	h := Numbered{"api-1", 7, 3, 2, 40, Redelivered, 0}
	events := make([][]byte, MaxBatchEvents+1)
	for i := range events {
		events[i] = []byte("x")
	}
	for _, m := range [][][]byte{
		append([][]byte{h.Append(nil)}, events...), // one too many
		{[]byte("B2 a 0 0"), []byte("x")},
		{h.Append(nil)},
		{h.Append(nil), []byte("one"), []byte("two")},
	} {
		if err := p.Send(within(t), m); err != nil {
			t.Fatal(err)
		}
	}
	question, err := r.Recv(within(t))
	if err != nil || question.Numbered == nil || *question.Numbered != h || len(question.Events) != 0 || question.Source != "api-1" {
		t.Fatalf("the question came as %+v, %v", question, err)
	}
	batch, err := r.Recv(within(t))
	if err != nil || batch.Numbered == nil || *batch.Numbered != h || len(batch.Events) != 2 || string(batch.Events[1]) != "two" {
		t.Fatalf("the batch came as %+v, %v", batch, err)
	}
}

func FuzzParseNumbered(f *testing.F) {
	for _, s := range []string{"B2 api-1 7 3 0 1 -", "B2 a 7 3 9 1 SRW", "B2 a 07 3 9 1 S", "B2 ", "B2 a 1 2 3 4 RS"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, err := ParseNumbered(frame)
		if err == nil && string(h.Append(nil)) != string(frame) {
			t.Fatalf("%q was read as %+v, which is written %q", frame, h, h.Append(nil))
		}
	})
}

func FuzzParseAck(f *testing.F) {
	f.Add([]byte(`{"gen":1,"partition":7,"round":3,"last":1234,"epoch":9,"nak":false,"first":1200,"seqs":[1,2,3]}`))
	f.Add([]byte(`{"gen":1,"nak":true}`))
	f.Add([]byte(strings.Repeat(`{"gen":`, 9)))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := ParseAck(body)
		if err != nil {
			return
		}
		again, err := ParseAck(a.Append(nil))
		if err != nil || len(again.Seqs) != len(a.Seqs) || again.Last != a.Last {
			t.Fatalf("%s was read as %+v, written again it is %+v, %v", body, a, again, err)
		}
	})
}
