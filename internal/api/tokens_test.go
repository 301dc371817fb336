package api

import (
	"slices"
	"strings"
	"testing"
	"time"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
	"eventspine/internal/presence"
)

func TestRevokeTokens(t *testing.T) {
	f := newFixture(t)
	for _, body := range []string{`{"jti":"t1"}`, ` {"user":"ana"} `, `{"user":"a\u00e9 b"}`} {
		res := f.do(request{path: "/api/tokens/revoke", body: body, scopes: "admin"})
		if got := read(t, res); res.StatusCode != 200 || got != `{"until":1479600000000}` {
			t.Errorf("%s answered %d %s", body, res.StatusCode, got)
		}
	}
	if !slices.Equal(f.revoked.tokens, []string{"t1"}) || !slices.Equal(f.revoked.users, []string{"ana", "aé b"}) {
		t.Errorf("revoked %v and %v", f.revoked.tokens, f.revoked.users)
	}
	if log := f.logged.String(); !strings.Contains(log, "tokens were revoked") || strings.Contains(log, "t1") {
		t.Errorf("the log says %s", log)
	}
}

func TestRevokeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		q      request
		status int
		fields string
	}{
		"no scope":        {request{body: `{"user":"42"}`}, 403, ""},
		"emit only":       {request{body: `{"user":"42"}`, scopes: "emit"}, 403, ""},
		"no token":        {request{body: `{"user":"42"}`, token: "-"}, 401, ""},
		"nothing":         {request{scopes: "admin"}, 400, ""},
		"an empty object": {request{body: `{}`, scopes: "admin"}, 400, ""},
		"both":            {request{body: `{"jti":"a","user":"b"}`, scopes: "admin"}, 400, ""},
		"twice":           {request{body: `{"jti":"a","jti":"b"}`, scopes: "admin"}, 400, ""},
		"a list":          {request{body: `["a"]`, scopes: "admin"}, 400, ""},
		"not JSON":        {request{body: `{"jti":}`, scopes: "admin"}, 400, ""},
		"more behind":     {request{body: `{"jti":"a"} x`, scopes: "admin"}, 400, ""},
		"empty id":        {request{body: `{"jti":""}`, scopes: "admin"}, 400, "jti"},
		"id is a number":  {request{body: `{"jti":1}`, scopes: "admin"}, 400, "jti"},
		"long id":         {request{body: `{"jti":"` + strings.Repeat("x", 257) + `"}`, scopes: "admin"}, 400, "jti"},
		"user is null":    {request{body: `{"user":null}`, scopes: "admin"}, 400, "user"},
		"long user":       {request{body: `{"user":"` + strings.Repeat("x", 129) + `"}`, scopes: "admin"}, 400, "user"},
		"unknown member":  {request{body: `{"jti":"a","for":"ever"}`, scopes: "admin"}, 400, "for"},
		"too large":       {request{body: `{"jti":"` + strings.Repeat("x", 5000) + `"}`, scopes: "admin"}, 413, ""},
		"form":            {request{body: `jti=a`, media: "application/x-www-form-urlencoded", scopes: "admin"}, 415, ""},
		"another method":  {request{method: "GET", scopes: "admin"}, 405, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.q.path = "/api/tokens/revoke"
			res := f.do(c.q)
			if p := problemOf(t, res); res.StatusCode != c.status || fields(p) != c.fields {
				t.Errorf("answered %d %+v", res.StatusCode, p)
			}
			if len(f.revoked.tokens)+len(f.revoked.users) > 0 {
				t.Errorf("revoked %v and %v", f.revoked.tokens, f.revoked.users)
			}
		})
	}
}

func TestRevokeWhileRedisIsAway(t *testing.T) {
	f := newFixture(t)
	for kind, want := range map[fault.Kind]int{fault.Unavailable: 503, fault.Overloaded: 503, fault.Internal: 500} {
		f.revoked.err = fault.Errorf("revoke", kind, "10.0.1.20: it says no")
		if res := f.do(request{path: "/api/tokens/revoke", body: `{"jti":"a"}`, scopes: "admin"}); res.StatusCode != want {
			t.Errorf("%v answered %d", kind, res.StatusCode)
		}
	}
}

func signed(t *testing.T, id string) string {
	t.Helper()
	s, err := auth.Sign(secret, auth.Claims{Subject: "42", ID: id, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRevokedTokensAreRefused(t *testing.T) {
	f := newFixture(t)
	mine := signed(t, "t1")
	for _, want := range []int{202, 401, 401} {
		res := f.do(request{body: `{"type":"a.b"}`, token: mine})
		if res.StatusCode != want {
			t.Errorf("answered %d, want %d", res.StatusCode, want)
		}
		if p := read(t, res); want == 401 && (!strings.Contains(p, "the token was revoked") || !strings.Contains(res.Header.Get("WWW-Authenticate"), "invalid_token")) {
			t.Errorf("answered %s %v", p, res.Header)
		}
		f.revoked.tokens = []string{"t1"}
	}
	res := f.do(request{body: `{"type":"a.b"}`, token: signed(t, "untold")})
	if res.StatusCode != 503 || res.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("when it cannot be told: %d %v", res.StatusCode, res.Header)
	}
}

func TestPresence(t *testing.T) {
	f := newFixture(t)
	f.people.online["42"] = presence.State{Connections: 2, Since: time.UnixMilli(1448000000000)}
	for _, c := range []struct {
		path, scopes, want string
		status             int
	}{
		{"42", "", `{"online":true,"connections":2,"since":1448000000000}`, 200},
		{"42", "admin", `{"online":true,"connections":2,"since":1448000000000}`, 200},
		{"7", "admin", `{"online":false,"connections":0}`, 200},
		{"a%2Fpresence", "admin", `{"online":false,"connections":0}`, 200},
		{"7", "emit", "", 403},
		{"*", "admin", "", 400},
	} {
		res := f.do(request{method: "GET", path: "/api/users/" + c.path + "/presence", scopes: c.scopes})
		if got := read(t, res); res.StatusCode != c.status || c.want != "" && got != c.want {
			t.Errorf("%s answered %d %s", c.path, res.StatusCode, got)
		}
	}
	f.people.err = fault.Errorf("read presence", fault.Unavailable, "10.0.1.20 is away")
	if res := f.do(request{method: "GET", path: "/api/users/42/presence"}); res.StatusCode != 503 {
		t.Errorf("without redis answered %d", res.StatusCode)
	}
}
