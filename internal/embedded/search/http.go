package search

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// refusal is an error as Elasticsearch tells it.
type refusal struct {
	status      int
	typ, reason string
}

func refuse(status int, typ, format string, args ...any) *refusal {
	return &refusal{status, typ, fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.typ + ": " + r.reason }

// maxBody is Elasticsearch's http.max_content_length.
const maxBody = 100 << 20

type handler struct {
	store *store
	log   *slog.Logger
}

type answer struct {
	status int
	body   []byte
}

func newHandler(st *store, log *slog.Logger) http.Handler {
	h := &handler{st, log}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, h.route(r)) })
}

// route finds what answers a request. The name in its path, of an index or a template, is set
// as the path value "name". http.ServeMux cannot tell /_index_template/x from /index/_search.
func (h *handler) route(r *http.Request) func(*http.Request) (answer, error) {
	first, second, two := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // the body is left out by net/http
	}
	name, shape := first, method+" index"
	id, doc := strings.CutPrefix(second, "_doc/")
	switch {
	case doc:
		shape = method + " document"
		r.SetPathValue("id", id)
	case first == "":
		shape = method + " /"
	case first == "_index_template":
		name, shape = second, method+" template"
	case strings.HasPrefix(first, "_"):
		shape = method + " " + r.URL.Path
	case two:
		shape += " " + second
	}
	r.SetPathValue("name", name)
	switch shape {
	case "GET /":
		return h.info
	case "PUT template":
		return h.putTemplate
	case "GET template":
		return h.getTemplate
	case "DELETE template":
		return h.deleteTemplate
	case "POST /_bulk", "PUT /_bulk":
		return h.bulk
	case "POST index _search", "GET index _search":
		return h.search
	case "POST index _count", "GET index _count":
		return h.count
	case "POST index _refresh":
		return h.refresh
	case "GET document":
		return h.getDocument
	case "DELETE document":
		return h.deleteDocument
	case "GET /_nodes/stats/fs", "GET /_cluster/settings", "GET index _settings/index.blocks.read_only_allow_delete":
		return nothing
	case "GET index _mapping":
		return h.mapping
	case "GET index":
		return h.getIndex
	case "DELETE index":
		return h.deleteIndex
	}
	return noHandler
}

// answer writes what fn returns, or its error in Elasticsearch's form.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, fn func(*http.Request) (answer, error)) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	a, err := fn(r)
	if err != nil {
		a = h.failure(r, err)
	}
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // an error means that the client went away
}

func (h *handler) failure(r *http.Request, err error) answer {
	var ref *refusal
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &ref):
	case errors.As(err, &tooBig):
		ref = refuse(413, "content_too_long_exception", "the request has more than %d bytes", maxBody)
	case r.Context().Err() != nil:
		ref = refuse(503, "task_cancelled_exception", "the client went away")
	default:
		h.log.Error("embedded search failed", "method", r.Method, "error", err)
		ref = refuse(500, "exception", "%s", err)
	}
	cause := object{"type": ref.typ, "reason": ref.reason}
	return reply(ref.status, object{"error": object{"root_cause": []object{cause}, "type": ref.typ, "reason": ref.reason}, "status": ref.status})
}

type object = map[string]any

func reply(status int, v any) answer {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return answer{500, []byte(`{"error":{"type":"exception","reason":"the answer cannot be written"},"status":500}`)}
	}
	return answer{status, b}
}

// only refuses query parameters other than those given, as name=value or as name alone.
func only(q url.Values, allowed ...string) error {
next:
	for name, values := range q {
		for _, a := range allowed {
			if a == name || len(values) == 1 && a == name+"="+values[0] {
				continue next
			}
		}
		return refuse(400, "illegal_argument_exception", "request contains unrecognized parameter or value: [%s]", name)
	}
	return nil
}

func noHandler(r *http.Request) (answer, error) {
	return answer{}, refuse(400, "illegal_argument_exception", "no handler found for uri [%s] and method [%s]", r.URL.Path, r.Method)
}

func (h *handler) info(r *http.Request) (answer, error) {
	return reply(200, object{
		"name":         "eventspine",
		"cluster_name": "embedded",
		"version":      object{"number": "8.19.0", "build_flavor": "default", "build_type": "embedded", "build_snapshot": false},
		"tagline":      "You Know, for Search",
	}), only(r.URL.Query())
}

