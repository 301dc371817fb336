package clone

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// take gives f a snapshot of s.
func take(t testing.TB, f *follower, s *store) {
	t.Helper()
	c := collector{subtree: f.subtree}
	for _, m := range s.snapshot(f.subtree, time.Unix(0, 0)) {
		got, err := decode(m.encode())
		if err != nil {
			t.Fatal(err)
		}
		whole, err := c.add(got)
		if err != nil {
			t.Fatal(err)
		}
		if whole {
			f.restore(c.s)
			return
		}
	}
	t.Fatal("no KTHXBAI")
}

// show lists what a copy holds below subtree.
func show(entries map[string]entry, subtree string) map[string]string {
	out := map[string]string{}
	for key, e := range entries {
		if strings.HasPrefix(key, subtree) {
			out[key] = string(e.value)
		}
	}
	return out
}

func TestUpdatesBeforeTheSnapshotAreKept(t *testing.T) {
	s, f, now := newStore(), follower{}, time.Unix(0, 0)
	for i := range 3 {
		m := mustApply(t, s, set("/a", fmt.Sprint(i)), now)
		f.update(m)
	}
	old := s.clone()
	for i := range 3 {
		f.update(mustApply(t, s, set("/b", fmt.Sprint(i)), now))
	}
	take(t, &f, old)
	if !f.synced || f.seq != 6 || !maps.Equal(show(f.entries, ""), map[string]string{"/a": "2", "/b": "2"}) {
		t.Errorf("number %d, %v", f.seq, show(f.entries, ""))
	}
	if f.update(message{key: "/a", seq: 2, value: []byte("old")}); string(f.entries["/a"].value) != "2" {
		t.Error("an old number changed something")
	}
}

func TestAGapIsNoticed(t *testing.T) {
	now := time.Unix(0, 0)
	for _, subtree := range []string{"", "/", "/a/"} {
		s, f := newStore(), follower{subtree: subtree}
		take(t, &f, s)
		mustApply(t, s, set("/a/x", "lost"), now)
		if f.update(mustApply(t, s, set("/a/y", "came"), now)) || f.synced {
			t.Errorf("%q: the gap was not noticed", subtree)
		}
		take(t, &f, s)
		if !f.synced || len(f.entries) != 2 {
			t.Errorf("%q: %v", subtree, show(f.entries, ""))
		}
		mustApply(t, s, set("/a/x", "the last one is lost"), now)
		if f.heartbeat(s.heartbeat()); f.synced {
			t.Errorf("%q: the heartbeat did not tell", subtree)
		}
	}
}

func TestChangesElsewhereAreNoGap(t *testing.T) {
	s, f, now := newStore(), follower{subtree: "/a/"}, time.Unix(0, 0)
	mustApply(t, s, set("/a/0", "v"), now)
	take(t, &f, s)
	for range 5 {
		mustApply(t, s, set("/b/x", "v"), now)
	}
	f.heartbeat(s.heartbeat())
	if !f.synced || f.seq != 6 {
		t.Errorf("synced %v, number %d", f.synced, f.seq)
	}
	mustApply(t, s, set("/b/x", "v"), now)
	if !f.update(mustApply(t, s, set("/a/x", "v"), now)) || !f.synced {
		t.Error("an update after changes elsewhere is taken for a gap")
	}
}

func TestANewLifeOfTheServerIsNoticed(t *testing.T) {
	now := time.Unix(0, 0)
	for name, tell := range map[string]func(*follower, *store){
		"by a heartbeat": func(f *follower, s *store) { f.heartbeat(s.heartbeat()) },
		"by an update":   func(f *follower, s *store) { f.update(mustApply(t, s, set("/b", "v"), now)) },
	} {
		s, f := newStore(), follower{}
		mustApply(t, s, set("/a", "v"), now)
		take(t, &f, s)
		s = newStore()
		mustApply(t, s, set("/c", "v"), now)
		tell(&f, s)
		if f.synced {
			t.Errorf("%s: not noticed", name)
		}
		take(t, &f, s)
		if _, old := f.entries["/a"]; old || !f.synced {
			t.Errorf("%s: %v", name, show(f.entries, ""))
		}
	}
}

func TestASnapshotMustBeWhole(t *testing.T) {
	s, now := newStore(), time.Unix(0, 0)
	mustApply(t, s, set("/a/x", "v"), now)
	mustApply(t, s, set("/a/y", "v"), now)
	all := s.snapshot("/a/", now)
	c := collector{subtree: "/a/"}
	_, _ = c.add(all[0])
	if whole, err := c.add(all[2]); whole || err == nil {
		t.Error("a snapshot with a hole is taken")
	}
	c = collector{subtree: "/b/"}
	if _, err := c.add(all[0]); err == nil {
		t.Error("a value of another subtree is taken")
	}
	if whole, err := c.add(all[2]); whole || err == nil {
		t.Error("the end of another subtree is taken")
	}
}

