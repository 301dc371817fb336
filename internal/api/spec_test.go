package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
)

// spec is the OpenAPI document as a test reads it: without the types of the page.
type spec struct{ root map[string]any }

func readSpec(t testing.TB) *spec {
	t.Helper()
	s := &spec{}
	if err := json.Unmarshal(openapiJSON, &s.root); err != nil {
		t.Fatal(err)
	}
	return s
}

// resolve follows a $ref.
func (s *spec) resolve(v any) map[string]any {
	m, _ := v.(map[string]any)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	var at any = s.root
	for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		at = at.(map[string]any)[step]
	}
	return s.resolve(at)
}

// operation finds what the document says about a path that may hold a user's id.
func (s *spec) operation(method, path string) map[string]any {
	paths := s.root["paths"].(map[string]any)
	if strings.HasPrefix(path, "/api/users/") {
		presence := strings.HasSuffix(path, "/presence")
		if path = "/api/users/{id}"; presence {
			path += "/presence"
		}
	}
	item, _ := paths[path].(map[string]any)
	if method == http.MethodHead {
		method = http.MethodGet
	}
	op, _ := item[strings.ToLower(method)].(map[string]any)
	return op
}

// check fails the test when the answer is not one the document describes.
func (s *spec) check(t testing.TB, method, path string, rec *httptest.ResponseRecorder) {
	t.Helper()
	op := s.operation(method, path)
	if op == nil {
		return // no such route: nothing is promised but a problem
	}
	answer, ok := op["responses"].(map[string]any)[fmt.Sprint(rec.Code)]
	if !ok {
		t.Errorf("%s %s answered %d, which its documentation does not mention: %s", method, path, rec.Code, rec.Body)
		return
	}
	described := s.resolve(answer)
	contents, _ := described["content"].(map[string]any)
	media, _, _ := strings.Cut(rec.Header().Get("Content-Type"), ";")
	if len(contents) == 0 {
		if rec.Body.Len() > 0 && rec.Code != http.StatusFound {
			t.Errorf("%s %s answered %d with a body nobody described: %s", method, path, rec.Code, rec.Body)
		}
		return
	}
	content, ok := contents[media].(map[string]any)
	if !ok {
		t.Errorf("%s %s answered %d as %q, which is not described", method, path, rec.Code, media)
		return
	}
	if !strings.HasSuffix(media, "json") || method == http.MethodHead {
		return
	}
	var v any
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
		t.Errorf("%s %s answered %d with what is not JSON: %v: %s", method, path, rec.Code, err, rec.Body)
		return
	}
	for _, problem := range s.validate(content["schema"], v, "body") {
		t.Errorf("%s %s answered %d: %s", method, path, rec.Code, problem)
	}
}

// validate checks a value against the part of JSON Schema that the document uses.
func (s *spec) validate(schema, v any, at string) []string {
	m := s.resolve(schema)
	var out []string
	bad := func(format string, args ...any) { out = append(out, at+" "+fmt.Sprintf(format, args...)) }
	for key := range m {
		if !slices.Contains([]string{"type", "required", "properties", "items", "additionalProperties", "const", "enum", "minimum", "maximum",
			"exclusiveMinimum", "minLength", "maxLength", "maxItems", "pattern", "description", "default"}, key) {
			bad("has a schema with %q, which this test does not check", key)
		}
	}
	if t, ok := m["type"]; ok && !hasType(t, v) {
		bad("is %v, not %v", v, t)
		return out
	}
	if c, ok := m["const"]; ok && !reflect.DeepEqual(c, v) {
		bad("is %v, not %v", v, c)
	}
	if e, ok := m["enum"].([]any); ok && !slices.Contains(e, v) {
		bad("is %v, not of %v", v, e)
	}
	switch v := v.(type) {
	case map[string]any:
		out = append(out, s.validateObject(m, v, at)...)
	case []any:
		if limit, ok := m["maxItems"].(float64); ok && len(v) > int(limit) {
			bad("has %d items", len(v))
		}
		for i, item := range v {
			if m["items"] != nil {
				out = append(out, s.validate(m["items"], item, fmt.Sprintf("%s[%d]", at, i))...)
			}
		}
	case string:
		n := utf8.RuneCountInString(v)
		if limit, ok := m["minLength"].(float64); ok && n < int(limit) {
			bad("is shorter than %v", limit)
		}
		if limit, ok := m["maxLength"].(float64); ok && n > int(limit) {
			bad("is longer than %v", limit)
		}
		if p, ok := m["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			bad("is %q, which does not match %s", v, p)
		}
	case float64:
		if limit, ok := m["minimum"].(float64); ok && v < limit {
			bad("is %v, below %v", v, limit)
		}
		if limit, ok := m["exclusiveMinimum"].(float64); ok && v <= limit {
			bad("is %v, not above %v", v, limit)
		}
		if limit, ok := m["maximum"].(float64); ok && v > limit {
			bad("is %v, above %v", v, limit)
		}
	}
	return out
}

