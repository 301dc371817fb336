package profile_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"eventspine/internal/fault"
	"eventspine/internal/profile"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func open(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func onEach(t *testing.T, fn func(t *testing.T, s *profile.Store, client redis.UniversalClient)) {
	t.Helper()
	testkit.EachRedis(t, func(t *testing.T, url string) {
		client := open(t, url)
		fn(t, profile.New(client), client)
	})
}

func put(t testing.TB, s *profile.Store, id, meta string) {
	t.Helper()
	if err := s.Put(t.Context(), id, json.RawMessage(meta)); err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Errorf("got error %v of kind %v, want kind %v", err, fault.KindOf(err), want)
	}
}

func TestPutReplacesAll(t *testing.T) {
	cases := []struct{ meta, want string }{
		{`{"name":"Ana","tier":{"level": 3,"big":12345678901234567890.10}}`, `{"name":"Ana","tier":{"level":3,"big":12345678901234567890.10}}`},
		{" {\n\"b\": [1, 2],\t\"a\":null}", `{"a":null,"b":[1,2]}`},
		{`{}`, `{}`},
		{`{"":1,"\u00fc \"x\"":"\u0001"}`, `{"":1,"ü \"x\"":"\u0001"}`},
		{`{"gold":true}`, `{"gold":true}`},
	}
	onEach(t, func(t *testing.T, s *profile.Store, client redis.UniversalClient) {
		for _, c := range cases {
			put(t, s, "42", c.meta)
			got, err := s.Lookup(t.Context(), "42")
			if err != nil || string(got) != c.want {
				t.Errorf("%s is looked up as %s, error %v; want %s", c.meta, got, err, c.want)
			}
		}
		if got := client.HGet(t.Context(), "spine:user:42", "gold").Val(); got != "true" {
			t.Errorf("the hash holds %q", got)
		}
	})
}

func TestPutRefusesWhatIsNoMetadata(t *testing.T) {
	onEach(t, func(t *testing.T, s *profile.Store, _ redis.UniversalClient) {
		put(t, s, "42", `{"name":"Ana"}`)
		for _, meta := range []string{``, `null`, `[1]`, `"x"`, `{"a":1`, `{"a":1}{}`, `{"a":1,"a":2}`, `{"a":}`, "{\"a\":\"\xff\"}"} {
			wantKind(t, s.Put(t.Context(), "42", json.RawMessage(meta)), fault.Invalid)
		}
		wantKind(t, s.Put(t.Context(), "42", json.RawMessage(`{"a":"`+strings.Repeat("x", profile.MaxBytes)+`"}`)), fault.TooLarge)
		for _, id := range []string{"", strings.Repeat("x", 129), "\xff"} {
			wantKind(t, s.Put(t.Context(), id, json.RawMessage(`{}`)), fault.Invalid)
			wantKind(t, s.Delete(t.Context(), id), fault.Invalid)
			_, err := s.Lookup(t.Context(), id)
			wantKind(t, err, fault.Invalid)
		}
		if got, err := s.Lookup(t.Context(), "42"); err != nil || string(got) != `{"name":"Ana"}` {
			t.Errorf("after refused calls the metadata is %s, error %v", got, err)
		}
	})
}

func TestDeleteForgets(t *testing.T) {
	onEach(t, func(t *testing.T, s *profile.Store, _ redis.UniversalClient) {
		put(t, s, "42", `{}`)
		if err := s.Delete(t.Context(), "42"); err != nil {
			t.Fatal(err)
		}
		_, err := s.Lookup(t.Context(), "42")
		wantKind(t, err, fault.NotFound)
		wantKind(t, s.Delete(t.Context(), "42"), fault.NotFound)
	})
}