// template is what matters here of an index template.
type template struct {
	Patterns []string `json:"index_patterns"`
	Priority int      `json:"priority"`
	Template struct {
		Aliases  map[string]jsontext.Value `json:"aliases"`
		Mappings jsontext.Value            `json:"mappings"`
	} `json:"template"`
}

func parseTemplate(body []byte) (template, error) {
	var t template
	if err := json.Unmarshal(body, &t); err != nil {
		return t, refuse(400, "x_content_parse_exception", "%s", err)
	}
	if len(t.Patterns) == 0 {
		return t, refuse(400, "illegal_argument_exception", "index_patterns are missing")
	}
	return t, nil
}

func (t *template) fits(index string) bool {
	for _, p := range t.Patterns {
		if match(p, index) {
			return true
		}
	}
	return false
}

func (t *template) aliases() string {
	var b strings.Builder
	for a := range t.Template.Aliases {
		b.WriteString("," + a)
	}
	return b.String() + ","
}

func (t *template) mappings() string {
	if len(t.Template.Mappings) == 0 {
		return "{}"
	}
	return string(t.Template.Mappings)
}

func (h *handler) putTemplate(r *http.Request) (answer, error) {
	if err := only(r.URL.Query()); err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, err
	}
	if _, err := parseTemplate(body); err != nil {
		return answer{}, err
	}
	return acknowledged, h.store.putTemplate(r.Context(), r.PathValue("name"), string(body))
}

var acknowledged = answer{200, []byte(`{"acknowledged":true}`)}

func (h *handler) getTemplate(r *http.Request) (answer, error) {
	name := r.PathValue("name")
	body, err := h.store.template(r.Context(), name)
	if err != nil {
		return answer{}, err
	}
	return reply(200, object{"index_templates": []object{{"name": name, "index_template": jsontext.Value(body)}}}), nil
}

func (h *handler) deleteTemplate(r *http.Request) (answer, error) {
	return acknowledged, h.store.deleteTemplate(r.Context(), r.PathValue("name"))
}

const bulkFilter = "filter_path=took,errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"

func (h *handler) bulk(r *http.Request) (answer, error) {
	if err := only(r.URL.Query(), bulkFilter); err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, err
	}
	ops, err := parseBulk(body)
	if err != nil {
		return answer{}, err
	}
	if err := h.store.bulk(r.Context(), ops); err != nil {
		return answer{}, err
	}
	failed := false
	items := make([]object, len(ops))
	for i := range ops {
		op := &ops[i]
		result := object{"status": op.status}
		if op.err != nil {
			failed = true
			result["error"] = object{"type": op.err.typ, "reason": op.err.reason}
		}
		if !r.URL.Query().Has("filter_path") {
			result["_index"], result["_id"] = op.index, op.id
		}
		items[i] = object{"create": result}
	}
	return reply(200, object{"took": 1, "errors": failed, "items": items}), nil
}

func (h *handler) found(r *http.Request, q *query) ([]index, int64, []hit, error) {
	in, err := h.store.indices(r.Context(), r.PathValue("name"))
	if err != nil {
		return nil, 0, nil, err
	}
	total, hits, err := h.store.search(r.Context(), in, q)
	return in, total, hits, err
}

func shards(in []index) object {
	return object{"total": len(in), "successful": len(in), "skipped": 0, "failed": 0}
}

func (h *handler) search(r *http.Request) (answer, error) {
	if err := only(r.URL.Query(), "allow_partial_search_results=false", "ignore_unavailable=true"); err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, err
	}
	if asksNumbers(body) {
		return h.numbers(r, body)
	}
	q, err := parseSearch(body)
	if err != nil {
		return answer{}, err
	}
	in, total, hits, err := h.found(r, q)
	if err != nil {
		return answer{}, err
	}
	return answer{200, appendFound(nil, in, total, hits)}, nil
}

