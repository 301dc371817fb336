package socketio

import (
	"bytes"
	"encoding/json"
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
		verdict verdict
		err     error
	}{
		{"2", pass, nil},
		{"2probe", pass, nil},
		{"3", swallow, nil},
		{"1", pass, nil},
		{"40", swallow, nil},
		{"40/", swallow, nil},
		{"41", pass, nil},
		{`42["sync",1]`, pass, nil},
		{`4217["sync",{"user":1,"all":2}]`, pass, nil},
		{`42[ "sync" ]`, pass, nil},
		{`42["häß\u0000lich",null]`, pass, nil},
		{`430[1,2]`, swallow, nil},

		{"", swallow, badPacket},
		{"0{}", swallow, badPacket},
		{"5", swallow, badPacket},
		{"6", swallow, badPacket},
		{"x", swallow, badPacket},
		{"4", swallow, badPacket},
		{"11", swallow, badPacket},
		{"2" + strings.Repeat("p", 126), swallow, badPacket},
		{`4599999999999999-["sync",1]`, swallow, badPacket}, // 27 bytes that end the stock server
		{`451-["sync",{"_placeholder":true,"num":0}]`, swallow, badPacket},
		{`461-0[{"_placeholder":true,"num":0}]`, swallow, badPacket},
		{`4299999999999999-["sync",1]`, swallow, badPacket},
		{`421-["sync"]`, swallow, badPacket},
		{`44"no"`, swallow, badPacket},
		{`420000000000000001["sync"]`, swallow, badPacket},
		{"42", swallow, badPacket},
		{"4217", swallow, badPacket},
		{`42{"sync":1}`, swallow, badPacket},
		{"40/admin", swallow, badNamespace},
		{"41/admin", swallow, badNamespace},
		{`42/admin,["sync"]`, swallow, badNamespace},
		{`42["sync",`, swallow, badJSON},
		{`42["sync"]x`, swallow, badJSON},
		{"42[]", swallow, badJSON},
		{`42[""]`, swallow, badJSON},
		{"42[1]", swallow, badJSON},
		{`42[["sync"]]`, swallow, badJSON},
		{`42["a,b"]`, swallow, badJSON},
		{`42["a]b"]`, swallow, badJSON},
		{"42[\"\xff\"]", swallow, badText},
		{`42["` + strings.Repeat("x", MaxPacket) + `"]`, swallow, badSize},
	} {
		got, err := vet([]byte(tt.packet))
		if err != tt.err || err == nil && got != tt.verdict {
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
	return gsession.TEXT, body{bytes.NewReader(b)}, nil
}

// FuzzVet holds the guard's promise: the parser behind it survives what is passed, and finds
// what stands there.
func FuzzVet(f *testing.F) {
	for _, s := range []string{"2", "41", `42["sync",1]`, `4217["sync",{"user":1}]`, `4599999999999999-["sync",1]`,
		`42["a\u002cb"]`, `42["sync",[[[[]]]]]`, `421["x"]`, "40/", `430[1]`, `42[ "sync" ,"\ud83d\ude00"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		verdict, err := vet(b)
		if err != nil || verdict != pass || b[0] != '4' {
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
		{"", nil, badPayload},
		{"0:", nil, badPayload},
		{"2:2", nil, badPayload},
		{":2", nil, badPayload},
		{"12", nil, badPayload},
		{"1x2", nil, badPayload},
		{"-1:2", nil, badPayload},
		{"99999999999999999999:2", nil, badPayload},
		{"1:😀", nil, badPayload}, // cuts a character in two
		{strings.Repeat("1:2", maxPackets+1), nil, badPayload},
		{"1:\xff", nil, badText},
	} {
		got, err := splitPayload([]byte(tt.in))
		if err != tt.err || len(got) != len(tt.want) {
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
		packets, err := splitPayload(b)
		if err != nil {
			return
		}
		size := 0
		var again []byte
		ascii := true
		for _, p := range packets {
			size += len(p)
			again = appendPayload(again, p)
			for _, c := range p {
				ascii = ascii && c < 0x80
			}
		}
		if size >= len(b) {
			t.Fatalf("%d bytes of packets in %d bytes", size, len(b))
		}
		if back, err := splitPayload(again); ascii && (err != nil || !reflect.DeepEqual(back, packets)) {
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
		out := appendASCII(nil, in)
		var a, b string
		if json.Unmarshal(in, &a) != nil || json.Unmarshal(out, &b) != nil || a != b {
			t.Fatalf("%q became %s", s, out)
		}
		quoted := append(appendString([]byte{'"'}, a), '"')
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

func TestPacketIsEncodedOnce(t *testing.T) {
	p := NewPacket("status", []byte(`{"text":"grüß 😀"}`))
	first, second := p.eio3(), p.eio3()
	if want := `42["status",{"text":"gr\u00fc\u00df \ud83d\ude00"}]`; string(first.text) != want {
		t.Errorf("encoded as %s, want %s", first.text, want)
	}
	if &first.text[0] != &second.text[0] || first.prepared == nil || first.prepared != second.prepared {
		t.Error("encoded twice")
	}
	if broken := appendASCII(nil, []byte("\"\xff\"")); string(broken) != `"\ufffd"` {
		t.Errorf("bytes that are not UTF-8 became %s", broken)
	}
}
