package clone

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
)

func set(key, value string) message { return message{key: key, id: newID(), value: []byte(value)} }

func mustApply(t testing.TB, s *store, m message, now time.Time) message {
	t.Helper()
	out, err := s.apply(m, now)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChangesAreNumberedAndLinked(t *testing.T) {
	s, now := newStore(), time.Unix(0, 0)
	for i, c := range []struct{ key, prev string }{{"/a/x", "0,0"}, {"/b/x", "1,0"}, {"/a/y", "2,1"}, {"/a/c/z", "3,3,0"}, {"/a/x", "4,4"}} {
		m := mustApply(t, s, set(c.key, "v"), now)
		if m.seq != uint64(i+1) || m.props[propPrev] != c.prev || m.props[propEpoch] != s.epoch {
			t.Errorf("%s: number %d, %v", c.key, m.seq, m.props)
		}
	}
	h := s.heartbeat()
	if h.key != hugz || h.seq != 5 || h.props["/a/"] != "5" || h.props["/b/"] != "2" || h.props[propBase] != "0" {
		t.Errorf("heartbeat %+v", h)
	}
	gone := mustApply(t, s, message{key: "/a/x"}, now)
	if _, there := s.entries["/a/x"]; there || gone.seq != 6 || len(gone.value) != 0 {
		t.Errorf("deleted %+v", gone)
	}
}

func TestSnapshotIsOfTheSubtree(t *testing.T) {
	s, now := newStore(), time.Unix(1000, 0)
	mustApply(t, s, set("/b/x", "1"), now)
	mustApply(t, s, set("/a/x", "2"), now)
	m := set("/b/y", "3")
	m.props = map[string]string{propTTL: "10"}
	mustApply(t, s, m, now)
	got := s.snapshot("/b/", now.Add(4*time.Second))
	if len(got) != 3 || got[0].key != "/b/x" || got[1].key != "/b/y" || got[1].props[propTTL] != "6" {
		t.Fatalf("got %+v", got)
	}
	if end := got[2]; end.key != kthxbai || end.seq != 3 || string(end.value) != "/b/" || end.props[propCount] != "2" || end.props[propEpoch] != s.epoch {
		t.Errorf("end %+v", end)
	}
	if all := s.snapshot("", now); len(all) != 4 {
		t.Errorf("%d messages of everything", len(all))
	}
}

func TestValuesExpire(t *testing.T) {
	s, now := newStore(), time.Unix(1000, 0)
	for i, key := range []string{"/b", "/a", "/c"} {
		m := set(key, "v")
		if i < 2 {
			m.props = map[string]string{propTTL: "5"}
		}
		mustApply(t, s, m, now)
	}
	if early := now.Add(4999 * time.Millisecond); s.due(early) || len(s.expire(early)) != 0 {
		t.Error("expired early")
	}
	late := now.Add(5 * time.Second)
	if !s.due(late) {
		t.Error("not due")
	}
	got := s.expire(late)
	if len(got) != 2 || got[0].key != "/a" || got[0].seq != 4 || got[1].key != "/b" || got[1].seq != 5 || len(s.entries) != 1 {
		t.Errorf("got %+v", got)
	}
	// A value that is set again lives on.
	m := set("/c", "v")
	m.props = map[string]string{propTTL: "1"}
	mustApply(t, s, m, now)
	mustApply(t, s, set("/c", "w"), now)
	if s.due(late) {
		t.Error("an old time to live ends a new value")
	}
}

func TestLimitsRefuseAndChangeNothing(t *testing.T) {
	s, now := newStore(), time.Unix(0, 0)
	for i := range MaxKeys {
		mustApply(t, s, set(fmt.Sprintf("/k/%d", i), "v"), now)
	}
	if _, err := s.apply(set("/one-more", "v"), now); fault.KindOf(err) != fault.TooLarge || reason(err) != "limit" {
		t.Errorf("one key more: %v", err)
	}
	mustApply(t, s, set("/k/0", "w"), now)
	for _, bad := range []message{set("no-path", "v"), {key: "/a", value: []byte("v"), props: map[string]string{propTTL: "x"}}} {
		if _, err := s.apply(bad, now); fault.KindOf(err) != fault.Invalid || reason(err) == "limit" {
			t.Errorf("%s: %v", bad.key, err)
		}
	}
	if s.seq != MaxKeys+1 || len(s.entries) != MaxKeys {
		t.Errorf("number %d, %d keys", s.seq, len(s.entries))
	}
	big := newStore()
	value := strings.Repeat("x", MaxValue)
	for i := 0; big.bytes+MaxValue+10 < MaxBytes; i++ {
		mustApply(t, big, set(fmt.Sprintf("/%04d", i), value), now)
	}
	if _, err := big.apply(set("/zzzz", value), now); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("beyond %d bytes: %v", MaxBytes, err)
	}
	before := big.bytes
	mustApply(t, big, message{key: "/0000"}, now)
	if big.bytes != before-MaxValue-len("/0000") {
		t.Errorf("%d bytes, were %d", big.bytes, before)
	}
}

