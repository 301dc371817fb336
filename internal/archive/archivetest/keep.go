package archivetest

import (
	"fmt"
	"strings"
	"testing"

	"eventspine/internal/archive"
	"eventspine/internal/event"
)

func testPrepare(t *testing.T, f *fixture) {
	for range 2 {
		must(t, f.Prepare(t.Context()))
		ok, err := f.Prepared(t.Context())
		must(t, err)
		if !ok {
			t.Error("not prepared after Prepare")
		}
	}
	other, err := archive.New(archive.Options{URLs: []string{f.url}, Index: f.name + "x"})
	must(t, err)
	defer other.Close()
	if ok, err := other.Prepared(t.Context()); ok || err != nil {
		t.Errorf("before Prepare: prepared %v, error %v", ok, err)
	}
	must(t, f.Ping(t.Context()))
}

func testEmpty(t *testing.T, f *fixture) {
	p, err := f.Search(t.Context(), archive.Query{AnyUser: true})
	must(t, err)
	if p.Total != 0 || len(p.Events) != 0 || p.Events == nil || p.Next != "" {
		t.Errorf("the page is not empty: %+v", p)
	}
	n, err := f.Count(t.Context(), archive.Query{AnyUser: true})
	must(t, err)
	r, err := f.Index(t.Context(), nil)
	must(t, err)
	if n != 0 || r.Indexed != 0 || len(r.Retry) != 0 {
		t.Errorf("count %d, result of no events %+v", n, r)
	}
	must(t, f.Refresh(t.Context()))
}

func testRealInput(t *testing.T, f *fixture) {
	var events []event.Event
	for _, line := range lines(t) {
		events = append(events, f.event(t, line))
	}
	if len(events) != 329 {
		t.Fatalf("the real input has %d events, want 329", len(events))
	}
	f.all(t, events[0])
	day := f.IndexOf(events[0].Time())
	before := f.mapping(t, day)
	f.all(t, events[1:]...)
	if after := f.mapping(t, day); after != before {
		t.Errorf("the mapping changed from %s\nto %s", before, after)
	}
	f.same(t, events)
	n, err := f.Count(t.Context(), archive.Query{AnyUser: true, Type: "notification.*"})
	must(t, err)
	var want int64
	for i := range events {
		if events[i].Category() == "notification" {
			want++
		}
	}
	if n != want {
		t.Errorf("counted %d notifications, want %d", n, want)
	}
}

func nested(n int, before, after string) string {
	return strings.Repeat(before, n) + "1" + strings.Repeat(after, n)
}