func (s *spec) validateObject(m, v map[string]any, at string) []string {
	var out []string
	required, _ := m["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			out = append(out, fmt.Sprintf("%s lacks %v", at, name))
		}
	}
	properties, _ := m["properties"].(map[string]any)
	for name, value := range v {
		if p, ok := properties[name]; ok {
			out = append(out, s.validate(p, value, at+"."+name)...)
		} else if m["additionalProperties"] == false {
			out = append(out, fmt.Sprintf("%s has %s, which is not described", at, name))
		}
	}
	return out
}

func hasType(t, v any) bool {
	if all, ok := t.([]any); ok {
		return slices.ContainsFunc(all, func(t any) bool { return hasType(t, v) })
	}
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case float64:
		return t == "number" || t == "integer" && v == float64(int64(v))
	case []any:
		return t == "array"
	case map[string]any:
		return t == "object"
	}
	return false
}

func TestEveryRouteIsDocumentedAndTheOtherWayRound(t *testing.T) {
	f := newFixture(t)
	var served, documented []string
	err := chi.Walk(f.api.router, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		served = append(served, method+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range f.spec.root["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				documented = append(documented, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("served     %v\ndocumented %v", served, documented)
	}
}

// Every example in the document follows its schema, and the server takes every example of a
// request.
func TestTheExamplesInTheDocumentWork(t *testing.T) {
	f := newFixture(t)
	f.people.known["42"] = json.RawMessage(`{}`)
	for path, item := range f.spec.root["paths"].(map[string]any) {
		for method, raw := range item.(map[string]any) {
			op, ok := raw.(map[string]any)
			if !ok {
				continue // parameters shared by the methods
			}
			for status, answer := range op["responses"].(map[string]any) {
				contents, _ := f.spec.resolve(answer)["content"].(map[string]any)
				f.checkExamples(contents, method+" "+path+" "+status)
			}
			body, _ := op["requestBody"].(map[string]any)
			contents, _ := body["content"].(map[string]any)
			f.checkExamples(contents, method+" "+path)
			for media, c := range contents {
				f.tryExample(strings.ToUpper(method), path, media, c.(map[string]any)["example"])
			}
			if body == nil {
				f.tryExample(strings.ToUpper(method), path, "-", nil)
			}
		}
	}
}

func (f *fixture) checkExamples(contents map[string]any, at string) {
	f.t.Helper()
	for media, c := range contents {
		c := c.(map[string]any)
		if example, ok := c["example"]; ok {
			for _, problem := range f.spec.validate(c["schema"], example, at+" "+media) {
				f.t.Error("example:", problem)
			}
		} else if strings.HasSuffix(media, "json") && !strings.Contains(at, "/openapi.json") {
			f.t.Errorf("%s %s has no example", at, media)
		}
	}
}

func (f *fixture) tryExample(method, path, media string, example any) {
	f.t.Helper()
	body, ok := example.(string)
	if example != nil && !ok {
		b, err := json.Marshal(example)
		if err != nil {
			f.t.Fatal(err)
		}
		body = string(b)
	}
	res := f.do(request{method: method, path: strings.ReplaceAll(path, "{id}", "42"), media: media, body: body, scopes: "emit admin"})
	if res.StatusCode >= 400 || res.StatusCode == http.StatusMultiStatus {
		f.t.Errorf("%s %s refused its own example as %s: %d %s", method, path, media, res.StatusCode, read(f.t, res))
	}
}

func TestTheValidatorCanFail(t *testing.T) {
	s := readSpec(t)
	for name, c := range map[string]struct {
		schema string
		value  string
	}{
		"missing member":    {"Accepted", `{"status":"accepted"}`},
		"other constant":    {"Accepted", `{"status":"no","id":"1"}`},
		"additional member": {"Accepted", `{"status":"accepted","id":"1","x":1}`},
		"wrong type":        {"Accepted", `{"status":"accepted","id":1}`},
		"fraction":          {"BatchAnswer", `{"accepted":0.5,"refused":0,"results":[]}`},
		"below a minimum":   {"BatchAnswer", `{"accepted":-1,"refused":0,"results":[]}`},
		"wrong item":        {"BatchAnswer", `{"accepted":1,"refused":0,"results":[{}]}`},
		"pattern":           {"Event", `{"type":"a..b"}`},
		"too long":          {"Event", `{"type":"a","id":"` + strings.Repeat("x", 129) + `"}`},
		"too short":         {"Event", `{"type":"a","id":""}`},
		"above a maximum":   {"Event", `{"type":"a","timestamp":1e15}`},
		"not above":         {"Order", `{"amount":0}`},
		"not an object":     {"Event", `[]`},
	} {
		var v any
		if err := json.Unmarshal([]byte(c.value), &v); err != nil {
			t.Fatal(err)
		}
		if len(s.validate(map[string]any{"$ref": "#/components/schemas/" + c.schema}, v, "value")) == 0 {
			t.Errorf("%s: %s passes as %s", name, c.value, c.schema)
		}
	}
}
