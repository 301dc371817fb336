package event

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

var noon = time.Date(2015, 11, 20, 12, 0, 0, 0, time.UTC)

func TestParseReadsTheFields(t *testing.T) {
	long := strings.Repeat("x", 128)
	for name, c := range map[string]struct {
		raw  string
		want Event
	}{
		"only a type":          {`{"type":"order.created"}`, Event{Type: "order.created"}},
		"everything":           {`{"id":"e1","type":"a.b","userId":"42","timestamp":1448000000000,"source":"s","data":{"a":1}}`, Event{ID: "e1", Type: "a.b", UserID: "42", Timestamp: 1448000000000, Source: "s"}},
		"everybody":            {`{"type":"alert","userId":"*"}`, Event{Type: "alert", UserID: "*"}},
		"an empty user":        {`{"type":"alert","userId":""}`, Event{Type: "alert"}},
		"unknown members":      {`{"type":"a","x":{"y":[1,2,{"z":null}]}}`, Event{Type: "a"}},
		"escaped member name":  {`{"t\u0079pe":"a"}`, Event{Type: "a"}},
		"escaped values":       {`{"type":"\u0061.b","userId":"\u00e9 \ud83d\ude00"}`, Event{Type: "a.b", UserID: "é 😀"}},
		"longest everything":   {`{"type":"` + long + `","id":"` + long + `","userId":"` + long + `","source":"` + long + `"}`, Event{Type: long, ID: long, UserID: long, Source: long}},
		"8 tokens":             {`{"type":"a.b.c.d.e.f.g.h"}`, Event{Type: "a.b.c.d.e.f.g.h"}},
		"all token characters": {`{"type":"aZ09_-"}`, Event{Type: "aZ09_-"}},
		"first millisecond":    {`{"type":"a","timestamp":1}`, Event{Type: "a", Timestamp: 1}},
		"last millisecond":     {`{"type":"a","timestamp":253402300799999}`, Event{Type: "a", Timestamp: 253402300799999}},
		"a dotted user":        {`{"type":"a","userId":"ana.b@x.org"}`, Event{Type: "a", UserID: "ana.b@x.org"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.raw))
			if err != nil {
				t.Fatal(err)
			}
			c.want.Raw = []byte(c.raw)
			if !same(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func same(a, b Event) bool {
	return bytes.Equal(a.Raw, b.Raw) && a.ID == b.ID && a.Type == b.Type && a.UserID == b.UserID &&
		a.Source == b.Source && a.Timestamp == b.Timestamp && a.Position == b.Position
}

func TestParseNamesEveryWrongField(t *testing.T) {
	long := strings.Repeat("x", 129)
	for name, c := range map[string]struct {
		raw    string
		fields string
	}{
		"no type":                  {`{"id":"1"}`, "type"},
		"empty object":             {`{}`, "type"},
		"null type":                {`{"type":null}`, "type"},
		"empty type":               {`{"type":""}`, "type"},
		"type is a number":         {`{"type":7}`, "type"},
		"type with empty token":    {`{"type":"a..b"}`, "type"},
		"type ends with a dot":     {`{"type":"a."}`, "type"},
		"type with a space":        {`{"type":"a b"}`, "type"},
		"type not ASCII":           {`{"type":"añ"}`, "type"},
		"type with 9 tokens":       {`{"type":"a.b.c.d.e.f.g.h.i"}`, "type"},
		"type too long":            {`{"type":"` + long + `"}`, "type"},
		"reserved type":            {`{"type":"_mark.1"}`, "type"},
		"empty id":                 {`{"type":"a","id":""}`, "id"},
		"id is a number":           {`{"type":"a","id":1}`, "id"},
		"id too long":              {`{"type":"a","id":"` + long + `"}`, "id"},
		"id with a control":        {`{"type":"a","id":"a\u0000"}`, "id"},
		"userId is a number":       {`{"type":"a","userId":42}`, "userId"},
		"userId with C1 control":   {`{"type":"a","userId":"\u0085"}`, "userId"},
		"userId with a newline":    {`{"type":"a","userId":"a\nb"}`, "userId"},
		"empty source":             {`{"type":"a","source":""}`, "source"},
		"source is an object":      {`{"type":"a","source":{}}`, "source"},
		"timestamp is text":        {`{"type":"a","timestamp":"now"}`, "timestamp"},
		"timestamp is 0":           {`{"type":"a","timestamp":0}`, "timestamp"},
		"timestamp is negative":    {`{"type":"a","timestamp":-1}`, "timestamp"},
		"timestamp has a fraction": {`{"type":"a","timestamp":1.5}`, "timestamp"},
		"timestamp with exponent":  {`{"type":"a","timestamp":1e12}`, "timestamp"},
		"timestamp past 9999":      {`{"type":"a","timestamp":253402300800000}`, "timestamp"},
		"timestamp past int64":     {`{"type":"a","timestamp":99999999999999999999}`, "timestamp"},
		"what eventspine sets":     {`{"type":"a","user":{},"processed":true,"processedAt":1,"latencyMs":1,"partition":1,"seq":1,"prev":{},"epoch":1,"redelivered":true}`, "user processed processedAt latencyMs partition seq prev epoch redelivered"},
		"everything at once":       {`{"id":1,"type":2,"userId":3,"timestamp":"4","source":5,"seq":6}`, "id type userId timestamp source seq"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Parse([]byte(c.raw))
			if fault.KindOf(err) != fault.Invalid || err == nil {
				t.Fatalf("got %+v, %v", e, err)
			}
			if got := fieldNames(err); got != c.fields {
				t.Errorf("named %q, want %q (%v)", got, c.fields, err)
			}
		})
	}
}

func fieldNames(err error) string {
	var names []string
	for _, f := range fault.FieldsOf(err) {
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}

func TestParseRefusesWhatIsNotAnEvent(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":             "",
		"spaces":              " \n ",
		"an array":            `[{"type":"a"}]`,
		"a string":            `"type"`,
		"null":                `null`,
		"cut off":             `{"type":"a"`,
		"cut in a string":     `{"type":"a`,
		"two objects":         `{"type":"a"}{"type":"b"}`,
		"text after it":       `{"type":"a"} x`,
		"a name twice":        `{"type":"a","type":"b"}`,
		"a name twice inside": `{"type":"a","data":{"x":1,"x":2}}`,
		"escaped name twice":  `{"type":"a","t\u0079pe":"b"}`,
		"trailing comma":      `{"type":"a",}`,
		"single quotes":       `{'type':'a'}`,
		"raw newline inside":  "{\"type\":\"a\",\"x\":\"a\nb\"}",
		"bad UTF-8":           "{\"type\":\"a\",\"x\":\"\xff\"}",
		"half a surrogate":    `{"type":"a","x":"\ud800"}`,
		"comment":             `{"type":"a"/**/}`,
		"NaN":                 `{"type":"a","x":NaN}`,
		"byte order mark":     "\ufeff" + `{"type":"a"}`,
		"10,001 levels deep":  `{"type":"a","x":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Parse([]byte(raw))
			if fault.KindOf(err) != fault.Invalid || err == nil {
				t.Fatalf("got %+v, %v", e, err)
			}
			if e.Raw != nil || e.Type != "" {
				t.Errorf("an event came with the error: %+v", e)
			}
			if strings.Contains(err.Error(), "jsontext") {
				t.Errorf("the message names a library: %v", err)
			}
		})
	}
}

func TestParseLimitsTheSize(t *testing.T) {
	sized := func(n int) []byte {
		frame := `{"type":"a","data":""}`
		return []byte(`{"type":"a","data":"` + strings.Repeat("x", n-len(frame)) + `"}`)
	}
	for _, n := range []int{MaxBytes - 1, MaxBytes} {
		e, err := Parse(sized(n))
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		e.Complete(noon, strings.Repeat(`"`, MaxSource))
		if _, err := Parse(e.Raw); err != nil {
			t.Errorf("an event of %d bytes is refused once it is complete: %v", n, err)
		}
	}
	if _, err := Parse(sized(MaxBytes + completeRoom + 1)); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("got %v", err)
	}
	padded := append(bytes.Repeat([]byte(" "), MaxBytes*2), sized(100)...)
	if e, err := Parse(padded); err != nil || len(e.Raw) != 100 {
		t.Errorf("white space around an event counts: %d bytes, %v", len(e.Raw), err)
	}
}

func TestParsePutsAnEventOnOneLine(t *testing.T) {
	raw := []byte("{\r\n  \"type\": \"a\",\n  \"data\": {\"x\": \"a b\\n\"}\n}\n")
	before := bytes.Clone(raw)
	e, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"type":"a","data":{"x":"a b\n"}}`; string(e.Raw) != want {
		t.Errorf("raw is %s, want %s", e.Raw, want)
	}
	if !bytes.Equal(raw, before) {
		t.Error("the caller's bytes were changed")
	}
}

func TestParseKeepsTheCallersBytes(t *testing.T) {
	raw := []byte(` {"type" : "a", "n": 1.0e+2, "big": 12345678901234567890.10} `)
	e, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(raw)); string(e.Raw) != want {
		t.Errorf("raw is %s, want %s", e.Raw, want)
	}
}

func TestComplete(t *testing.T) {
	e, err := Parse([]byte(`{"type":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	e.Complete(noon, "api-1")
	if len(e.ID) != 36 || e.ID[14] != '7' {
		t.Errorf("id %q is not a UUIDv7", e.ID)
	}
	want := `{"type":"a","id":"` + e.ID + `","timestamp":1448020800000,"source":"api-1"}`
	if string(e.Raw) != want {
		t.Errorf("raw is %s, want %s", e.Raw, want)
	}
	again := e
	again.Complete(noon.Add(time.Hour), "api-2")
	if !same(again, e) {
		t.Errorf("completed twice: %s, then %s", e.Raw, again.Raw)
	}
}

func TestCompleteLeavesWhatIsGiven(t *testing.T) {
	raw := `{"id":"e1","type":"a","timestamp":5,"source":"shop"}`
	e, err := Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	e.Complete(noon, "api-1")
	if string(e.Raw) != raw || e.Time() != time.UnixMilli(5).UTC() {
		t.Errorf("raw is %s, time %v", e.Raw, e.Time())
	}
	e, _ = Parse([]byte(`{"id":"e1","type":"a","timestamp":5}`))
	if e.Complete(noon, ""); e.Source != "" {
		t.Errorf("source is %q", e.Source)
	}
}

func TestParseStored(t *testing.T) {
	raw := `{"id":"e1","type":"a.b","userId":"42","timestamp":5,"user":{"name":"Ana"},"processed":true,"processedAt":6,` +
		`"latencyMs":1,"partition":7,"seq":9007199254740991,"prev":{"user":3,"feed":4,"more":5},"epoch":11,"redelivered":true}`
	e, err := ParseStored([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	want := Position{Partition: 7, Seq: 1<<53 - 1, Epoch: 11, Prev: Prev{User: 3, Feed: 4}}
	if e.Position != want || e.ID != "e1" || e.Category() != "a" || !e.Redelivered {
		t.Errorf("got %+v", e)
	}
}

func TestParseStoredRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"no seq":               `{"type":"a"}`,
		"seq is 0":             `{"type":"a","seq":0}`,
		"seq past 2^53":        `{"type":"a","seq":9007199254740992}`,
		"seq is negative":      `{"type":"a","seq":-1}`,
		"seq is text":          `{"type":"a","seq":"1"}`,
		"partition is null":    `{"type":"a","seq":1,"partition":null}`,
		"epoch has a fraction": `{"type":"a","seq":1,"epoch":1.5}`,
		"prev is a number":     `{"type":"a","seq":1,"prev":1}`,
		"prev.user is text":    `{"type":"a","seq":1,"prev":{"user":"1"}}`,
		"prev.feed is text":    `{"type":"a","seq":1,"prev":{"feed":"1"}}`,
		"redelivered is text":  `{"type":"a","seq":1,"redelivered":"true"}`,
		"no type":              `{"seq":1}`,
		"not JSON":             `seq`,
	} {
		t.Run(name, func(t *testing.T) {
			if e, err := ParseStored([]byte(raw)); fault.KindOf(err) != fault.Corrupt || err == nil {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
}

func TestStoredEventsMayBeLargerThanPostedOnes(t *testing.T) {
	raw := `{"type":"a","seq":1,"data":"` + strings.Repeat("x", MaxBytes*2) + `"}`
	if _, err := ParseStored([]byte(raw)); err != nil {
		t.Error(err)
	}
}

func TestPartition(t *testing.T) {
	for _, c := range []struct {
		user, id string
		count    int
		want     int
	}{
		{"", "", 1, 0}, {"42", "a", 16, Partition("42", "b", 16)}, {"", "42", 16, Partition("42", "", 16)},
	} {
		if got := Partition(c.user, c.id, c.count); got != c.want {
			t.Errorf("Partition(%q, %q, %d) is %d, want %d", c.user, c.id, c.count, got, c.want)
		}
	}
	// Part of the wire: another hash would move users between partitions on an upgrade.
	for user, want := range map[string]int{"42": 3, "ana": 5, "*": 13} {
		if got := Partition(user, "", 16); got != want {
			t.Errorf("user %q is in partition %d, want %d", user, got, want)
		}
	}
	seen := map[int]int{}
	for i := range 16000 {
		seen[Partition(strings.Repeat("u", i%7)+time.UnixMilli(int64(i)).String(), "", 16)]++
	}
	for p := range 16 {
		if seen[p] < 800 || seen[p] > 1200 {
			t.Errorf("partition %d got %d of 16000 users", p, seen[p])
		}
	}
}

func TestAppendPosition(t *testing.T) {
	p := Position{Partition: 3, Seq: 1<<53 - 1, Epoch: 2, Prev: Prev{User: 1, Feed: 4}}
	got := Splice([]byte(`{"type":"a"}`), AppendPosition(nil, p))
	if want := `{"type":"a","partition":3,"seq":9007199254740991,"prev":{"user":1,"feed":4},"epoch":2}`; string(got) != want {
		t.Errorf("got %s", got)
	}
	e, err := ParseStored(got)
	if err != nil || e.Position != p {
		t.Errorf("read back as %+v, %v", e.Position, err)
	}
}

func TestSpliceDoesNotTouchItsInput(t *testing.T) {
	raw := append(make([]byte, 0, 100), `{"a":1}`...)
	if out := Splice(raw, []byte(`,"b":2`)); string(out) != `{"a":1,"b":2}` || string(raw) != `{"a":1}` {
		t.Errorf("out %s, raw %s", out, raw)
	}
	if out := Splice(raw, nil); &out[0] != &raw[0] {
		t.Error("nothing to add, yet a copy was made")
	}
}

func TestMembersStopsAtTheFirstError(t *testing.T) {
	var names []string
	err := Members([]byte(`{"a":1,"b":[2],"c":oops}`), func(name string, _ jsontext.Value) { names = append(names, name) })
	if err == nil || strings.Join(names, "") != "ab" {
		t.Errorf("got %v, %v", names, err)
	}
}

// events draws raw events that Parse accepts.
func events(t *rapid.T) []byte {
	text := rapid.StringOfN(rapid.RuneFrom([]rune(`aZ09._- "\/é😀%`)), 1, 20, 80)
	m := map[string]any{"type": rapid.StringMatching(`[a-zA-Z0-9-][a-zA-Z0-9_-]{0,5}(\.[a-zA-Z0-9_-]{1,5}){0,7}`).Draw(t, "type")}
	for _, name := range []string{"id", "userId", "source"} {
		if rapid.Bool().Draw(t, "has "+name) {
			m[name] = text.Draw(t, name)
		}
	}
	if rapid.Bool().Draw(t, "has timestamp") {
		m["timestamp"] = rapid.Int64Range(1, maxTimestamp).Draw(t, "timestamp")
	}
	m["data"] = rapid.MapOf(text, rapid.Float64Range(-1e9, 1e9)).Draw(t, "data")
	raw, err := json.Marshal(m)
	if rapid.Bool().Draw(t, "indented") {
		raw, err = json.MarshalIndent(m, "", " ")
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseCompleteParseIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := events(t)
		e, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		e.Complete(noon, rapid.SampledFrom([]string{"api-1", `"\`, "é"}).Draw(t, "source"))
		again, err := Parse(e.Raw)
		if err != nil {
			t.Fatalf("complete, but refused: %s: %v", e.Raw, err)
		}
		if !same(e, again) {
			t.Fatalf("completed %+v, read %+v", e, again)
		}
		if bytes.ContainsAny(e.Raw, "\r\n") {
			t.Fatalf("more than one line: %s", e.Raw)
		}
	})
}

func TestSpliceYieldsValidJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, err := Parse(events(t))
		if err != nil {
			t.Fatal(err)
		}
		p := Position{
			Partition: rapid.IntRange(0, 1023).Draw(t, "partition"),
			Seq:       rapid.Uint64Range(1, 1<<53-1).Draw(t, "seq"),
			Epoch:     rapid.Uint64Range(0, 1<<53-1).Draw(t, "epoch"),
			Prev:      Prev{User: rapid.Uint64Range(0, 1<<53-1).Draw(t, "user"), Feed: rapid.Uint64Range(0, 1<<53-1).Draw(t, "feed")},
		}
		extra := append([]byte(`,"user":`), AppendString(nil, rapid.String().Draw(t, "any text"))...)
		redelivered := rapid.Bool().Draw(t, "redelivered")
		if redelivered {
			extra = AppendRedelivered(extra)
		}
		out := Splice(e.Raw, AppendPosition(extra, p))
		got, err := ParseStored(out)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%s: %v", out, err)
		}
		if got.Position != p || got.ID != e.ID || got.UserID != e.UserID || got.Redelivered != redelivered {
			t.Fatalf("spliced %+v, read %+v", p, got)
		}
	})
}

func TestAppendStringIsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		var back string
		if out := AppendString([]byte(nil), s); json.Unmarshal(out, &back) != nil {
			t.Fatalf("%q became %s", s, out)
		}
		if utf8.ValidString(s) && back != s {
			t.Fatalf("%q came back as %q", s, back)
		}
	})
}

func TestParseTakesRealWebhooks(t *testing.T) {
	f, err := os.Open("../../testdata/github-webhooks.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 2*MaxBytes)
	n := 0
	for ; lines.Scan(); n++ {
		if e, err := Parse(lines.Bytes()); err != nil || e.ID == "" {
			t.Errorf("line %d: %v", n+1, err)
		}
	}
	if lines.Err() != nil || n < 300 {
		t.Errorf("read %d lines: %v", n, lines.Err())
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"type":"a.b","userId":"42","data":{"x":[1,"\u00e9"]}}`, "{\n\"type\":\"a\"\n}", `{"type":"a","source":""}`,
		`{"type":"a","userId":"","t\u0079pe":"b"}`, `{}`, `[`, `{"type":"a"}{}`, `{"type":"a" ,"timestamp":1 }`, "{\"type\":\"a\",\"x\":\"\xff\"}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		e, err := Parse(raw)
		if !bytes.Equal(raw, before) {
			t.Fatal("the caller's bytes were changed")
		}
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Fatalf("%v is of kind %v", err, k)
			}
			return
		}
		e.Complete(noon, "api-1")
		if !json.Valid(e.Raw) || bytes.ContainsAny(e.Raw, "\r\n") {
			t.Fatalf("not one line of JSON: %q", e.Raw)
		}
		again, err := Parse(e.Raw)
		if err != nil || !same(e, again) {
			t.Fatalf("%q: completed %+v, read %+v, %v", raw, e, again, err)
		}
		stored, err := ParseStored(Splice(e.Raw, AppendPosition(nil, Position{Seq: 1})))
		if err != nil || stored.Seq != 1 {
			t.Fatalf("stored %+v, %v", stored, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := []byte(`{"id":"0190d5a0-0000-7000-8000-000000000000","type":"notification.order","userId":"42","timestamp":1448000000000,"data":{"text":"` + strings.Repeat("x", 250) + `","n":12.5}}`)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
