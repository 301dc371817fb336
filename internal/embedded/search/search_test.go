package search

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"eventspine/internal/fault"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func serve(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := Start(t.Context(), Options{Dir: dir})
	must(t, err)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s
}

// call sends a request and gives its status and the type of the error, or the body.
func call(t *testing.T, s *Server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, s.URL()+path, strings.NewReader(body))
	must(t, err)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	if res.Header.Get("X-Elastic-Product") != "Elasticsearch" {
		t.Errorf("%s %s: the answer does not say Elasticsearch", method, path)
	}
	if res.StatusCode < 300 {
		return res.StatusCode, string(b)
	}
	var e struct {
		Error struct {
			Type, Reason string
			RootCause    []struct{ Type string } `json:"root_cause"`
		}
		Status int
	}
	if method != http.MethodHead {
		if err := json.Unmarshal(b, &e); err != nil || e.Status != res.StatusCode || e.Error.Reason == "" || len(e.Error.RootCause) != 1 {
			t.Errorf("%s %s: not an error as Elasticsearch writes it: %s", method, path, b)
		}
	}
	return res.StatusCode, e.Error.Type
}

func doc(id string, n int) string {
	return fmt.Sprintf(`{"create":{"_index":"events-2020.01.01","_id":"%s"}}`+"\n"+
		`{"id":"%[1]s","type":"order.created","userId":"42","timestamp":%d,"seq":%[2]d,"data":{"n":%[2]d},"spine":{"text":"order created %[1]s"}}`+"\n", id, n)
}

const everything = `{"size":10,"track_total_hits":true,"query":{"match_all":{}},"sort":[` + order + `]}`
const order = `{"timestamp":{"order":"asc","unmapped_type":"date"}},{"seq":{"order":"asc","unmapped_type":"long"}},{"id":{"order":"asc","unmapped_type":"keyword"}}`

func total(t *testing.T, s *Server, index, query string) string {
	t.Helper()
	status, body := call(t, s, "POST", "/"+index+"/_count", `{"query":`+query+`}`)
	var n struct{ Count int }
	if status != 200 {
		return body
	}
	must(t, json.Unmarshal([]byte(body), &n))
	return fmt.Sprint(n.Count)
}

func TestEverythingIsKeptBetweenRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made when missing")
	s := serve(t, dir)
	call(t, s, "PUT", "/_index_template/events", `{"index_patterns":["events-*"],"template":{"aliases":{"events":{}},"mappings":{"dynamic":false}}}`)
	for i := range 5 {
		if status, body := call(t, s, "POST", "/_bulk", doc(fmt.Sprint("a", i), i+1)); status != 200 || strings.Contains(body, "error\"") {
			t.Fatalf("%d %s", status, body)
		}
	}
	_, before := call(t, s, "POST", "/events/_search", everything)
	must(t, s.Close())
	again := serve(t, dir)
	defer func() { must(t, again.Close()) }()
	if _, after := call(t, again, "POST", "/events/_search", everything); after != before || !strings.Contains(after, `"value":5`) {
		t.Errorf("found %s\nafter the restart %s", before, after)
	}
	if got := total(t, again, "events", `{"simple_query_string":{"query":"a3","fields":["spine.text"],"default_operator":"and","flags":"WHITESPACE|PHRASE|PREFIX|NOT"}}`); got != "1" {
		t.Errorf("the words are gone: %s", got)
	}
	if status, _ := call(t, again, "GET", "/_index_template/events", ""); status != 200 {
		t.Errorf("the template is gone: %d", status)
	}
	if _, body := call(t, again, "POST", "/_bulk", doc("a1", 2)); !strings.Contains(body, "409") {
		t.Errorf("an id was forgotten: %s", body)
	}
}

// TestWhatWasAnsweredSurvivesACrash: a second process sees it although the first never closed.
func TestWhatWasAnsweredSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	call(t, s, "POST", "/_bulk", doc("a", 1)+doc("b", 2))
	second := serve(t, dir) // reads the same file and its write-ahead log
	if got := total(t, second, "events-*", `{"match_all":{}}`); got != "2" {
		t.Errorf("count %s, want 2", got)
	}
	must(t, second.Close())
	must(t, s.Close())
}

