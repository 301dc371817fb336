package archivetest

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func (f *fixture) at(t *testing.T, id, typ, user string, ms int64, rest string) event.Event {
	t.Helper()
	return f.event(t, fmt.Sprintf(`{"id":%s,"type":"%s","userId":%s,"timestamp":%d%s}`, quote(id), typ, quote(user), ms, rest))
}

func testText(t *testing.T, f *fixture) {
	f.all(t,
		f.at(t, "a", "order.created", "ana", noon+1, `,"data":{"title":"The quick brown fox","n":4711}`),
		f.at(t, "b", "order.paid", "bob.x", noon+2, `,"data":{"lines":[{"name":"Brown bread"},{"name":"fox-tail, quick"}]}`),
		f.at(t, "c", "notification.build_failed", "carl@example.com", noon+3, `,"data":"Der Fuchs grüßt ÉCOLE 漢字テスト","subject":"foxes"`),
		f.at(t, "d-17", "alert.x", "ana", noon+4, `,"data":{"url":"https://example.com/path?q=needle","msg":"don't -stop"}`),
		f.at(t, "e", "alert.x", "ana", noon+5, `,"data":{"s":"`+strings.Repeat("filler ", 3000)+`"},"last":"beyond"`),
	)
	for text, want := range map[string]string{
		"fox":                "b a",
		"FOX Quick":          "b a",
		`"quick brown"`:      "a",
		`"brown quick"`:      "",
		"brown -bread":       "a",
		"-fox":               "e d-17 c",
		`brown -"fox tail"`:  "a",
		"fox*":               "c b a",
		"order.created":      "a",
		"order":              "b a",
		"order.cre*":         "a",
		"build_failed":       "c",
		"bob.x":              "b",
		"carl@example.com":   "c",
		"example.com":        "d-17 c",
		"d-17":               "d-17",
		"4711":               "a",
		"grüßt":              "c",
		"école":              "c",
		"漢字":                 "c",
		"字":                  "c",
		"needle":             "d-17",
		"don't":              "d-17",
		"stop":               "d-17",
		"nothing":            "",
		"fox nothing":        "",
		"!!! ??":             "",
		"   ":                "e d-17 c b a",
		"fox !!!":            "b a",
		"filler":             "e",
		`"unclosed brown`:    "",
		`"brown fox`:         "a",
		`quick ( | + ~2 fox`: "", // 2 is a word like any other
		`fox~ ^quick (`:      "b a",
		"spine":              "",
		"text:fox":           "",
		"fox OR bread":       "",
		`\"fox\" \ " `:       "b a",
		"-":                  "",
		"*":                  "",
	} {
		if got := f.ids(t, archive.Query{Text: text, AnyUser: true}); got != want {
			t.Errorf("%q finds %q, want %q", text, got, want)
		}
	}
}

func testSelect(t *testing.T, f *fixture) {
	day := int64(24 * time.Hour / time.Millisecond)
	f.all(t,
		f.at(t, "a", "order.created", "42", noon, ""),
		f.at(t, "b", "order.created", "421", noon+1, ""),
		f.at(t, "c", "order", "42", noon+2, ""),
		f.at(t, "d", "orders.created", "*", noon+day, ""),
		f.at(t, "e", "order.created.late", "42", noon+2*day, ""),
		f.event(t, fmt.Sprintf(`{"id":"f","type":"order.created","timestamp":%d}`, noon+3*day)),
	)
	for _, c := range []struct {
		q    archive.Query
		want string
	}{
		{archive.Query{AnyUser: true}, "f e d c b a"},
		{archive.Query{AnyUser: true, Ascending: true}, "a b c d e f"},
		{archive.Query{UserID: "42"}, "e c a"},
		{archive.Query{UserID: "42", AnyUser: true}, "e c a"},
		{archive.Query{UserID: "*"}, "d"},
		{archive.Query{UserID: "4*"}, ""},
		{archive.Query{AnyUser: true, Type: "order.created"}, "f b a"},
		{archive.Query{AnyUser: true, Type: "order.*"}, "f e b a"},
		{archive.Query{AnyUser: true, Type: "order.created.*"}, "e"},
		{archive.Query{AnyUser: true, Type: "Order.created"}, ""},
		{archive.Query{AnyUser: true, From: time.UnixMilli(noon + 1), To: time.UnixMilli(noon + day)}, "c b"},
		{archive.Query{AnyUser: true, From: time.UnixMilli(noon + day)}, "f e d"},
		{archive.Query{AnyUser: true, To: time.UnixMilli(noon)}, ""},
		{archive.Query{UserID: "42", Type: "order.*", Text: "late", From: time.UnixMilli(noon)}, "e"},
	} {
		if got := f.ids(t, c.q); got != c.want {
			t.Errorf("%+v finds %q, want %q", c.q, got, c.want)
		}
		n, err := f.Count(t.Context(), c.q)
		must(t, err)
		if int(n) != len(strings.Fields(c.want)) {
			t.Errorf("%+v counts %d, want %q", c.q, n, c.want)
		}
	}
}