func TestLookupManyLeavesOutWhatIsNotThere(t *testing.T) {
	onEach(t, func(t *testing.T, s *profile.Store, client redis.UniversalClient) {
		put(t, s, "ana", `{"n":1}`)
		put(t, s, "bob", `{}`)
		if err := client.Set(t.Context(), "spine:user:odd", "x", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := client.HSet(t.Context(), "spine:user:eve", "name", "Eve", "age", "30", "bad\xff", "1").Err(); err != nil {
			t.Fatal(err)
		}
		if err := client.HSet(t.Context(), "spine:user:huge", "x", strings.Repeat("x", 3*profile.MaxBytes)).Err(); err != nil {
			t.Fatal(err)
		}
		got, err := s.LookupMany(t.Context(), []string{"ana", "bob", "eve", "odd", "huge", "nobody", "", "ana", strings.Repeat("x", 200)})
		want := map[string]json.RawMessage{"ana": json.RawMessage(`{"n":1}`), "bob": json.RawMessage(`{}`), "eve": json.RawMessage(`{"age":30,"name":"Eve"}`)}
		if err != nil || fmt.Sprintf("%s", got) != fmt.Sprintf("%s", want) {
			t.Errorf("got %s, error %v; want %s", got, err, want)
		}
		for _, id := range []string{"odd", "huge"} {
			_, err = s.Lookup(t.Context(), id)
			wantKind(t, err, fault.Corrupt)
		}
		if none, err := s.LookupMany(t.Context(), nil); len(none) != 0 || err != nil {
			t.Errorf("nobody's metadata is %s, error %v", none, err)
		}
	})
}

func TestAwayServerIsUnavailable(t *testing.T) {
	s := profile.New(open(t, "redis://"+testkit.FreeAddr(t)))
	_, err := s.Lookup(t.Context(), "42")
	wantKind(t, err, fault.Unavailable)
	_, err = s.LookupMany(t.Context(), []string{"42"})
	wantKind(t, err, fault.Unavailable)
	wantKind(t, s.Put(t.Context(), "42", json.RawMessage(`{}`)), fault.Unavailable)
	wantKind(t, s.Delete(t.Context(), "42"), fault.Unavailable)
}

func TestFullServerIsOverloaded(t *testing.T) {
	client := open(t, testkit.StartRedis(t, "--maxmemory", "1").URL())
	s := profile.New(client)
	wantKind(t, s.Put(t.Context(), "42", json.RawMessage(`{"a":1}`)), fault.Overloaded)
}

// Whatever object is put comes back with the same members.
func TestPutAndLookupAgree(t *testing.T) {
	s := profile.New(open(t, testkit.Miniredis(t)))
	value := rapid.OneOf(rapid.Float64().AsAny(), rapid.String().AsAny(), rapid.Bool().AsAny(),
		rapid.SliceOfN(rapid.String(), 0, 3).AsAny(), rapid.MapOfN(rapid.String(), rapid.Int32(), 0, 3).AsAny())
	rapid.Check(t, func(rt *rapid.T) {
		meta, err := json.Marshal(rapid.MapOfN(rapid.String(), value, 0, 6).Draw(rt, "meta"))
		if err != nil {
			rt.Fatal(err)
		}
		if err := s.Put(t.Context(), "42", meta); err != nil {
			rt.Fatal(err)
		}
		got, err := s.Lookup(t.Context(), "42")
		if err != nil {
			rt.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(meta, &a) != nil || json.Unmarshal(got, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			rt.Fatalf("%s is looked up as %s", meta, got)
		}
	})
}

// The rights that docs/redis.md names for the user are enough.
func TestRightsOfTheUser(t *testing.T) {
	if testing.Short() {
		t.Skip("a real redis-server is not started with -short")
	}
	server := testkit.StartRedis(t)
	server.Do("+OK", "ACL SETUSER spine on >secret ~spine:* &* -@all +@read +@write +@transaction +@connection +@scripting +info +time +config|get")
	s := profile.New(open(t, "redis://spine:secret@"+server.Addr()))
	if err := s.Put(t.Context(), "ana", json.RawMessage(`{"n":1}`)); err != nil {
		t.Fatal(err)
	}
	if meta, err := s.Lookup(t.Context(), "ana"); err != nil || string(meta) != `{"n":1}` {
		t.Errorf("%s, %v", meta, err)
	}
	if err := s.Delete(t.Context(), "ana"); err != nil {
		t.Error(err)
	}
}