func TestIndicesAndAliases(t *testing.T) {
	s := serve(t, t.TempDir())
	defer func() { must(t, s.Close()) }()
	call(t, s, "PUT", "/_index_template/low", `{"index_patterns":["e*"],"template":{"aliases":{"low":{}}}}`)
	call(t, s, "PUT", "/_index_template/events", `{"index_patterns":["events-*.*.*"],"priority":9,"template":{"aliases":{"events":{},"all":{}},"mappings":{"a":1}}}`)
	for i, name := range []string{"events-2020.01.01", "events-2020.01.02", "events-dead", "other"} {
		call(t, s, "POST", "/_bulk", strings.ReplaceAll(doc("a", i+1), "events-2020.01.01", name))
	}
	for expression, want := range map[string]string{
		"events": "2", "all": "2", "low": "1", "events-*": "3", "events-*.*.*": "2", "events-2020.01.02": "1", "*": "4", "events,other": "3",
		"none-*": "0", "none": "index_not_found_exception", "other,none": "index_not_found_exception", "eve*s-dead": "1", "*.02": "1",
	} {
		if got := total(t, s, expression, `{"match_all":{}}`); got != want {
			t.Errorf("%s counts %s, want %s", expression, got, want)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/", 200, `"number":"8.19`},
		{"HEAD", "/", 200, ""},
		{"GET", "/events-2020.01.01", 200, `"aliases":{"all":{},"events":{}}`},
		{"HEAD", "/events-2020.01.01", 200, ""},
		{"HEAD", "/events-2020.01.09", 404, ""},
		{"GET", "/events-2020.01.01/_mapping", 200, `{"events-2020.01.01":{"mappings":{"a":1}}}`},
		{"POST", "/events/_refresh", 200, `"failed":0`},
		{"DELETE", "/events", 400, "illegal_argument_exception"},
		{"DELETE", "/events-2020.01.01", 200, "acknowledged"},
		{"DELETE", "/events-2020.01.01", 404, "index_not_found_exception"},
		{"DELETE", "/_index_template/low", 200, "acknowledged"},
		{"DELETE", "/_index_template/low", 404, "index_template_missing_exception"},
		{"GET", "/_index_template/low", 404, "resource_not_found_exception"},
	} {
		if status, got := call(t, s, c.method, c.path, ""); status != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, status, got, c.status, c.want)
		}
	}
	if got := total(t, s, "events", `{"match_all":{}}`); got != "1" {
		t.Errorf("after the delete: %s", got)
	}
}

// TestUnknownShapesAreRefused: never an answer to a question that was not understood.
func TestUnknownShapesAreRefused(t *testing.T) {
	s := serve(t, t.TempDir())
	defer func() { must(t, s.Close()) }()
	call(t, s, "POST", "/_bulk", doc("a", 1))
	search := func(query string) string { return strings.Replace(everything, `{"match_all":{}}`, query, 1) }
	for _, body := range []string{
		"", "{", "[]", `{}`, strings.Replace(everything, `"size":10,`, "", 1), strings.Replace(everything, "10", "10001", 1), strings.Replace(everything, "10", "-1", 1),
		strings.Replace(everything, "true", "false", 1), strings.Replace(everything, `"size"`, `"SIZE"`, 1), strings.Replace(everything, `"size"`, `"from":0,"size"`, 1),
		strings.Replace(everything, "asc", "desc", 1), strings.ReplaceAll(everything, "asc", "up"), strings.Replace(everything, order, `"_score"`, 1), strings.Replace(everything, order, ``, 1),
		strings.Replace(everything, `"seq"`, `"data.n"`, 1), strings.Replace(everything, `"size"`, `"aggs":{},"size"`, 1), strings.Replace(everything, `"size"`, `"search_after":[1,2],"size"`, 1),
		strings.Replace(everything, `"size"`, `"search_after":["1",2,"a"],"size"`, 1),
		search(`{}`), search(`{"match_all":{},"match_none":{}}`), search(`{"match":{"type":"a"}}`), search(`{"match_all":{"boost":2}}`), search(`{"bool":{}}`), search(`{"bool":{"filter":[]}}`),
		search(`{"bool":{"must":[{"match_all":{}}]}}`), search(`{"bool":{"filter":[{"match_all":{}}],"minimum_should_match":1}}`), search(`{"bool":{"filter":[{"bool":{"filter":[{"match_all":{}}]}}]}}`),
		search(`{"term":{}}`), search(`{"term":{"id":"a"}}`), search(`{"term":{"type":{"value":"a"}}}`), search(`{"term":{"type":"a","userId":"b"}}`), search(`{"prefix":{"userId":"a"}}`), search(`{"prefix":{"type":""}}`),
		search(`{"range":{"timestamp":{"gt":1}}}`), search(`{"range":{"timestamp":{"gte":"now-1d"}}}`), search(`{"range":{"seq":{"gte":1}}}`), search(`{"range":{}}`),
		search(`{"simple_query_string":{"query":"a"}}`), search(`{"query_string":{"query":"a"}}`),
		search(`{"simple_query_string":{"query":"a","fields":["id"],"default_operator":"and","flags":"WHITESPACE|PHRASE|PREFIX|NOT"}}`),
	} {
		if status, typ := call(t, s, "POST", "/events-*/_search", body); status != 400 {
			t.Errorf("%s is answered %d %s", body, status, typ)
		}
	}
	for _, text := range []string{"", " ", "a  b", "a|b", "a+b", "(a)", "a~1", `a"b"`, `"a`, `"a"b`, `""`, "a*b", "*", "-", "--a", "a.b", `\a`, "\u00a0", `"a"*`} {
		b, err := json.Marshal(text)
		must(t, err)
		q := search(`{"simple_query_string":{"query":` + string(b) + `,"fields":["spine.text"],"default_operator":"and","flags":"WHITESPACE|PHRASE|PREFIX|NOT"}}`)
		if status, typ := call(t, s, "POST", "/events-*/_search", q); status != 400 {
			t.Errorf("text %q is answered %d %s", text, status, typ)
		}
	}
	for _, c := range [][3]string{
		{"POST", "/events-*/_search?q=a", everything}, {"POST", "/events-*/_search?allow_partial_search_results=true", everything}, {"POST", "/_search", everything},
		{"POST", "/events-*/_count?q=a", `{"query":{"match_all":{}}}`}, {"POST", "/events-*/_count", `{"query":{"match_all":{}},"x":1}`}, {"POST", "/events-*/_count", ``},
		{"POST", "/_bulk?refresh=true", doc("b", 1)}, {"POST", "/_bulk?filter_path=took", doc("b", 1)}, {"GET", "/_cluster/health", ""}, {"PUT", "/events-2020.01.01", ""},
		{"POST", "/events-2020.01.01/_doc", "{}"}, {"PUT", "/_index_template/x", "{"}, {"PUT", "/_index_template/x", "{}"}, {"PUT", "/_index_template/x?create=true", `{"index_patterns":["x"]}`}, {"GET", "/?pretty", ""},
	} {
		if status, typ := call(t, s, c[0], c[1], c[2]); status != 400 {
			t.Errorf("%s %s is answered %d %s", c[0], c[1], status, typ)
		}
	}
}

func TestBulkBodies(t *testing.T) {
	s := serve(t, t.TempDir())
	defer func() { must(t, s.Close()) }()
	good := doc("good", 1)
	for _, body := range []string{"", "\n", good[:len(good)-1], "{}\n{}\n", `{"delete":{"_index":"a","_id":"b"}}` + "\n", good + `{"index":{"_index":"a","_id":"b"}}` + "\n{}\n",
		`{"create":{"_index":"a"}}` + "\n{}\n", `{"create":{"_id":"a"}}` + "\n{}\n", `{"create":{"_index":"a","_id":"b"}}` + "\n", `{"create":{"_index":"a","_id":"b","routing":"c"}}` + "\n{}\n",
		strings.Replace(good, `"good"`, `"`+strings.Repeat("g", 513)+`"`, 1)} {
		if status, typ := call(t, s, "POST", "/_bulk", body); status != 400 {
			t.Errorf("%.80q is answered %d %s", body, status, typ)
		}
	}
	if got := total(t, s, "*", `{"match_all":{}}`); got != "0" {
		t.Errorf("a refused request left %s documents", got)
	}
	nest := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	with := func(member string) string { return strings.Replace(good, `"data"`, member+`,"data"`, 1) }
	data := func(v string) string { return strings.Replace(good, `{"n":1}`, v, 1) }
	for _, refused := range []string{
		with(`"_id":1`), with(`"":1`), with(`" ":1`), with(`"a.b":1`), with(`"x":1,"x":2`), with(`"x":` + strings.Repeat("9", 1001)), with(`"x":[` + strings.Repeat("9", 1001) + `]`),
		with(`"x":` + nest(1001)), with(`"source":{}`), with(`"epoch":[]`), with(`"x":}`), with(`"x":"` + "\xff" + `"`),
		data(`5`), data(`[]`), data(nest(21)), data(`{"a\u0000":1}`), data(`{"a":{"b":1,"b":2}}`),
		strings.Replace(good, `"seq":1,`, "", 1), strings.Replace(good, `"seq":1`, `"seq":1.5`, 1), strings.Replace(good, `"timestamp":1`, `"timestamp":"x"`, 1), strings.Replace(good, `"id":"good"`, `"id":5`, 1),
		strings.Replace(good, `{"text":"order created good"}`, `5`, 1), strings.Replace(good, `"order created good"`, `5`, 1), strings.Replace(good, "}}\n{", "}}\n[{", 1),
		strings.Replace(good, "events-2020", "Events-2020", 1), strings.Replace(good, "events-2020", "_events", 1), strings.Replace(good, "events-2020", "a b", 1), strings.TrimSuffix(good, "\n") + "{}\n",
	} {
		status, body := call(t, s, "POST", "/_bulk?"+bulkFilter, doc("before", 7)+refused+doc("after", 8))
		var answer struct {
			Errors bool
			Items  []struct {
				Create struct {
					Status int
					Error  struct{ Type, Reason string }
				}
			}
		}
		if status == 200 {
			must(t, json.Unmarshal([]byte(body), &answer))
		}
		if len(answer.Items) != 3 || !answer.Errors || answer.Items[1].Create.Status != 400 || answer.Items[1].Create.Error.Reason == "" {
			t.Errorf("%.200q is answered %d %s", refused, status, body)
		}
	}
	for _, taken := range []string{with(`"x":{"":1,"a..b":2,"_id":3}`), data(nest(20)), data(`null`), data(`{"a":[[[[]]]],"b":"\u0000"}`), with(`"user":` + nest(900)), with(`"more":1e99999`)} {
		call(t, s, "DELETE", "/events-2020.01.01", "")
		if _, body := call(t, s, "POST", "/_bulk", taken); !strings.Contains(body, `"status":201`) {
			t.Errorf("%.200q is answered %s", taken, body)
		}
	}
}

// TestOneDocumentForManyWriters: many send the same ids at once; each id is created once.
func TestOneDocumentForManyWriters(t *testing.T) {
	s := serve(t, t.TempDir())
	defer func() { must(t, s.Close()) }()
	var body strings.Builder
	for i := range 200 {
		body.WriteString(doc(fmt.Sprint("a", i), i+1))
	}
	created := make([]int, 8)
	var wg sync.WaitGroup
	for i := range created {
		wg.Go(func() {
			_, answer := call(t, s, "POST", "/_bulk", body.String())
			created[i] = strings.Count(answer, `"status":201`)
		})
	}
	wg.Wait()
	if slices.Sort(created); created[7] != 200 || created[6] != 0 {
		t.Errorf("created %v", created)
	}
	if got := total(t, s, "*", `{"match_all":{}}`); got != "200" {
		t.Errorf("count %s", got)
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]Options{"no directory": {}, "a file": {Dir: "/dev/null/x"}, "address": {Dir: dir, Addr: "nonsense"}} {
		if _, err := Start(t.Context(), o); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	st, err := openStore(t.Context(), filepath.Join(dir, "search.sqlite"))
	must(t, err)
	_, err = st.write.Exec("PRAGMA user_version = 99")
	must(t, err)
	must(t, st.close())
	if _, err := Start(t.Context(), Options{Dir: dir}); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("a newer database: %v", err)
	}
}

func TestTooLargeABody(t *testing.T) {
	h := newHandler(nil, nil)
	req, err := http.NewRequest(http.MethodPost, "/_bulk", io.LimitReader(zeros{}, maxBody+1))
	must(t, err)
	w := &recorder{header: http.Header{}}
	h.ServeHTTP(w, req)
	if w.status != 413 || !bytes.Contains(w.body.Bytes(), []byte("content_too_long_exception")) {
		t.Errorf("answered %d %s", w.status, w.body.String())
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(s int)           { r.status = s }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// FuzzBulk: whatever comes, the parser ends, and what it takes is one valid line each.
func FuzzBulk(f *testing.F) {
	f.Add([]byte(doc("a", 1) + doc("b", 2)))
	for _, s := range []string{"", "\n", "{}\n{}\n", `{"create":{"_index":"a","_id":"b"}}` + "\n{\"data\":[}\n", `{"create":{"_index":"-","_id":"b"}}` + "\n\n\n", "{\"create\":{\"_index\":\"a\",\"_id\":\"\\ud800\"}}\n{}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ops, err := parseBulk(body)
		if err != nil {
			if ref := new(refusal); !errors.As(err, &ref) {
				t.Errorf("an error Elasticsearch does not have: %v", err)
			}
			return
		}
		if 2*len(ops) > bytes.Count(body, []byte("\n")) {
			t.Errorf("%d operations in %q", len(ops), body)
		}
		for _, op := range ops {
			if op.index == "" || op.id == "" || len(op.id) > maxIDBytes || bytes.IndexByte(op.source, '\n') >= 0 {
				t.Errorf("took %+v", op)
			}
			if op.status == 0 && (!json.Valid(op.source) || op.doc.typ == "" && !bytes.Contains(op.source, []byte(`"type"`)) && !bytes.Contains(op.source, []byte(`\u`))) {
				t.Errorf("took the source %q", op.source)
			}
		}
	})
}

// FuzzQuery: whatever comes, a query is refused or becomes SQL that the database takes.
func FuzzQuery(f *testing.F) {
	st, err := openStore(f.Context(), filepath.Join(f.TempDir(), "fuzz.sqlite"))
	must(f, err)
	f.Cleanup(func() { must(f, st.close()) })
	text := `{"simple_query_string":{"query":"a -b* \"c d\"","fields":["spine.text"],"default_operator":"and","flags":"WHITESPACE|PHRASE|PREFIX|NOT"}}`
	for _, q := range []string{`{"match_all":{}}`, `{"bool":{"filter":[{"term":{"type":"a"}},{"prefix":{"type":"b"}},{"range":{"timestamp":{"gte":1,"lt":2}}},` + text + `]}}`, `{"match_none":{}}`, `{"term":{"userId":"\u0000'\""}}`} {
		f.Add([]byte(strings.Replace(everything, `{"match_all":{}}`, q, 1)))
	}
	f.Add([]byte(strings.Replace(everything, `"size"`, `"search_after":[1,2,"a"],"size"`, 1)))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parseSearch(body)
		if err != nil {
			return
		}
		if _, _, err := st.search(t.Context(), []index{{k: 1, name: "a"}}, q); err != nil {
			t.Errorf("%q: %v", body, err)
		}
	})
}

// BenchmarkBulk is a bulk request of 500 documents of about 500 bytes, on disk.
func BenchmarkBulk(b *testing.B) {
	st, err := openStore(b.Context(), filepath.Join(b.TempDir(), "bench.sqlite"))
	must(b, err)
	defer func() { must(b, st.close()) }()
	const docs = 500
	n := 0
	for b.Loop() {
		var body strings.Builder
		for range docs {
			n++
			fmt.Fprintf(&body, `{"create":{"_index":"events-2020.01.01","_id":"id-%d"}}`+"\n"+
				`{"id":"id-%[1]d","type":"order.created","userId":"user-%d","timestamp":%[1]d,"seq":%[1]d,"data":{"amount":12.5,"currency":"EUR","items":[{"sku":"SKU-%[1]d","name":"Blue cotton shirt","qty":2}],"note":"please leave at the door"},"spine":{"text":"order created id %[1]d user %[2]d eur sku %[1]d blue cotton shirt please leave at the door"}}`+"\n", n, n%1000)
		}
		ops, err := parseBulk([]byte(body.String()))
		must(b, err)
		must(b, st.bulk(b.Context(), ops))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "docs/s")
}