func testPages(t *testing.T, f *fixture) {
	const n = 57
	var events []event.Event
	var want []string
	for i := range n { // many share a timestamp; a few share a seq too
		e := f.at(t, fmt.Sprintf("p%02d", i), "order.created", "42", noon+int64(i/10), "")
		events, want = append(events, e), append(want, e.ID)
	}
	f.all(t, events...)
	for _, size := range []int{1, 7, 19, 56, 57, 58, 1000} {
		got := f.ids(t, archive.Query{AnyUser: true, Size: size, Ascending: true})
		if got != strings.Join(want, " ") {
			t.Errorf("pages of %d: %q", size, got)
		}
	}
	page, err := f.Search(t.Context(), archive.Query{AnyUser: true, Size: 10})
	must(t, err)
	f.all(t, f.at(t, "newer", "order.created", "42", noon+1000, ""))
	rest := f.ids(t, archive.Query{AnyUser: true, Size: 100, Ascending: true})
	if rest != strings.Join(want, " ")+" newer" {
		t.Errorf("after one more: %q", rest)
	}
	next, err := f.Search(t.Context(), archive.Query{AnyUser: true, Size: 10, After: page.Next})
	must(t, err)
	if got := string(next.Events[0]); !strings.Contains(got, `"p46"`) || next.Total != n+1 {
		t.Errorf("the second page begins with %s of %d", got, next.Total)
	}
}

func testInvalid(t *testing.T, f *fixture) {
	f.all(t, f.event(t, posted("a", "")), f.event(t, posted("b", "")))
	page, err := f.Search(t.Context(), archive.Query{AnyUser: true, Size: 1})
	must(t, err)
	forge := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, q := range map[string]archive.Query{
		"nobody":            {},
		"negative size":     {AnyUser: true, Size: -1},
		"size 1,001":        {AnyUser: true, Size: archive.MaxSize + 1},
		"star inside":       {AnyUser: true, Type: "or*der"},
		"star alone":        {AnyUser: true, Type: "*"},
		"star without dot":  {AnyUser: true, Type: "order*"},
		"long type":         {AnyUser: true, Type: strings.Repeat("t", 200)},
		"long text":         {AnyUser: true, Text: strings.Repeat("t", 2000)},
		"many words":        {AnyUser: true, Text: strings.Repeat("t ", 100)},
		"token: not base64": {AnyUser: true, After: "!"},
		"token: not JSON":   {AnyUser: true, After: forge("x")},
		"token: long":       {AnyUser: true, After: strings.Repeat("A", 4000)},
		"token: short":      {AnyUser: true, After: forge(`[1,false,5]`)},
		"token: types":      {AnyUser: true, After: forge(`[1,false,"x",5,"a"]`)},
		"token: version":    {AnyUser: true, After: forge(`[2,false,5,5,"a"]`)},
		"token: more":       {AnyUser: true, After: forge(`[1,false,5,5,"a",{}]`)},
		"token: direction":  {AnyUser: true, After: page.Next, Ascending: true},
	} {
		if _, err := f.Search(t.Context(), q); fault.KindOf(err) != fault.Invalid || len(fault.FieldsOf(err)) != 1 {
			t.Errorf("%s: kind %v: %v", name, fault.KindOf(err), err)
		}
	}
	if _, err := f.Count(t.Context(), archive.Query{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("count for nobody: %v", err)
	}
	for _, name := range []string{"", "*", "a*", "a,b", "_all"} {
		if err := f.DeleteIndex(t.Context(), name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	if err := f.DeleteIndex(t.Context(), f.name+"-2001.01.01"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("delete of a missing index: %v", err)
	}
}
