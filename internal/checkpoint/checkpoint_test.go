package checkpoint

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, url string) rdb.Client {
	t.Helper()
	c, err := rdb.Open(url)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Many processes save positions in any order: what is left is the furthest of each partition.
func TestItOnlyMovesForward(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		c := open(t, url)
		s := New(c, "test")
		ctx := t.Context()
		got, err := s.Load(ctx)
		if must(t, err); len(got) != 0 {
			t.Errorf("an empty Redis has %v", got)
		}
		must(t, s.Save(ctx, nil))
		const top = 1<<53 - 1
		want := Set{}
		var wg sync.WaitGroup
		for range 8 {
			var sets []Set
			for range 50 {
				set := Set{}
				for range 4 {
					set[rand.IntN(16)] = Position{Seq: top - rand.Uint64N(1<<20), Epoch: 7}
				}
				sets = append(sets, set)
				want.Forward(set)
			}
			wg.Go(func() {
				own := New(c, "test")
				for _, set := range sets {
					if err := own.Save(ctx, set); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		got, err = s.Load(ctx)
		if must(t, err); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		other, err := New(c, "other").Load(ctx)
		if must(t, err); len(other) != 0 {
			t.Errorf("another consumer has %v", other)
		}
		for field, value := range map[string]string{"x": "1/2", "3": "1", "4": "a/b", "99999999": "1/2"} {
			must(t, c.HSet(ctx, "spine:checkpoint:bad", field, value).Err())
			if _, err := New(c, "bad").Load(ctx); fault.KindOf(err) != fault.Corrupt {
				t.Errorf("%s=%s: %v", field, value, err)
			}
			must(t, c.Del(ctx, "spine:checkpoint:bad").Err())
		}
	})
}

func TestFileKeepsTheState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	got, err := ReadFile(path)
	if must(t, err); got.Done != 0 || got.Positions != nil {
		t.Errorf("no file gives %+v", got)
	}
	for i := range 3 {
		want := State{Spool: 1 << 63, Done: uint64(i), Positions: Set{0: {Seq: 5, Epoch: 1}, 15: {Seq: 1<<53 - 1, Epoch: 1 << 52}}}
		must(t, WriteFile(path, want))
		got, err := ReadFile(path)
		if must(t, err); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if err := WriteFile(filepath.Join(path, "below"), State{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("below a file: %v", err)
	}
	for text, want := range map[string]string{
		"eventspine-checkpoint 2 00000000\n{}": `version "2"`,
		"":                                     "no checkpoint of eventspine",
		"some other file\n":                    "no checkpoint of eventspine",
	} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := ReadFile(path)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), want) || !strings.Contains(fmt.Sprint(err), path) {
			t.Errorf("%q: %v", text, err)
		}
		left, err := os.ReadFile(path)
		if must(t, err); string(left) != text {
			t.Errorf("%q was changed", text)
		}
	}
}

// FuzzFile: whatever bytes a file holds, it is read as what was written, or not at all.
func FuzzFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "checkpoint")
	want := State{Spool: 42, Done: 17, Positions: Set{3: {Seq: 1000, Epoch: 900}}}
	must(f, WriteFile(path, want))
	whole, err := os.ReadFile(path)
	must(f, err)
	f.Add(uint16(3), byte(1), uint16(0))
	f.Add(uint16(40), byte(0x80), uint16(2))
	f.Fuzz(func(t *testing.T, at uint16, flip byte, cut uint16) {
		b := bytes.Clone(whole)
		b[int(at)%len(b)] ^= flip
		b = b[:len(b)-int(cut)%(len(b)+1)]
		got, err := decode(b)
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("a damaged file gives %+v", got)
		}
		if err != nil && bytes.Equal(b, whole) {
			t.Error(err)
		}
	})
}
