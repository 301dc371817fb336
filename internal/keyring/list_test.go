package keyring

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/curve"
)

func TestParse(t *testing.T) {
	a, b := keys(t), keys(t)
	got, err := Parse("# a list\n\n  ana\t" + a.Public.Z85() + "  10.0.0.1 tcp://10.0.0.1:5 # at home\r\nbob " + b.Public.Z85())
	want := []Peer{{"ana", a.Public, []string{"10.0.0.1", "10.0.0.1:5"}}, {Name: "bob", Key: b.Public}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// '#' is a character of Z85, but it never comes first: 84×85⁴ is above 2³².
func TestNoKeyLooksLikeAComment(t *testing.T) {
	key := curve.Key{0xff, 0xff, 0xff, 0xff}
	if got, err := Parse("ana " + key.Z85()); err != nil || len(got) != 1 || got[0].Key != key {
		t.Errorf("%s: %v, %v", key.Z85(), got, err)
	}
}

func TestLinesThatAreRefused(t *testing.T) {
	z, other := keys(t).Public.Z85(), keys(t).Public.Z85()
	for name, text := range map[string]string{
		"name alone": "ana", "name of another kind": "-ana " + z, "long name": strings.Repeat("a", 65) + " " + z, "short key": "ana " + z[:35],
		"no key":   "ana " + strings.Repeat("0", 40),
		"same key": "ana " + z + "\nbob " + z, "same address": "ana " + z + " h:1\nbob " + other + " tcp://H:1",
		"any host": "ana " + z + " *:5557", "any address": "ana " + z + " 0.0.0.0:5557", "port 0": "ana " + z + " h:0", "port alone": "ana " + z + " :5557",
		"odd transport": "ana " + z + " udp://h:1", "no path": "ana " + z + " ipc://", "two places": "ana " + z + " h:1,h:2",
	} {
		if got, err := Parse(text); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v, %v", name, got, err)
		} else if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), z[:20]) {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
}

// What Line writes Parse reads.
func TestLinesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var key curve.Key
		copy(key[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		key[0] |= 1
		p := Peer{Name: rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,20}`).Draw(t, "name"), Key: key,
			Addresses: rapid.SliceOfNDistinct(rapid.StringMatching(`10\.0\.0\.[1-9](:[1-9][0-9]{1,3})?|ipc:///[a-z]{1,5}|[a-z]{1,9}(:[1-9])?`), 0, 4, rapid.ID).Draw(t, "addresses")}
		got, err := Parse("\n" + p.Line() + "\n")
		if err != nil || len(got) != 1 || got[0].Line() != p.Line() {
			t.Fatalf("%q came back as %v, %v", p.Line(), got, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("ana " + strings.Repeat("1", 40) + " 10.0.0.1:5 ipc://x #\n#\n")
	f.Add("x [::1]:5\ny\x00")
	f.Fuzz(func(t *testing.T, text string) {
		peers, err := Parse(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than one line: %q", err)
			}
			return
		}
		var lines []string
		for _, p := range peers {
			lines = append(lines, p.Line())
		}
		again, err := Parse(strings.Join(lines, "\n"))
		if err != nil || !reflect.DeepEqual(peers, again) {
			t.Fatalf("%q came back as %v, %v", text, again, err)
		}
	})
}
