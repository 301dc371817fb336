package api

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"eventspine/internal/archive"
	"eventspine/internal/fault"
)

func TestUsersOwnMetadata(t *testing.T) {
	f := newFixture(t)
	if res := f.do(request{method: "PUT", path: "/api/users/42", body: ` {"name":"Ana","n":1.50} `}); res.StatusCode != 204 {
		t.Fatalf("PUT answered %d %s", res.StatusCode, read(t, res))
	}
	res := f.do(request{method: "GET", path: "/api/users/42"})
	if got := read(t, res); res.StatusCode != 200 || got != `{"name":"Ana","n":1.50}` {
		t.Errorf("GET answered %d %s", res.StatusCode, got)
	}
	if res := f.do(request{method: "HEAD", path: "/api/users/42"}); res.StatusCode != 200 {
		t.Errorf("HEAD answered %d", res.StatusCode)
	}
	for range 2 {
		if res := f.do(request{method: "DELETE", path: "/api/users/42"}); res.StatusCode != 204 {
			t.Errorf("DELETE answered %d", res.StatusCode)
		}
	}
	res = f.do(request{method: "GET", path: "/api/users/42"})
	if p := problemOf(t, res); res.StatusCode != 404 || p.Type != "/docs#problem-not-found" {
		t.Errorf("GET answered %d %+v", res.StatusCode, p)
	}
	if want := []string{"42", "42", "42"}; !slices.Equal(f.people.changed, want) {
		t.Errorf("told workers of %v", f.people.changed)
	}
}

func TestUserIDsInPaths(t *testing.T) {
	for path, id := range map[string]string{
		"42": "42", "ana.b@x.org": "ana.b@x.org", "a%2Fb": "a/b", "a%20b": "a b", "100%25": "100%", "a%252Fb": "a%2Fb", "%C3%A9": "é", "é": "é",
		"..": "..", "a+b": "a+b", "a%3Fb%23c": "a?b#c", "%2541": "%41",
	} {
		f := newFixture(t)
		f.people.known[id] = json.RawMessage(`{"id":1}`)
		res := f.do(request{method: "GET", path: "/api/users/" + path, token: token(t, id)})
		if res.StatusCode != 200 {
			t.Errorf("%s as %q answered %d %s", path, id, res.StatusCode, read(t, res))
		}
	}
}

func TestUsersRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		q      request
		status int
		fields string
	}{
		"another user's":        {request{method: "GET", path: "/api/users/421"}, 403, ""},
		"change another user":   {request{method: "PUT", path: "/api/users/421", body: `{}`}, 403, ""},
		"delete another user":   {request{method: "DELETE", path: "/api/users/421"}, 403, ""},
		"emit is not admin":     {request{method: "GET", path: "/api/users/421", scopes: "emit"}, 403, ""},
		"everybody":             {request{method: "PUT", path: "/api/users/*", body: `{}`, scopes: "admin"}, 400, "id"},
		"id too long":           {request{method: "GET", path: "/api/users/" + strings.Repeat("x", 129), scopes: "admin"}, 400, "id"},
		"id with a control":     {request{method: "GET", path: "/api/users/a%0Ab", scopes: "admin"}, 400, "id"},
		"id that is not UTF-8":  {request{method: "GET", path: "/api/users/%ff", scopes: "admin"}, 400, "id"},
		"array":                 {request{method: "PUT", path: "/api/users/42", body: `[]`}, 400, ""},
		"text":                  {request{method: "PUT", path: "/api/users/42", body: `"x"`}, 400, ""},
		"not JSON":              {request{method: "PUT", path: "/api/users/42", body: `{"a":}`}, 400, ""},
		"empty":                 {request{method: "PUT", path: "/api/users/42"}, 400, ""},
		"a name twice":          {request{method: "PUT", path: "/api/users/42", body: `{"a":1,"a":2}`}, 400, ""},
		"two objects":           {request{method: "PUT", path: "/api/users/42", body: `{} {}`}, 400, ""},
		"no token":              {request{method: "GET", path: "/api/users/42", token: "-"}, 401, ""},
		"16 KiB and a byte":     {request{method: "PUT", path: "/api/users/42", body: `{"a":"` + strings.Repeat("x", maxMetadata-7) + `"}`}, 413, ""},
		"the same in chunks":    {request{method: "PUT", path: "/api/users/42", chunks: true, body: `{"a":"` + strings.Repeat("x", maxMetadata-7) + `"}`}, 413, ""},
		"form":                  {request{method: "PUT", path: "/api/users/42", media: "multipart/form-data", body: `x`}, 415, ""},
		"unreadable media type": {request{method: "PUT", path: "/api/users/42", media: "/", body: `{}`}, 415, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			res := f.do(c.q)
			if p := problemOf(t, res); res.StatusCode != c.status || fields(p) != c.fields {
				t.Errorf("answered %d %+v", res.StatusCode, p)
			}
			if len(f.people.known) > 0 || len(f.people.changed) > 0 {
				t.Errorf("changed %v, told of %v", f.people.known, f.people.changed)
			}
		})
	}
}