// hostile is members that have broken an index somewhere.
func hostile() map[string]string {
	many := make([]string, 20_000)
	for i := range many {
		many[i] = fmt.Sprintf(`"f%d":1`, i)
	}
	h := map[string]string{
		"20,000 fields":            `,"data":{` + strings.Join(many, ",") + `}`,
		"depth 20":                 `,"data":` + nested(20, `{"a":`, "}"),
		"depth 21":                 `,"data":` + nested(21, `{"a":`, "}"),
		"depth 200":                `,"data":` + nested(200, `{"a":`, "}"),
		"depth 200 in lists":       `,"data":` + nested(100, `[{"a":`, "}]"),
		"depth 5,000":              `,"data":{"a":` + nested(5000, `[`, "]") + `}`,
		"depth 1,200 beside data":  `,"more":` + nested(1200, `[`, "]"),
		"depth 400 beside data":    `,"more":` + nested(400, `{"a":`, "}"),
		"2,000 digits":             `,"data":{"n":` + strings.Repeat("9", 2000) + `}`,
		"2,000 digits beside data": `,"n":[` + strings.Repeat("9", 2000) + `]`,
		"huge exponent":            `,"data":{"n":1e999999999},"n":-1e99999`,
		"number spelling":          `,"data":{"a":12.50,"b":1e2,"c":-0.0,"d":0.12345678901234567890,"e":123456789012345678901234567890}`,
		"string spelling":          `,"data":{"a":"\u00e9\/\t\u2028<>&","b" : [ ] , "c":"😀\ud83d\ude00"}`,
		"100 KB string":            `,"data":{"s":"` + strings.Repeat("long ", 20_000) + `"}`,
		"100 KB word":              `,"data":{"s":"` + strings.Repeat("x", 100_000) + `"}`,
		"40 KB name":               `,"data":{"` + strings.Repeat("k", 40_000) + `":"v"}`,
		"40 KB path":               `,"data":{"` + strings.Repeat("k", 20_000) + `":{"` + strings.Repeat("l", 20_000) + `":"v"}}`,
		"60 KB name beside data":   `,"` + strings.Repeat("k", 60_000) + `":{"":1}`,
		"NUL in a name":            `,"data":{"a\u0000b":1}`,
		"NUL in a deep name":       `,"data":{"a":[{"\u0000":{}}]}`,
		"NUL in a value":           `,"data":{"a":"x\u0000y"}`,
		"odd names in data":        `,"data":{"":1," ":2,".":3,"a..b":4,"_id":5,"_source":{},"\t":{"":[]},"spine":{"text":"x"}}`,
		"odd names beside data":    `,"x":{"":1," ":2,".":3,"a..b":4,"_id":5,"_source":{}}`,
		"lists of lists":           `,"data":{"a":[[[1,"x",null,{"b":[]}]],[]]}`,
		"our helper's name":        `,"spine":{"text":"forged","raw":"{}"}`,
		"our helper's text":        `,"data":{"x":1,"spine":{"text":"forged"}},"y":",\"spine\":{\"text\":\""`,
		"types that vary":          `,"data":{"a":{"b":1}},"more":{"a":1}`,
		"types that vary again":    `,"data":{"a":"x"},"more":["a"]`,
		"odd source":               `,"source":"` + strings.Repeat("s", 128) + `"`,
		"line separators":          `,"data":{"a":"\n{\"delete\":{\"_index\":\"x\",\"_id\":\"y\"}}\n"}`,
		"spaces around members":    ` , "data" : { "a" : 1 } , "x"   :   null `,
		"line breaks":              ",\n\"data\":{\r\n\"a\":1}",
	}
	for _, scalar := range []string{`null`, `true`, `5`, `"text"`, `[]`, `[1,2]`, `[{"a":1},{"b":2}]`, `[[{}]]`, `[null]`, `{}`} {
		h["data is "+scalar] = `,"data":` + scalar
	}
	for _, name := range []string{"", " ", "\t", "\u00a0", ".", "..", "a..b", ".a", "a.", "a.b", "data.x", "prev.user", "id.x", "seq.x",
		"spine.text", "spine.raw", "a\x00b", "_", "_id", "_index", "_source", "_routing", "_type", "_version", "_seq_no", "_ignored",
		"_field_names", "_doc_count", "_tier", "_nested_path", "_data_stream_timestamp", "_ignored_source", "@timestamp", "*", "a b", "\"", "\\"} {
		h["a member named "+quote(name)] = `,` + quote(name) + `:{"x":1}`
	}
	return h
}

func testHostile(t *testing.T, f *fixture) {
	first := f.event(t, posted("first", ""))
	f.all(t, first)
	day := f.IndexOf(first.Time())
	before := f.mapping(t, day)
	events := []event.Event{f.event(t, posted("second", ""))}
	for name, members := range hostile() {
		events = append(events, f.event(t, posted(name, members)))
	}
	f.all(t, events...)
	if after := f.mapping(t, day); after != before {
		t.Errorf("the mapping changed from %s\nto %s", before, after)
	}
	n, err := f.Count(t.Context(), archive.Query{UserID: "42", Type: first.Type})
	must(t, err)
	if int(n) != len(events)+1 {
		t.Errorf("type and user find %d of %d hostile events", n, len(events)+1)
	}
	must(t, f.DeleteIndex(t.Context(), day))
	f.all(t, events...)
	f.same(t, events)
}

