package event

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

func TestTopic(t *testing.T) {
	for _, c := range []struct{ typ, user, want string }{
		{"notification", "42", "notification.42"},
		{"order.created", "42", "order.created.42"},
		{"alert", "*", "alert.*"},
		{"audit", "", "audit."},
		{"a", "ana.b", "a.ana%2Eb"},
		{"a", "a b", "a.a%20b"},
		{"a", "100%", "a.100%25"},
		{"a", "é😀", "a.é😀"},
		{"a", "\x00\x1f\x7f", "a.%00%1F%7F"},
	} {
		if got := Topic(c.typ, c.user); got != c.want {
			t.Errorf("Topic(%q, %q) is %q, want %q", c.typ, c.user, got, c.want)
		}
	}
}

func TestEncodeUserIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := string(rapid.SliceOf(rapid.Byte()).Draw(t, "id"))
		if rapid.Bool().Draw(t, "text") {
			id = rapid.StringOf(rapid.RuneFrom([]rune("a1. %é\x00\x7f*/"))).Draw(t, "id")
		}
		code := EncodeUserID(id)
		if strings.ContainsAny(code, ". \x00\n\x7f") {
			t.Fatalf("%q became %q", id, code)
		}
		back, err := DecodeUserID(code)
		if err != nil || back != id {
			t.Fatalf("%q became %q and then %q, %v", id, code, back, err)
		}
	})
}

// A subscription to one user is a prefix of that user's frames and of nobody else's.
func TestSubscriptionToAUserMatchesNobodyElse(t *testing.T) {
	ids := rapid.StringOfN(rapid.RuneFrom([]rune("421. %*é")), 0, 5, -1)
	types := rapid.StringMatching(`[ab](\.[ab12]){0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		typ, user := types.Draw(t, "type"), ids.Draw(t, "user")
		otherType, other := types.Draw(t, "other type"), ids.Draw(t, "other user")
		subscription := Topic(typ, user) + " "
		frame := Topic(otherType, other) + " {}"
		if got, want := strings.HasPrefix(frame, subscription), typ == otherType && user == other; got != want {
			t.Fatalf("subscription %q, frame %q: matches %v, want %v", subscription, frame, got, want)
		}
	})
	if strings.HasPrefix(Topic("notification", "421")+" {}", Topic("notification", "42")+" ") {
		t.Error("user 42 gets user 421's events")
	}
}

func TestDecodeUserIDRefuses(t *testing.T) {
	for _, s := range []string{"%", "a%2", "%zz", "%2g", "%%41", "%+1"} {
		if got, err := DecodeUserID(s); fault.KindOf(err) != fault.Corrupt || err == nil {
			t.Errorf("%q became %q, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{"": "", "a": "a", "%2e": ".", "%2E%25": ".%", "x%41": "xA"} {
		if got, err := DecodeUserID(s); err != nil || got != want {
			t.Errorf("%q became %q, %v", s, got, err)
		}
	}
}

func FuzzDecodeUserID(f *testing.F) {
	for _, s := range []string{"42", "ana%2Eb", "%", "%4", "%zz", "é%00", "+"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := DecodeUserID(s)
		want, wantErr := url.PathUnescape(s)
		if (err == nil) != (wantErr == nil) || got != want {
			t.Fatalf("%q became %q, %v; the standard library says %q, %v", s, got, err, want, wantErr)
		}
		if err == nil {
			if again, err := DecodeUserID(EncodeUserID(got)); err != nil || again != got {
				t.Fatalf("%q encodes and decodes to %q, %v", got, again, err)
			}
		}
	})
}

func FuzzParseCloudEvent(f *testing.F) {
	for _, s := range []string{
		`{"specversion":"1.0","id":"1","source":"/s","type":"a.b","subject":"42","time":"2015-11-20T12:00:00Z","data":{"x":1}}`,
		`{"specversion":"1.0","id":"1","source":"s","type":"a","data_base64":"AAEC","ext1":true,"ext2":-5,"gone":null}`,
		"{\"specversion\":\"1.0\",\n\"id\":\"1\",\"source\":\"s\",\"type\":\"a\",\"data\":null}", `{}`, `{"id":null`, `{"":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ParseCloudEvent(raw)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Fatalf("%v is of kind %v", err, k)
			}
			return
		}
		again, err := Parse(e.Raw)
		if err != nil || !same(e, again) {
			t.Fatalf("%q became %+v, which reads as %+v, %v", raw, e, again, err)
		}
	})
}
