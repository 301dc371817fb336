package journal

import (
	"testing"

	"github.com/google/uuid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func TestIDTime(t *testing.T) {
	for _, c := range []struct {
		id string
		ms int64
		ok bool
	}{
		{"017f22e2-79b0-7cc3-98c4-dc0c0c07398f", 0x017f22e279b0, true}, // RFC 9562 A.6
		{"017F22E2-79B0-7CC3-98C4-DC0C0C07398F", 0x017f22e279b0, true},
		{"017f22e2-79b0-4cc3-98c4-dc0c0c07398f", 0, false}, // version 4
		{"017f22e2-79b0-7cc3-18c4-dc0c0c07398f", 0, false}, // another variant
		{"017f22e2x79b0-7cc3-98c4-dc0c0c07398f", 0, false},
		{"017f22e2-79b0-7cc3-98c4-dc0c0c07398g", 0, false},
		{"01ARZ3NDEKTSV4RRFFQ69G5FAV", 1469922850259, true}, // the ULID specification's
		{"7ZZZZZZZZZZZZZZZZZZZZZZZZZ", 1<<48 - 1, true},
		{"81ARZ3NDEKTSV4RRFFQ69G5FAV", 0, false}, // more than 48 bits
		{"01ARZ3NDEKTSV4RRFFQ69G5FAU", 0, false}, // U is no digit
		{"01arz3ndektsv4rrffq69g5fav", 0, false},
		{"order-77", 0, false},
		{"", 0, false},
	} {
		if ms, ok := idTime(c.id); ms != c.ms || ok != c.ok {
			t.Errorf("idTime(%q) = %d, %v; want %d, %v", c.id, ms, ok, c.ms, c.ok)
		}
	}
}

func FuzzIDTime(f *testing.F) {
	f.Add("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
	f.Add("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	f.Add("")
	f.Fuzz(func(t *testing.T, id string) {
		ms, ok := idTime(id)
		if ms < 0 || ms >= 1<<48 || (!ok && ms != 0) {
			t.Errorf("idTime(%q) = %d, %v", id, ms, ok)
		}
		if u, err := uuid.Parse(id); err == nil && len(id) == 36 && u.Version() == 7 && u.Variant() == uuid.RFC4122 && !ok {
			t.Errorf("idTime(%q) finds no time in a UUIDv7", id)
		}
	})
}

func TestDecode(t *testing.T) {
	s, err := decode(3, "1000", "5,0,999", `{"id":"a1"}`)
	want := event.Position{Partition: 3, Seq: 1000, Epoch: 1, Prev: event.Prev{User: 995}}
	if err != nil || s.Position != want || string(s.Raw) != `{"id":"a1","partition":3,"seq":1000,"prev":{"user":995,"feed":0},"epoch":1}` {
		t.Errorf("decoded %+v %s, error %v", s.Position, s.Raw, err)
	}
	for name, c := range map[string][3]string{
		"a seq that is no number":      {"x", "1,1,1", `{"a":1}`},
		"a seq of 54 bits":             {"9007199254740992", "1,1,1", `{"a":1}`},
		"numbers that are missing":     {"1000", "", `{"a":1}`},
		"one number too few":           {"1000", "1,1", `{"a":1}`},
		"one number too many":          {"1000", "1,1,1,1", `{"a":1}`},
		"a distance beyond the start":  {"1000", "1001,1,1", `{"a":1}`},
		"a negative distance":          {"1000", "-1,1,1", `{"a":1}`},
		"no body":                      {"1000", "1,1,1", ``},
		"an empty object":              {"1000", "1,1,1", `{}`},
		"a body that is not an object": {"1000", "1,1,1", `"some text"`},
	} {
		if _, err := decode(0, c[0], c[1], c[2]); fault.KindOf(err) != fault.Corrupt {
			t.Errorf("%s: error %v, want kind corrupt", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("1000", "5,0,999", `{"id":"a1"}`)
	f.Add("9007199254740991", "0,0,0", `{"a":[]}`)
	f.Add("", ",,", "{")
	f.Fuzz(func(t *testing.T, seq, offsets, body string) {
		s, err := decode(1, seq, offsets, body)
		if err != nil {
			return
		}
		if s.Prev.User > s.Seq || s.Prev.Feed > s.Seq || s.Epoch > s.Seq || s.Seq >= 1<<53 {
			t.Errorf("decoded %+v", s.Position)
		}
	})
}

func TestReadPageRefusesOddAnswers(t *testing.T) {
	for _, got := range [][]any{nil, {int64(1)}, {int64(1), int64(1), int64(0)}, {int64(1), int64(1), int64(0), int64(7), "7"}, {int64(1), int64(1), int64(0), int64(7), "7", "1,1,1", 5}} {
		if _, err := readPage(0, 0, got); fault.KindOf(err) != fault.Corrupt {
			t.Errorf("readPage(%v) gives error %v, want kind corrupt", got, err)
		}
	}
}

func TestZeroOptionsAreTheDefaults(t *testing.T) {
	got, want := Options{Partitions: -1}.withDefaults(), DefaultOptions()
	if got.Partitions != want.Partitions || got.DedupeWindow != want.DedupeWindow || got.ReplayWindow != want.ReplayWindow ||
		got.ReplayMax != want.ReplayMax || got.JournalMax != want.JournalMax || got.JournalAge != want.JournalAge || got.Log == nil || got.Now == nil {
		t.Errorf("zero options become %+v", got)
	}
	if o := (Options{ReplayWindow: 2 * want.JournalAge}).withDefaults(); o.JournalAge != o.ReplayWindow {
		t.Errorf("the journal is kept for %v under a replay window of %v", o.JournalAge, o.ReplayWindow)
	}
}