func testIDs(t *testing.T, f *fixture) {
	var events []event.Event
	for _, id := range []string{`"`, `\`, `"}}`, `/`, `a b`, `é漢😀`, ` `, `_all`, `*`, `a,b`, `../x`, `<a&b>`, `%00`, strings.Repeat("i", 128)} {
		events = append(events, f.event(t, posted(id, "")))
	}
	// The door refuses control characters; the archive must not depend on it.
	for _, id := range []string{"a\x7fb", "a\nb", "a\n{\"delete\":{}}\n", "a\x00b", "\u2028", "\"}}\n{\"delete\":{\"_id\":\"a\x7fb\"}}\n"} {
		e := f.event(t, posted("stand-in", ""))
		e.Raw = []byte(strings.Replace(string(e.Raw), `"stand-in"`, quote(id), 1))
		e.ID = id
		events = append(events, e)
	}
	f.all(t, events...)
	again := f.index(t, events...)
	if again.Existing != len(events) {
		t.Errorf("the second time %d of %d exist: %+v", again.Existing, len(events), again)
	}
	if n := len(f.found(t, archive.Query{AnyUser: true})); n != len(events) {
		t.Errorf("found %d of %d", n, len(events))
	}
}

func testRefused(t *testing.T, f *fixture) {
	events := make([]event.Event, 0, 12)
	for i := range 9 {
		events = append(events, f.event(t, posted(fmt.Sprint("good", i), "")))
	}
	long := f.event(t, posted("x", ""))
	long.ID = strings.Repeat("i", 513) // refused with its whole request
	broken := f.event(t, posted("broken", ""))
	broken.Raw = []byte(`{"id":"broken",}`)
	double := f.event(t, posted("double", ""))
	double.Raw = []byte(`{"id":"double","a":1,"a":2}`)
	events = append(events[:4], append([]event.Event{long, broken, double}, events[4:]...)...)
	r := f.index(t, events...)
	if r.Indexed != 9 || len(r.Refused) != 3 || len(r.Retry) != 0 {
		t.Fatalf("indexed %d, refused %d, retry %v", r.Indexed, len(r.Refused), r.Retry)
	}
	why := map[int]archive.Refusal{}
	for _, x := range r.Refused {
		why[x.Doc] = x
	}
	for doc, want := range map[int]string{4: "too long, must be", 5: "not a JSON object", 6: "not a JSON object"} {
		if got := why[doc]; got.Status != 400 || got.ID != events[doc].ID || !strings.Contains(got.Reason, want) {
			t.Errorf("refusal of %d is %+v, want a reason with %q", doc, got, want)
		}
	}
}

func testAgain(t *testing.T, f *fixture) {
	a, b := f.event(t, posted("a", `,"data":{"v":1}`)), f.event(t, posted("b", ""))
	f.all(t, a)
	changed := f.event(t, posted("a", `,"data":{"v":2}`))
	r := f.index(t, changed, b, b)
	if r.Indexed != 1 || r.Existing != 2 {
		t.Errorf("indexed %d, existing %d; want 1 and 2", r.Indexed, r.Existing)
	}
	f.same(t, []event.Event{a, b})
}

func testLarge(t *testing.T, f *fixture) {
	var events []event.Event
	for i := range 120 {
		events = append(events, f.event(t, posted(fmt.Sprint("large", i), `,"data":{"s":"`+strings.Repeat("0123456789", 20_000)+`"}`)))
	}
	f.all(t, events...)
	if n, err := f.Count(t.Context(), archive.Query{UserID: "42"}); err != nil || n != 120 {
		t.Errorf("count %d, error %v", n, err)
	}
}

func testDelete(t *testing.T, f *fixture) {
	e := f.event(t, posted("a", ""))
	f.all(t, e)
	must(t, f.DeleteIndex(t.Context(), f.IndexOf(e.Time())))
	if n, err := f.Count(t.Context(), archive.Query{AnyUser: true}); err != nil || n != 0 {
		t.Errorf("count %d, error %v", n, err)
	}
	f.all(t, e)
	f.same(t, []event.Event{e})
}
