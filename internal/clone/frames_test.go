package clone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/testkit/allocs"
	"eventspine/internal/zmq"
)

func TestFramesAreThoseOfCHP(t *testing.T) {
	m := message{key: "/a", seq: 258, id: ID{1, 2, 3}, props: map[string]string{"ttl": "5", "prev": "1,2"}, value: []byte("v")}
	want := zmq.Msg{[]byte("/a"), {0, 0, 0, 0, 0, 0, 1, 2}, append([]byte{1, 2, 3}, make([]byte, 13)...), []byte("prev=1,2\nttl=5\n"), []byte("v")}
	if got := m.encode(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got, err := decode(want)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("decoded %+v, %v", got, err)
	}
	if got := request("/a/"); string(bytes.Join(got, []byte("|"))) != "ICANHAZ?|/a/" {
		t.Errorf("request %q", got)
	}
}

func TestBadFramesAreRefusedByName(t *testing.T) {
	good := func() zmq.Msg { return (&message{key: "/a", id: newID(), value: []byte("v")}).encode() }
	for want, spoil := range map[badFrame]func(zmq.Msg) zmq.Msg{
		badFrames:     func(m zmq.Msg) zmq.Msg { return m[:4] },
		badKey:        func(m zmq.Msg) zmq.Msg { m[0] = nil; return m },
		badSequence:   func(m zmq.Msg) zmq.Msg { m[1] = []byte{1}; return m },
		badID:         func(m zmq.Msg) zmq.Msg { m[2] = []byte{1}; return m },
		badProperties: func(m zmq.Msg) zmq.Msg { m[3] = []byte("nothing\n"); return m },
		badValue:      func(m zmq.Msg) zmq.Msg { m[4] = make([]byte, MaxValue+1); return m },
	} {
		if _, err := decode(spoil(good())); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	for _, long := range []zmq.Msg{{make([]byte, MaxKey+1), make([]byte, 8), nil, nil, nil}, {[]byte("/a"), make([]byte, 8), nil, make([]byte, maxProps+1), nil}} {
		if _, err := decode(long); err == nil {
			t.Errorf("frames of %d and %d bytes are taken", len(long[0]), len(long[3]))
		}
	}
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		frames zmq.Msg
		want   error
	}{
		{request(""), nil},
		{request("/"), nil},
		{request("/rules/"), nil},
		{request("/rules"), badSubtree},
		{request("rules/"), badSubtree},
		{zmq.Msg{[]byte("ICANHAZ?")}, badFrames},
		{zmq.Msg{[]byte("ICANHAZ!"), nil}, badFrames},
	} {
		if _, err := decodeRequest(c.frames); !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.frames, err, c.want)
		}
	}
}

func TestKeysAndSubtrees(t *testing.T) {
	for key, good := range map[string]bool{"/a": true, "/a/b-c.d_e": true, "": false, "a": false, "/": false, "/a/": false, "//a": false,
		"/a b": false, "/a=b": false, "/a\n": false, "/é": false, "/" + strings.Repeat("x", MaxKey-1): true, "/" + strings.Repeat("x", MaxKey): false,
		strings.Repeat("/x", maxDepth): true, strings.Repeat("/x", maxDepth+1): false} {
		if err := CheckKey(key); (err == nil) != good || err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("CheckKey(%q) = %v", key, err)
		}
	}
	for subtree, good := range map[string]bool{"": true, "/": true, "/a/": true, "/a": false, "a/": false, "//": false} {
		if err := CheckSubtree(subtree); (err == nil) != good {
			t.Errorf("CheckSubtree(%q) = %v", subtree, err)
		}
	}
	if got := subtrees("/a/b/c"); !reflect.DeepEqual(got, []string{"/", "/a/", "/a/b/"}) {
		t.Errorf("subtrees %q", got)
	}
	for subtree, want := range map[string]int{"": 0, "/": 0, "/a/": 1, "/a/b/": 2} {
		if got := level(subtree); got != want {
			t.Errorf("level(%q) = %d", subtree, got)
		}
	}
}

func TestTTL(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "1": time.Second, "31622400": MaxTTL} {
		m := message{props: map[string]string{propTTL: text}}
		if d, err := m.ttl(); err != nil || d != want {
			t.Errorf("ttl=%s: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "1.5", "31622401", "99999999999"} {
		m := message{props: map[string]string{propTTL: text}}
		if _, err := m.ttl(); !errors.Is(err, badTTL) {
			t.Errorf("ttl=%s: %v", text, err)
		}
	}
}

// Many short properties would take fifty times their size.
func TestPropertiesAreFew(t *testing.T) {
	var b []byte
	for i := range maxProps / 5 {
		b = append(b, byte('a'+i%26), byte('a'+i/26%26), byte('a'+i/676), '=', '\n')
	}
	frames := zmq.Msg{[]byte("/a"), make([]byte, 8), nil, b, nil}
	allocs.AtMost(t, len(b)+allocs.Slack, func() {
		if _, err := decode(frames); !errors.Is(err, badProperties) {
			t.Errorf("%d properties: %v", maxProps/5, err)
		}
	})
}

// FuzzFrames: what can be read is written as it was read, takes no more memory than it is long,
// and what a client or a server does with any frames does not panic.
func FuzzFrames(f *testing.F) {
	for _, m := range []message{{key: "/a", seq: 1, id: newID(), value: []byte("v"), props: map[string]string{"ttl": "1"}},
		{key: hugz, props: map[string]string{"*": "1", "/a/": "2", "epoch": "e"}}, {key: kthxbai, value: []byte("/a/"), props: map[string]string{"count": "1"}}} {
		e := m.encode()
		f.Add(e[0], e[1], e[2], e[3], e[4])
	}
	f.Add([]byte("ICANHAZ?"), []byte("/a/"), []byte(nil), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, a, b, c, d, e []byte) {
		allocs.AtMost(t, len(a)+len(b)+len(c)+len(d)+len(e)+allocs.Slack, func() {
			_, _ = decodeRequest(zmq.Msg{a, b})
			_, _ = decode(zmq.Msg{a, b, c, d, e})
		})
		if subtree, err := decodeRequest(zmq.Msg{a, b}); err == nil && !reflect.DeepEqual(request(subtree), zmq.Msg{a, b}) {
			t.Fatalf("%q %q asks for %q", a, b, subtree)
		}
		m, err := decode(zmq.Msg{a, b, c, d, e})
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		if err != nil || again.key != m.key || again.seq != m.seq || again.id != m.id || !maps.Equal(again.props, m.props) || !bytes.Equal(again.value, m.value) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
		s, follow := newStore(), follower{subtree: "/a/"}
		follow.restore(snapshot{epoch: m.props[propEpoch]})
		follow.heartbeat(m)
		follow.update(m)
		all := collector{subtree: "/a/"}
		_, _ = all.add(m)
		if out, err := s.apply(m, time.Unix(0, 0)); err == nil && (s.seq != 1 || out.seq != 1 || binary.BigEndian.Uint64(out.encode()[1]) != 1) {
			t.Fatalf("one change, number %d", s.seq)
		}
	})
}