func TestHeadsStayFewAndSafe(t *testing.T) {
	s, now := newStore(), time.Unix(0, 0)
	for i := range 3 * maxHeads {
		m := mustApply(t, s, set(fmt.Sprintf("/t%d/x", i), "v"), now)
		if before, ok := m.prev(1); !ok || before >= m.seq {
			t.Fatalf("prev %v of number %d", m.props, m.seq)
		}
		if len(s.heads) > maxHeads {
			t.Fatalf("%d heads", len(s.heads))
		}
	}
	if s.base == 0 || len(encodeProps(s.heartbeat().props)) > maxProps {
		t.Errorf("base %d", s.base)
	}
}

func TestFileKeepsEverything(t *testing.T) {
	path, now := filepath.Join(t.TempDir(), "clone"), time.Unix(1000, 0)
	s, err := load(path)
	if err != nil || s.seq != 0 {
		t.Fatalf("no file: %v", err)
	}
	m := set("/a/x", "1")
	m.props = map[string]string{propTTL: "5"}
	mustApply(t, s, m, now)
	mustApply(t, s, set("/b", "2"), now)
	if err := save(path, s); err != nil {
		t.Fatal(err)
	}
	got, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.epoch != s.epoch || got.seq != 2 || got.bytes != s.bytes || !reflect.DeepEqual(got.entries, s.entries) {
		t.Errorf("got %+v, want %+v", got, s)
	}
	if next := mustApply(t, got, set("/a/x", "3"), now); next.seq != 3 || next.props[propPrev] != "2,2" {
		t.Errorf("after a restart: %+v", next)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestDamagedFileIsReportedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clone")
	s := newStore()
	mustApply(t, s, set("/a", "1"), time.Unix(0, 0))
	whole, err := encodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"cut": whole[:len(whole)-1], "empty": {}, "other": []byte("hello\n"), "head only": whole[:20],
		"flipped": append(append([]byte(nil), whole[:len(whole)-3]...), whole[len(whole)-3]^1, whole[len(whole)-2], whole[len(whole)-1])} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Listen(t.Context(), ServerOptions{File: path, Endpoints: anywhere})
		if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", name, err)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != string(b) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestUnwritableFileIsToldAtTheStart(t *testing.T) {
	_, err := Listen(t.Context(), ServerOptions{File: filepath.Join(t.TempDir(), "no", "such", "dir"), Endpoints: anywhere})
	if fault.KindOf(err) != fault.Unavailable || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzState(f *testing.F) {
	s := newStore()
	mustApply(f, s, set("/a", "1"), time.Unix(0, 0))
	b, err := encodeState(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add([]byte(`{"epoch":"e","seq":1,"entries":[{"key":"/a","seq":1,"id":"AAAAAAAAAAAAAAAAAAAAAA==","value":"dg=="}]}`), true)
	f.Add([]byte(magic+"\n"), false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			b = signed(b)
		}
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := encodeState(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeState(again)
		if err != nil || back.seq != s.seq || back.bytes != s.bytes || !reflect.DeepEqual(back.entries, s.entries) {
			t.Fatalf("%+v became %+v, %v", s, back, err)
		}
	})
}