// A server without our properties, which only speaks CHP.
func TestPlainCHP(t *testing.T) {
	f := follower{subtree: "/a/"}
	f.restore(snapshot{seq: 3})
	f.update(message{key: "/a/x", seq: 7, value: []byte("v")})
	f.heartbeat(message{key: hugz})
	if !f.synced || len(f.entries) != 1 {
		t.Errorf("%+v", f)
	}
}

func TestHeldUpdatesAreBounded(t *testing.T) {
	s, f, now := newStore(), follower{}, time.Unix(0, 0)
	old := s.clone()
	for range maxHeld + 10 {
		f.update(mustApply(t, s, set("/a", "v"), now))
	}
	if len(f.held) > maxHeld {
		t.Fatalf("%d updates are held", len(f.held))
	}
	if take(t, &f, old); f.synced {
		t.Error("a snapshot that does not join the held updates is taken for the state")
	}
	if take(t, &f, s); !f.synced || f.seq != maxHeld+10 {
		t.Errorf("number %d", f.seq)
	}
}

// TestEveryClientEqualsTheServer: whatever is set, deleted, lost, expired or restarted, with
// or without a file, after a heartbeat and the snapshot it may call for each client has
// exactly what the server has.
func TestEveryClientEqualsTheServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, now := newStore(), time.Unix(1000, 0)
		clients := []*follower{{}, {subtree: "/"}, {subtree: "/a/"}, {subtree: "/a/b/"}, {subtree: "/c/"}}
		late := make([]*store, len(clients)) // a snapshot that is on its way, by client
		publish := func(m message, to []*follower) {
			m, err := decode(m.encode())
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range to {
				f.update(m)
			}
		}
		reach := func() (out []*follower) {
			lost := rapid.SliceOfN(rapid.IntRange(0, 3), len(clients), len(clients)).Draw(t, "lost")
			for i, f := range clients {
				if lost[i] > 0 {
					out = append(out, f)
				}
			}
			return out
		}
		fetch := func(f *follower, from *store) {
			c := collector{subtree: f.subtree}
			for _, m := range from.snapshot(f.subtree, now) {
				if _, err := c.add(m); err != nil {
					t.Fatal(err)
				}
			}
			f.restore(c.s)
		}
		key := rapid.SampledFrom([]string{"/x", "/a/x", "/a/y", "/a/b/x", "/a/b/c/x", "/c/x", "/d/x"})
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				m := set(key.Draw(t, "key"), rapid.StringMatching(`[a-z]{1,3}`).Draw(t, "value"))
				if rapid.Bool().Draw(t, "mortal") {
					m.props = map[string]string{propTTL: "2"}
				}
				out, err := s.apply(m, now)
				if err != nil {
					t.Fatal(err)
				}
				publish(out, reach())
			},
			"delete": func(t *rapid.T) {
				out, err := s.apply(message{key: key.Draw(t, "key"), id: newID()}, now)
				if err != nil {
					t.Fatal(err)
				}
				publish(out, reach())
			},
			"wait": func(*rapid.T) {
				now = now.Add(time.Second)
				for _, m := range s.expire(now) {
					publish(m, reach())
				}
			},
			"restart": func(t *rapid.T) {
				b, err := encodeState(s)
				if err != nil {
					t.Fatal(err)
				}
				if s, err = decodeState(b); err != nil {
					t.Fatal(err)
				}
			},
			"lose the state": func(*rapid.T) { s = newStore() },
			"ask": func(t *rapid.T) {
				i := rapid.IntRange(0, len(clients)-1).Draw(t, "client")
				clients[i].lose()
				late[i] = s.clone()
			},
			"answer": func(t *rapid.T) {
				if i := rapid.IntRange(0, len(clients)-1).Draw(t, "client"); late[i] != nil {
					fetch(clients[i], late[i])
					late[i] = nil
				}
			},
			"": func(t *rapid.T) {
				beat, err := decode(new(s.heartbeat()).encode())
				if err != nil {
					t.Fatal(err)
				}
				for i, f := range clients {
					if late[i] != nil {
						continue
					}
					f.heartbeat(beat)
					for range 2 { // held updates of an earlier life may call for a second one
						if !f.synced {
							fetch(f, s)
						}
					}
					if want, got := show(s.entries, f.subtree), show(f.entries, ""); !f.synced || !maps.Equal(got, want) {
						t.Fatalf("client of %q has %v, the server %v", f.subtree, got, want)
					}
				}
			},
		})
	})
}
