package ingest

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

func TestParseHeader(t *testing.T) {
	for name, c := range map[string]struct {
		frame string
		want  Header
		ok    bool
	}{
		"plain":             {"B1 api-1 0 0", Header{"api-1", 0, 0}, true},
		"numbers":           {"B1 a 7 18446744073709551615", Header{"a", 7, math.MaxUint64}, true},
		"longest source":    {"B1 " + strings.Repeat("s", 128) + " 1 2", Header{strings.Repeat("s", 128), 1, 2}, true},
		"empty":             {"", Header{}, false},
		"other version":     {"B2 api-1 0 0", Header{}, false},
		"no fields":         {"B1 ", Header{}, false},
		"too few":           {"B1 api-1 0", Header{}, false},
		"too many":          {"B1 api-1 0 0 0", Header{}, false},
		"two spaces":        {"B1  0 0", Header{}, false},
		"space at the end":  {"B1 a 0 ", Header{}, false},
		"source too long":   {"B1 " + strings.Repeat("s", 129) + " 1 2", Header{}, false},
		"control in source": {"B1 a\n 0 0", Header{}, false},
		"not ASCII":         {"B1 ä 0 0", Header{}, false},
		"negative":          {"B1 a -1 0", Header{}, false},
		"plus":              {"B1 a +1 0", Header{}, false},
		"leading zero":      {"B1 a 01 0", Header{}, false},
		"hex":               {"B1 a 0x1 0", Header{}, false},
		"underscore":        {"B1 a 1_0 0", Header{}, false},
		"too large":         {"B1 a 0 18446744073709551616", Header{}, false},
		"newline":           {"B1 a 0 0\n", Header{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseHeader([]byte(c.frame))
			if (err == nil) != c.ok || got != c.want {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err != nil && fault.KindOf(err) != fault.Corrupt {
				t.Errorf("kind %v", fault.KindOf(err))
			}
		})
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Header{
			Source:     rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "source"),
			Generation: rapid.Uint64().Draw(t, "generation"),
			First:      rapid.Uint64().Draw(t, "first"),
		}
		got, err := ParseHeader(want.Append(nil))
		if err != nil || got != want {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
	})
}

func TestParseMessage(t *testing.T) {
	for name, c := range map[string]struct {
		frames []string
		source string
		events []string
	}{
		"one event":           {frames: []string{`{"type":"a"}`}, events: []string{`{"type":"a"}`}},
		"one that is no JSON": {frames: []string{"B1"}, events: []string{"B1"}},
		"batch":               {frames: []string{"B1 a 0 0", "x", "y"}, source: "a", events: []string{"x", "y"}},
		"empty events stay":   {frames: []string{"B1 a 0 0", ""}, source: "a", events: []string{""}},
		"nothing":             {},
		"empty frame":         {frames: []string{""}},
		"header alone":        {frames: []string{"B1 a 0 0"}},
		"bad header":          {frames: []string{"B1 a 0", "x"}},
		"no header":           {frames: []string{"x", "y"}},
	} {
		t.Run(name, func(t *testing.T) {
			var m zmq.Msg
			for _, f := range c.frames {
				m = append(m, []byte(f))
			}
			got, err := parseMessage(m)
			if (err == nil) != (c.events != nil) || got.Source != c.source || len(got.Events) != len(c.events) {
				t.Fatalf("got %+v, %v", got, err)
			}
			for i, e := range got.Events {
				if string(e) != c.events[i] {
					t.Errorf("event %d is %q, want %q", i, e, c.events[i])
				}
			}
		})
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, s := range []string{"B1 api-1 0 0", "B1 a 01 0", "B1 ", "B1 a b c", "B1 a 18446744073709551615 1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, err := ParseHeader(frame)
		if err == nil && string(h.Append(nil)) != string(frame) {
			t.Fatalf("%q was read as %+v, which is written %q", frame, h, h.Append(nil))
		}
	})
}
