package client

import (
	"encoding/json"
	"testing"

	"eventspine/internal/fault"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want packet
		err  bool
	}{
		{`42["status",{"a":1}]`, packet{kind: kindEvent, event: received{"status", json.RawMessage(`{"a":1}`)}}, false},
		{`42["status"]`, packet{kind: kindEvent, event: received{"status", nil}}, false},
		{`4312[[],{}]`, packet{kind: kindAck, id: 12, args: json.RawMessage(`[[],{}]`)}, false},
		{"41", packet{kind: kindEnd}, false},
		{"1", packet{kind: kindEnd}, false},
		{"3", packet{}, false},
		{"", packet{}, false},
		{"42", packet{}, true},
		{"42[1]", packet{}, true},
		{"43[1]", packet{}, true},
		{"43x", packet{}, true},
	} {
		got, err := parse([]byte(tt.in))
		if (err != nil) != tt.err {
			t.Errorf("parse(%q): %v", tt.in, err)
		}
		if err != nil {
			continue
		}
		if got.kind != tt.want.kind || got.id != tt.want.id || got.event.name != tt.want.event.name ||
			string(got.event.payload) != string(tt.want.event.payload) || string(got.args) != string(tt.want.args) {
			t.Errorf("parse(%q) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`42["status",{"a":1}]`))
	f.Add([]byte(`4312[[],{}]`))
	f.Add([]byte(`0{"sid":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil && fault.KindOf(err) != fault.Corrupt {
			t.Fatalf("%q: kind %v", b, fault.KindOf(err))
		}
		if err == nil && p.kind == kindAck {
			_, _, _ = syncAnswer("sync", p.args)
		}
	})
}

func TestSyncAnswer(t *testing.T) {
	events, info, err := syncAnswer("sync", json.RawMessage(`[[{"seq":1},{"seq":2}],{"complete":true,"last":{"user":2}}]`))
	if err != nil || len(events) != 2 || !info.Complete || string(info.Last) != `{"user":2}` {
		t.Errorf("%s %+v %v", events, info, err)
	}
	if events, info, err = syncAnswer("sync", json.RawMessage(`[[]]`)); err != nil || len(events) != 0 || info.Complete {
		t.Errorf("a server of the article: %s %+v %v", events, info, err)
	}
	if _, _, err = syncAnswer("sync", json.RawMessage(`{}`)); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("no array: %v", err)
	}
}
