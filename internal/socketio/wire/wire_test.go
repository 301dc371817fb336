package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	gsession "github.com/googollee/go-socket.io/engineio/session"
	"github.com/googollee/go-socket.io/parser"
)

func TestVet(t *testing.T) {
	for _, tt := range []struct {
		packet  string
		verdict Verdict
		err     error
	}{
		{"2", Pass, nil},
		{"2probe", Pass, nil},
		{"3", Swallow, nil},
		{"1", Pass, nil},
		{"40", Swallow, nil},
		{"40/", Swallow, nil},
		{"41", Pass, nil},
		{`42["sync",1]`, Pass, nil},
		{`4217["sync",{"user":1,"all":2}]`, Pass, nil},
		{`42[ "sync" ]`, Pass, nil},
		{`42["häß\u0000lich",null]`, Pass, nil},
		{`430[1,2]`, Swallow, nil},

		{"", Swallow, BadPacket},
		{"0{}", Swallow, BadPacket},
		{"5", Swallow, BadPacket},
		{"6", Swallow, BadPacket},
		{"x", Swallow, BadPacket},
		{"4", Swallow, BadPacket},
		{"11", Swallow, BadPacket},
		{"2" + strings.Repeat("p", 126), Swallow, BadPacket},
		{`4599999999999999-["sync",1]`, Swallow, BadPacket}, // 27 bytes that end the stock server
		{`451-["sync",{"_placeholder":true,"num":0}]`, Swallow, BadPacket},
		{`461-0[{"_placeholder":true,"num":0}]`, Swallow, BadPacket},
		{`4299999999999999-["sync",1]`, Swallow, BadPacket},
		{`421-["sync"]`, Swallow, BadPacket},
		{`44"no"`, Swallow, BadPacket},
		{`420000000000000001["sync"]`, Swallow, BadPacket},
		{"42", Swallow, BadPacket},
		{"4217", Swallow, BadPacket},
		{`42{"sync":1}`, Swallow, BadPacket},
		{"40/admin", Swallow, BadNamespace},
		{"41/admin", Swallow, BadNamespace},
		{`42/admin,["sync"]`, Swallow, BadNamespace},
		{`42["sync",`, Swallow, BadJSON},
		{`42["sync"]x`, Swallow, BadJSON},
		{"42[]", Swallow, BadJSON},
		{`42[""]`, Swallow, BadJSON},
		{"42[1]", Swallow, BadJSON},
		{`42[["sync"]]`, Swallow, BadJSON},
		{`42["a,b"]`, Swallow, BadJSON},
		{`42["a]b"]`, Swallow, BadJSON},
		{"42[\"\xff\"]", Swallow, BadText},
		{`42["` + strings.Repeat("x", MaxPacket) + `"]`, Swallow, BadSize},
	} {
		got, err := Vet([]byte(tt.packet))
		if !errors.Is(err, tt.err) || err == nil && got != tt.verdict {
			t.Errorf("vet(%.40q) = %v, %v; want %v, %v", tt.packet, got, err, tt.verdict, tt.err)
		}
	}
}

// oneFrame feeds one packet to the engine's parser.
type oneFrame struct{ text []byte }

func (f *oneFrame) NextReader() (gsession.FrameType, io.ReadCloser, error) {
	if f.text == nil {
		return 0, nil, io.EOF
	}
	b := f.text
	f.text = nil
	return gsession.TEXT, io.NopCloser(bytes.NewReader(b)), nil
}