// appendFound writes the answer of a search by hand, so that sources stay as they are.
func appendFound(dst []byte, in []index, total int64, hits []hit) []byte {
	dst = fmt.Appendf(dst, `{"took":1,"timed_out":false,"_shards":{"total":%d,"successful":%[1]d,"skipped":0,"failed":0},`, len(in))
	dst = fmt.Appendf(dst, `"hits":{"total":{"value":%d,"relation":"eq"},"max_score":null,"hits":[`, total)
	for i := range hits {
		x := &hits[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = quoted(append(dst, `{"_index":`...), x.index)
		dst = quoted(append(dst, `,"_id":`...), x.docid)
		dst = append(append(dst, `,"_score":null,"_source":`...), x.source...)
		dst = fmt.Appendf(dst, `,"sort":[%d,%d,`, x.ts, x.seq)
		dst = append(quoted(dst, x.id), "]}"...)
	}
	return append(dst, "]}}"...)
}

func quoted(dst []byte, s string) []byte {
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil { // invalid UTF-8 was replaced
		return out
	}
	return out
}

func (h *handler) count(r *http.Request) (answer, error) {
	if err := only(r.URL.Query()); err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return answer{}, err
	}
	q, err := parseCount(body)
	if err != nil {
		return answer{}, err
	}
	in, total, _, err := h.found(r, q)
	if err != nil {
		return answer{}, err
	}
	return reply(200, object{"count": total, "_shards": shards(in)}), nil
}

// refresh has nothing to do: what was answered is found.
func (h *handler) refresh(r *http.Request) (answer, error) {
	in, err := h.store.indices(r.Context(), r.PathValue("name"))
	if err != nil {
		return answer{}, err
	}
	return reply(200, object{"_shards": shards(in)}), only(r.URL.Query())
}

// nothing answers for what a single file on one disk does not have: nodes, watermarks, blocks.
func nothing(*http.Request) (answer, error) { return answer{200, []byte("{}")}, nil }

func (h *handler) getDocument(r *http.Request) (answer, error) {
	if err := only(r.URL.Query()); err != nil {
		return answer{}, err
	}
	in, err := h.store.indices(r.Context(), r.PathValue("name"))
	if err != nil {
		return answer{}, err
	}
	id := r.PathValue("id")
	source, err := h.store.document(r.Context(), in, id)
	if source == nil || err != nil {
		return answer{404, []byte(`{"found":false}`)}, err
	}
	return reply(200, object{"_id": id, "found": true, "_source": jsontext.Value(source)}), nil
}

func (h *handler) deleteDocument(r *http.Request) (answer, error) {
	if err := only(r.URL.Query(), "refresh=true"); err != nil {
		return answer{}, err
	}
	in, err := h.store.indices(r.Context(), r.PathValue("name"))
	if err != nil {
		return answer{}, err
	}
	deleted, err := h.store.deleteDocument(r.Context(), in, r.PathValue("id"))
	if !deleted || err != nil {
		return answer{404, []byte(`{"result":"not_found"}`)}, err
	}
	return answer{200, []byte(`{"result":"deleted"}`)}, nil
}

func (h *handler) mapping(r *http.Request) (answer, error) {
	in, err := h.store.indices(r.Context(), r.PathValue("name"))
	if err != nil {
		return answer{}, err
	}
	out := object{}
	for _, x := range in {
		out[x.name] = object{"mappings": jsontext.Value(x.mappings)}
	}
	return reply(200, out), only(r.URL.Query())
}

func (h *handler) getIndex(r *http.Request) (answer, error) {
	in, err := h.store.indices(r.Context(), r.PathValue("name"))
	if err != nil {
		return answer{}, err
	}
	out := object{}
	for _, x := range in {
		aliases := object{}
		for a := range strings.SplitSeq(strings.Trim(x.aliases, ","), ",") {
			if a != "" {
				aliases[a] = object{}
			}
		}
		out[x.name] = object{"aliases": aliases, "mappings": jsontext.Value(x.mappings), "settings": object{"index": x.settings()}}
	}
	return reply(200, out), only(r.URL.Query())
}

func (x *index) settings() object {
	if x.created == 0 {
		return object{}
	}
	return object{"creation_date": strconv.FormatInt(x.created, 10)}
}

func (h *handler) deleteIndex(r *http.Request) (answer, error) {
	name := r.PathValue("name")
	in, err := h.store.indices(r.Context(), name)
	if err != nil {
		return answer{}, err
	}
	for _, x := range in {
		if !match(name, x.name) && !strings.Contains(","+name+",", ","+x.name+",") {
			return answer{}, refuse(400, "illegal_argument_exception", "The provided expression [%s] matches an alias, specify the corresponding concrete indices instead.", name)
		}
	}
	return acknowledged, h.store.deleteIndices(r.Context(), in)
}