func TestAdminsChangeOtherUsers(t *testing.T) {
	f := newFixture(t)
	body := `{"a":"` + strings.Repeat("x", maxMetadata-8) + `"}`
	if res := f.do(request{method: "PUT", path: "/api/users/ana.b", body: body, scopes: "admin"}); res.StatusCode != 204 || len(f.people.known["ana.b"]) != maxMetadata {
		t.Errorf("answered %d", res.StatusCode)
	}
}

func TestUsersWhileRedisIsAway(t *testing.T) {
	f := newFixture(t)
	f.people.err = fault.Errorf("put", fault.Unavailable, "dial tcp 10.0.1.20:6379: refused")
	for _, method := range []string{"PUT", "GET", "DELETE"} {
		res := f.do(request{method: method, path: "/api/users/42", body: `{}`})
		if p := problemOf(t, res); res.StatusCode != 503 || p.Type != "/docs#problem-unavailable" || res.Header.Get("Retry-After") != "5" {
			t.Errorf("%s answered %d %+v", method, res.StatusCode, p)
		}
	}
	if len(f.people.changed) > 0 {
		t.Errorf("told workers of %v though nothing changed", f.people.changed)
	}
	f.people.err = fault.Errorf("lookup", fault.Corrupt, "key spine:user:42 holds a list")
	if res := f.do(request{method: "GET", path: "/api/users/42"}); res.StatusCode != 500 {
		t.Errorf("answered %d", res.StatusCode)
	}
}

func TestSearchWhoSeesWhat(t *testing.T) {
	for name, c := range map[string]struct {
		scopes, query string
		user          string
		any           bool
	}{
		"own events":             {"", "", "42", false},
		"own events, said so":    {"", "?userId=42", "42", false},
		"emit sees its own":      {"emit", "", "42", false},
		"admin sees all":         {"admin", "", "", true},
		"admin asks for one":     {"admin", "?userId=7", "7", false},
		"admin asks for its own": {"admin emit", "?userId=42", "42", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			res := f.do(request{method: "GET", path: "/api/search" + c.query, scopes: c.scopes})
			if got := read(t, res); res.StatusCode != 200 || got != `{"total":0,"events":[]}` {
				t.Fatalf("answered %d %s", res.StatusCode, got)
			}
			if q := f.shelf.asked; q.UserID != c.user || q.AnyUser != c.any || q.Size != defaultSize || q.Ascending {
				t.Errorf("asked %+v", q)
			}
		})
	}
}

func TestSearchRefuses(t *testing.T) {
	for query, want := range map[string]struct {
		status int
		fields string
	}{
		"userId=421":                       {403, ""},
		"userId=*":                         {403, ""},
		"colour=red&q=x&limit=5":           {400, "colour limit"},
		"q=" + strings.Repeat("x", 1025):   {400, "q"},
		"q=%ff":                            {400, "q"},
		"q=":                               {400, "q"},
		"q=a&q=b":                          {400, "q"},
		"userId=":                          {400, "userId"},
		"type=" + strings.Repeat("x", 129): {400, "type"},
		"from=yesterday":                   {400, "from"},
		"from=-1":                          {400, "from"},
		"from=":                            {400, "from"},
		"to=2015-11-20":                    {400, "to"},
		"from=5&to=5":                      {400, "to"},
		"from=6&to=5":                      {400, "to"},
		"to=999999999999999999":            {400, "to"},
		"size=0":                           {400, "size"},
		"size=1001":                        {400, "size"},
		"size=ten":                         {400, "size"},
		"order=up":                         {400, "order"},
		"order=":                           {400, "order"},
		"q=%zz":                            {400, ""},
		"size=x&order=x&from=x&to=x&no=x":  {400, "no from to size order"},
	} {
		f := newFixture(t)
		res := f.do(request{method: "GET", path: "/api/search?" + query})
		if p := problemOf(t, res); res.StatusCode != want.status || fields(p) != want.fields {
			t.Errorf("%s answered %+v", query, p)
		}
		if f.shelf.asked != (archive.Query{}) {
			t.Errorf("%s was asked: %+v", query, f.shelf.asked)
		}
	}
}

func TestSearchErrors(t *testing.T) {
	for kind, want := range map[fault.Kind]struct {
		status int
		retry  string
	}{
		fault.Unavailable: {503, "5"}, fault.Overloaded: {503, "1"}, fault.Invalid: {400, ""}, fault.Internal: {500, ""},
	} {
		f := newFixture(t)
		f.shelf.err = fault.Errorf("search", kind, "the page token is not good")
		res := f.do(request{method: "GET", path: "/api/search"})
		if res.StatusCode != want.status || res.Header.Get("Retry-After") != want.retry {
			t.Errorf("%v answered %d, Retry-After %q", kind, res.StatusCode, res.Header.Get("Retry-After"))
		}
	}
}
