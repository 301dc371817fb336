package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed openapi.json
var openapiJSON []byte

//go:embed docs.html
var docsHTML string

//go:embed docs.css
var docsCSS string

// pages are the documentation: the OpenAPI document and the page made from it, once, at start.
// The page needs nothing from elsewhere, and its policy lets the browser load nothing.
type pages struct {
	html   []byte
	policy string
}

func newPages() (*pages, error) {
	var spec openapi
	if err := json.Unmarshal(openapiJSON, &spec); err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	t, err := template.New("docs").Funcs(template.FuncMap{"code": code, "prose": prose}).Parse(docsHTML)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Spec":     &spec,
		"Groups":   spec.groups(),
		"Problems": problemKinds(),
		"Style":    template.CSS(docsCSS), //nolint:gosec // our own file
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(docsCSS))
	return &pages{
		html: out.Bytes(),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	}, nil
}

// prose is a description as HTML: what stands between backticks is code.
func prose(text string) template.HTML {
	var b strings.Builder
	for i, piece := range strings.Split(text, "`") {
		piece = template.HTMLEscapeString(piece)
		if i%2 == 1 {
			piece = "<code>" + piece + "</code>"
		}
		b.WriteString(piece)
	}
	return template.HTML(b.String()) //nolint:gosec // escaped above
}

func (p *pages) serveDocs(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(p.html) // a caller that went away needs no answer
}

func (p *pages) serveSpec(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-cache")
	writeJSON(w, http.StatusOK, openapiJSON)
}

// openapi is the part of an OpenAPI document that the page shows.
type openapi struct {
	Info struct{ Title, Version, Summary, Description string }
	Tags []struct{ Name, Description string }

	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas    map[string]schema
		Responses  map[string]response
		Parameters map[string]parameter
	}
}

// Paragraphs is the description of the whole, split at its empty lines.
func (o *openapi) Paragraphs() []string { return strings.Split(o.Info.Description, "\n\n") }

// Shown lists the schemas by name.
func (o *openapi) Shown() []named {
	var out []named
	for name, s := range o.Components.Schemas {
		out = append(out, named{name, s})
	}
	slices.SortFunc(out, func(a, b named) int { return strings.Compare(a.Name, b.Name) })
	return out
}

type named struct {
	Name string
	schema
}

type schema struct {
	Ref         string `json:"$ref"`
	Type        any
	Description string
	Required    []string
	Properties  map[string]schema
	Items       *schema
	Const       any
	Enum        []string
	Minimum     any
	Maximum     any
	MaxLength   int
	Default     any
}

// Rows lists the members of an object, required ones first.
func (s schema) Rows() []row {
	var out []row
	for name, p := range s.Properties {
		out = append(out, row{name, slices.Contains(s.Required, name), p})
	}
	slices.SortFunc(out, func(a, b row) int {
		if a.Required != b.Required {
			if a.Required {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// Link is the name of the schema this one refers to, or empty.
func (s schema) Link() string { return strings.TrimPrefix(s.Ref, "#/components/schemas/") }

// Kind is the type in words.
func (s schema) Kind() string {
	switch t := s.Type.(type) {
	case string:
		if t == "array" && s.Items != nil && s.Items.Kind() != "any" {
			return "array of " + s.Items.Kind()
		}
		return t
	case []any:
		words := make([]string, len(t))
		for i := range t {
			words[i] = fmt.Sprint(t[i])
		}
		return strings.Join(words, " or ")
	}
	if s.Ref != "" {
		return s.Link()
	}
	return "any"
}

type row struct {
	Name     string
	Required bool
	schema
}

type parameter struct {
	Ref         string `json:"$ref"`
	Name        string
	In          string
	Required    bool
	Description string
	Schema      schema
}

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]content
}

type content struct {
	Schema  schema
	Example json.RawMessage
}

// operation is one method of one path, with its references resolved.
type operation struct {
	Method, Path string
	OperationID  string
	Tags         []string
	Summary      string
	Description  string
	Security     []any
	Parameters   []parameter
	RequestBody  struct{ Content map[string]content }
	Responses    map[string]response
}

// Anchor is where the operation stands on the page.
func (o operation) Anchor() string { return "op-" + o.OperationID }

// Open reports whether no token is needed.
func (o operation) Open() bool { return o.Security != nil && len(o.Security) == 0 }

// Curl is a command that tries the operation.
func (o operation) Curl() string {
	url := "http://127.0.0.1:3000" + strings.ReplaceAll(o.Path, "{id}", "42")
	args := []string{"curl"}
	if o.Method != http.MethodGet {
		args = append(args, "-X "+o.Method)
	}
	if o.OperationID == "search" {
		url = `"` + url + `?type=notification.*&size=50"`
	}
	args = append(args, url)
	if !o.Open() {
		args = append(args, "\\\n  -H \"Authorization: Bearer $TOKEN\"")
	}
	if body, ok := o.RequestBody.Content[typeJSON]; ok {
		var compact bytes.Buffer
		if json.Compact(&compact, body.Example) == nil {
			args = append(args, "\\\n  -H 'Content-Type: application/json' \\\n  -d '"+compact.String()+"'")
		}
	}
	return strings.Join(args, " ")
}

type group struct {
	Name, Description string
	Operations        []operation
}

// groups sorts the operations by tag, and within a tag by path and method.
func (o *openapi) groups() []group {
	var out []group
	for _, tag := range o.Tags {
		g := group{tag.Name, tag.Description, nil}
		for path, methods := range o.Paths {
			g.Operations = append(g.Operations, o.operations(path, methods, tag.Name)...)
		}
		slices.SortFunc(g.Operations, func(a, b operation) int {
			return strings.Compare(a.Path+methodOrder(a.Method), b.Path+methodOrder(b.Method))
		})
		out = append(out, g)
	}
	return out
}

func methodOrder(m string) string {
	return fmt.Sprintf("\x00%d", slices.Index([]string{"POST", "PUT", "GET", "DELETE"}, m))
}

func (o *openapi) operations(path string, methods map[string]json.RawMessage, tag string) []operation {
	var out []operation
	var shared []parameter
	_ = json.Unmarshal(methods["parameters"], &shared) // absent for most paths
	for method, raw := range methods {
		op := operation{Method: strings.ToUpper(method), Path: path}
		if method == "parameters" || json.Unmarshal(raw, &op) != nil || !slices.Contains(op.Tags, tag) {
			continue
		}
		op.Parameters = append(slices.Clone(shared), op.Parameters...)
		for i, p := range op.Parameters {
			if p.Ref != "" {
				op.Parameters[i] = o.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
			}
		}
		for status, r := range op.Responses {
			if r.Ref != "" {
				op.Responses[status] = o.Components.Responses[strings.TrimPrefix(r.Ref, "#/components/responses/")]
			}
		}
		out = append(out, op)
	}
	return out
}

// code shows an example: JSON on lines of its own, a string as its text.
func code(example json.RawMessage) string {
	var text string
	if json.Unmarshal(example, &text) == nil {
		return text
	}
	var out bytes.Buffer
	if json.Indent(&out, example, "", "  ") != nil {
		return string(example)
	}
	return out.String()
}