// FuzzVet holds the guard's promise: the parser behind it survives what is passed, and finds
// what stands there.
func FuzzVet(f *testing.F) {
	for _, s := range []string{"2", "41", `42["sync",1]`, `4217["sync",{"user":1}]`, `4599999999999999-["sync",1]`,
		`42["a\u002cb"]`, `42["sync",[[[[]]]]]`, `421["x"]`, "40/", `430[1]`, `42[ "sync" ,"\ud83d\ude00"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		verdict, err := Vet(b)
		if err != nil || verdict != Pass || b[0] != '4' {
			return
		}
		d := parser.NewDecoder(&oneFrame{text: b[1:]})
		var header parser.Header
		var name string
		if err := d.DecodeHeader(&header, &name); err != nil {
			t.Fatalf("%q passed, the parser says %v", b, err)
		}
		if header.Type == parser.Disconnect {
			return
		}
		var want []json.RawMessage
		if err := json.Unmarshal(b[bytes.IndexByte(b, '['):], &want); err != nil {
			t.Fatalf("%q passed: %v", b, err)
		}
		args, err := d.DecodeArgs([]reflect.Type{reflect.TypeFor[json.RawMessage]()})
		if err != nil || len(args) != 1 {
			t.Fatalf("%q passed, its arguments: %v, %v", b, args, err)
		}
		if len(want) > 1 && string(args[0].Interface().(json.RawMessage)) != string(want[1]) {
			t.Fatalf("%q: argument %s, want %s", b, args[0], want[1])
		}
	})
}

func TestSplitPayload(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
		err  error
	}{
		{"1:2", []string{"2"}, nil},
		{`1:26:2probe12:42["sync",1]`, []string{"2", "2probe", `42["sync",1]`}, nil},
		{`7:42["ä"]`, []string{`42["ä"]`}, nil},
		{`8:42["😀"]1:2`, []string{`42["😀"]`, "2"}, nil}, // a length counts UTF-16 units
		{"", nil, BadPayload},
		{"0:", nil, BadPayload},
		{"2:2", nil, BadPayload},
		{":2", nil, BadPayload},
		{"12", nil, BadPayload},
		{"1x2", nil, BadPayload},
		{"-1:2", nil, BadPayload},
		{"99999999999999999999:2", nil, BadPayload},
		{"1:😀", nil, BadPayload}, // cuts a character in two
		{strings.Repeat("1:2", maxPackets+1), nil, BadPayload},
		{"1:\xff", nil, BadText},
	} {
		got, err := SplitPayload([]byte(tt.in))
		if !errors.Is(err, tt.err) || len(got) != len(tt.want) {
			t.Errorf("splitPayload(%.30q) = %q, %v; want %q, %v", tt.in, got, err, tt.want, tt.err)
			continue
		}
		for i := range got {
			if string(got[i]) != tt.want[i] {
				t.Errorf("splitPayload(%.30q)[%d] = %q, want %q", tt.in, i, got[i], tt.want[i])
			}
		}
	}
}

func FuzzSplitPayload(f *testing.F) {
	f.Add([]byte(`1:212:42["sync",1]`))
	f.Add([]byte(`8:42["😀"]`))
	f.Add([]byte("999999:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		packets, err := SplitPayload(b)
		if err != nil {
			return
		}
		size := 0
		var again []byte
		ascii := true
		for _, p := range packets {
			size += len(p)
			again = AppendPayload(again, p)
			for _, c := range p {
				ascii = ascii && c < 0x80
			}
		}
		if size >= len(b) {
			t.Fatalf("%d bytes of packets in %d bytes", size, len(b))
		}
		if back, err := SplitPayload(again); ascii && (err != nil || !reflect.DeepEqual(back, packets)) {
			t.Fatalf("%q became %q, %v", packets, back, err)
		}
	})
}

func FuzzASCII(f *testing.F) {
	f.Add("plain")
	f.Add("ä€😀\u2028\x7f")
	f.Fuzz(func(t *testing.T, s string) {
		in, err := json.Marshal(s)
		if err != nil {
			t.Skip()
		}
		out := AppendASCII(nil, in)
		var a, b string
		if json.Unmarshal(in, &a) != nil || json.Unmarshal(out, &b) != nil || a != b {
			t.Fatalf("%q became %s", s, out)
		}
		quoted := append(AppendString([]byte{'"'}, a), '"')
		if json.Unmarshal(quoted, &b) != nil || a != b {
			t.Fatalf("%q became %s", s, quoted)
		}
		for _, c := range append(out, quoted...) {
			if c >= 0x80 {
				t.Fatalf("%q became %s", s, out)
			}
		}
	})
}

func TestAppendASCII(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"plain"}`: `{"a":"plain"}`,
		`"grüß 😀"`:      `"gr\u00fc\u00df \ud83d\ude00"`,
		"\"\xff\"":      `"\ufffd"`,
	} {
		if got := AppendASCII(nil, []byte(in)); string(got) != want {
			t.Errorf("AppendASCII(%s) = %s, want %s", in, got, want)
		}
	}
}
