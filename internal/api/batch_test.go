package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
)

type batchAnswer struct {
	Accepted, Refused int
	Results           []struct {
		Index  int
		ID     string
		Status int
		Error  *Problem
	}
}

func (f *fixture) batch(q request) (int, batchAnswer) {
	f.t.Helper()
	q.path = "/api/events/batch"
	res := f.do(q)
	var a batchAnswer
	if err := json.Unmarshal([]byte(read(f.t, res)), &a); err != nil {
		f.t.Fatal(err)
	}
	if res.StatusCode < 300 {
		f.checkBatch(a)
	}
	return res.StatusCode, a
}

func (f *fixture) checkBatch(a batchAnswer) {
	f.t.Helper()
	accepted := 0
	for i, r := range a.Results {
		if r.Index != i || (r.Status == 202) != (r.Error == nil) || r.Error != nil && r.Error.Status != r.Status {
			f.t.Errorf("result %d is %+v", i, r)
		}
		if r.Status == 202 {
			accepted++
			if r.ID == "" {
				f.t.Errorf("result %d has no id", i)
			}
		}
	}
	if a.Accepted != accepted || a.Refused != len(a.Results)-accepted || len(f.out.events) != accepted {
		f.t.Errorf("%d accepted, %d refused, %d sent, by the results %d of %d", a.Accepted, a.Refused, len(f.out.events), accepted, len(a.Results))
	}
}

func TestBatchTakesEveryForm(t *testing.T) {
	one, two := `{"id":"1","type":"a"}`, `{"id":"2","type":"b","userId":"42"}`
	for name, q := range map[string]request{
		"array":                     {body: "[" + one + "," + two + "]"},
		"array on lines":            {body: " [\n" + one + " ,\r\n" + two + "\n] \n"},
		"array without a length":    {chunks: true, body: "[" + one + "," + two + "]"},
		"lines":                     {media: typeLines, body: one + "\n" + two + "\n"},
		"lines, the last one open":  {media: typeLines, body: one + "\n" + two},
		"lines with CR and blanks":  {media: typeLines, body: "\r\n" + one + "\r\n\n  \n" + two + "\r\n\r\n"},
		"lines without a length":    {media: typeLines, chunks: true, body: one + "\n" + two},
		"CloudEvents":               {media: typeCloudBatch, body: `[{"specversion":"1.0","source":"s",` + one[1:] + `,{"specversion":"1.0","source":"s","id":"2","type":"b","subject":"42"}]`},
		"array named with charset ": {media: "application/json; charset=utf-8", body: "[" + one + "," + two + "]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			status, a := f.batch(q)
			if status != 202 || len(a.Results) != 2 || a.Results[0].ID != "1" || a.Results[1].ID != "2" {
				t.Fatalf("answered %d %+v", status, a)
			}
			if f.out.calls != 1 {
				t.Errorf("sent in %d calls", f.out.calls)
			}
			for i, e := range f.out.events {
				if e.UserID != "42" || e.ID != fmt.Sprint(i+1) {
					t.Errorf("event %d is %+v", i, e)
				}
				if again, err := event.Parse(e.Raw); err != nil || again.ID != e.ID {
					t.Errorf("the worker reads %+v, %v", again, err)
				}
			}
			if n := testutil.ToFloat64(f.api.metrics.accepted); n != 2 {
				t.Errorf("counted %v accepted events", n)
			}
		})
	}
}

func TestAnEmptyBatchIsFine(t *testing.T) {
	for _, q := range []request{{body: "[]"}, {media: typeLines, body: "\n\n"}, {media: typeLines}, {media: typeCloudBatch, body: "[ ]"}} {
		f := newFixture(t)
		if q.media == typeLines {
			q.header = map[string]string{"Content-Type": typeLines}
		}
		if status, a := f.batch(q); status != 202 || len(a.Results) != 0 || f.out.calls != 0 {
			t.Errorf("%q: answered %d %+v", q.body, status, a)
		}
	}
}

func TestBatchAnswersEachItemByItself(t *testing.T) {
	f := newFixture(t)
	large := `{"type":"a","x":"` + strings.Repeat("x", event.MaxBytes) + `"}`
	items := []string{`{"id":"good","type":"a"}`, `{"id":"x","type":"a..b","seq":1}`, `7`, `{"id":"other","type":"a","userId":"7"}`, large, `{"type":"b","id":"t","id":"u"}`, `{"type":"b"}`}
	want := []int{202, 400, 400, 403, 413, 400, 202}
	for _, q := range []request{{body: "[" + strings.Join(items, ",") + "]"}, {media: typeLines, body: strings.Join(items, "\n")}} {
		f.out.events = nil
		status, a := f.batch(q)
		if status != http.StatusMultiStatus || len(a.Results) != len(want) {
			t.Fatalf("answered %d %+v", status, a)
		}
		for i, r := range a.Results {
			if r.Status != want[i] {
				t.Errorf("item %d: %+v", i, r)
			}
		}
		if got := fields(*a.Results[1].Error); got != "type seq" {
			t.Errorf("named %q", got)
		}
		if a.Results[0].ID != "good" || len(a.Results[6].ID) != 36 || a.Results[3].ID != "other" {
			t.Errorf("ids are %+v", a.Results)
		}
	}
	if n := testutil.ToFloat64(f.api.metrics.refused.WithLabelValues("invalid")); n != 6 {
		t.Errorf("counted %v invalid events", n)
	}
}

func TestALineThatIsNotJSONFailsAlone(t *testing.T) {
	f := newFixture(t)
	status, a := f.batch(request{media: typeLines, body: "{\"type\":\"a\"}\n{oops\n\xff\n{\"type\":\"b\"}"})
	if status != 207 || a.Accepted != 2 || a.Results[1].Status != 400 || a.Results[2].Status != 400 {
		t.Errorf("answered %d %+v", status, a)
	}
}

func TestABatchIsKeptAsAWholeOrNotAtAll(t *testing.T) {
	f := newFixture(t)
	f.out.refuse = full()
	q := request{path: "/api/events/batch", body: `[{"type":"a"},{"type":""},{"type":"b"},{"type":"c"}]`}
	res := f.do(q)
	if res.StatusCode != 207 || res.Header.Get("Retry-After") != "1" {
		t.Errorf("answered %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	var a batchAnswer
	if err := json.Unmarshal([]byte(read(t, res)), &a); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{503, 400, 503, 503} {
		if a.Results[i].Status != want {
			t.Errorf("item %d: %+v", i, a.Results[i])
		}
	}
}

func TestBatchesRefusedAsAWholeLeaveNoTrace(t *testing.T) {
	many := strings.Repeat(`{"type":"a"},`, maxBatchEvents) + `{"type":"a"}`
	wide := `{"type":"a","x":"` + strings.Repeat("x", 200<<10) + `"}`
	heavy := strings.Repeat(wide+",", 27) + wide
	for name, c := range map[string]struct {
		q      request
		status int
		fields string
	}{
		"object":                       {request{body: `{"type":"a"}`}, 400, ""},
		"empty":                        {request{}, 400, ""},
		"null":                         {request{body: `null`}, 400, ""},
		"array cut off":                {request{body: `[{"type":"a"},`}, 400, ""},
		"array without its end":        {request{body: `[{"type":"a"}`}, 400, ""},
		"array with a broken item":     {request{body: `[{"type":"a"},{oops}]`}, 400, ""},
		"array with a missing comma":   {request{body: `[{"type":"a"}{"type":"b"}]`}, 400, ""},
		"more after the array":         {request{body: `[{"type":"a"}] []`}, 400, ""},
		"rubbish after the array":      {request{body: `[{"type":"a"}] }`}, 400, ""},
		"5,001 events":                 {request{body: "[" + many + "]"}, 413, ""},
		"5,001 lines":                  {request{media: typeLines, body: strings.ReplaceAll(many, "},", "}\n")}, 413, ""},
		"more than 5 MiB":              {request{body: "[" + heavy + "]"}, 413, ""},
		"more than 5 MiB in chunks":    {request{chunks: true, body: "[" + heavy + "]"}, 413, ""},
		"more than 5 MiB in lines":     {request{chunks: true, media: typeLines, body: strings.ReplaceAll(heavy, "},", "}\n")}, 413, ""},
		"one string of 6 MiB":          {request{chunks: true, body: `["` + strings.Repeat("x", 6<<20)}, 413, ""},
		"one line of 6 MiB":            {request{chunks: true, media: typeLines, body: strings.Repeat("x", 6<<20)}, 413, ""},
		"single CloudEvent":            {request{media: typeCloud, body: cloudEvent}, 415, ""},
		"CSV":                          {request{media: "text/csv", body: `a,b`}, 415, ""},
		"no media type":                {request{media: "///", body: `[]`}, 415, ""},
		"key for a batch":              {request{body: `[{"type":"a"}]`, header: map[string]string{"Idempotency-Key": "1"}}, 400, "Idempotency-Key"},
		"no token":                     {request{token: "-", body: `[{"type":"a"}]`}, 401, ""},
		"levels deeper than any event": {request{body: strings.Repeat("[", 20000)}, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.q.path = "/api/events/batch"
			res := f.do(c.q)
			if p := problemOf(t, res); res.StatusCode != c.status || fields(p) != c.fields {
				t.Errorf("answered %+v", p)
			}
			if f.out.calls != 0 {
				t.Errorf("sent %d events", len(f.out.events))
			}
		})
	}
}

func TestABatchOfTheLargestCountPasses(t *testing.T) {
	f := newFixture(t)
	status, a := f.batch(request{body: "[" + strings.Repeat(`{"type":"a"},`, maxBatchEvents-1) + `{"type":"a"}]`})
	if status != 202 || a.Accepted != maxBatchEvents {
		t.Errorf("answered %d, %d accepted", status, a.Accepted)
	}
}

func TestBatchesAtTheSameTimeAreBounded(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.MaxBatches = 1 })
	body, more := io.Pipe()
	first := make(chan int)
	bearer := "Bearer " + token(t, "42")
	go func() {
		r := httptest.NewRequest(http.MethodPost, "/api/events/batch", body)
		r.Header.Set("Authorization", bearer)
		rec := httptest.NewRecorder()
		f.api.ServeHTTP(rec, r)
		first <- rec.Code
	}()
	if _, err := more.Write([]byte("[")); err != nil { // returns once the first batch is being read
		t.Fatal(err)
	}
	res := f.do(request{path: "/api/events/batch", body: "[]"})
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("the second answered %d", res.StatusCode)
	}
	if _, err := more.Write([]byte("]")); err != nil {
		t.Fatal(err)
	}
	if err := more.Close(); err != nil {
		t.Fatal(err)
	}
	if status := <-first; status != 202 {
		t.Errorf("the first answered %d", status)
	}
	if res := f.do(request{path: "/api/events/batch", body: "[]"}); res.StatusCode != 202 {
		t.Errorf("the third answered %d", res.StatusCode)
	}
}

// gather runs a splitter and keeps what it yields.
func gather(split func(io.Reader, func([]byte, error) error) error, r io.Reader) (items []string, err error) {
	err = split(r, func(raw []byte, err error) error {
		if err != nil {
			raw = []byte("TooLarge")
		}
		items = append(items, string(raw))
		return nil
	})
	return items, err
}

func TestSplitLinesSkipsALineThatIsTooLong(t *testing.T) {
	for _, n := range []int{event.MaxBytes + 1, event.MaxBytes + 70_000, 3 * event.MaxBytes} {
		input := "a\n" + strings.Repeat("x", n) + "\nb\n" + strings.Repeat(" ", 100_000) + "c"
		items, err := gather(splitLines, strings.NewReader(input))
		if err != nil || strings.Join(items, " ") != "a TooLarge b c" {
			t.Errorf("%d bytes: %d items, %v", n, len(items), err)
		}
	}
	items, err := gather(splitLines, strings.NewReader(strings.Repeat("x", event.MaxBytes)))
	if err != nil || len(items) != 1 || len(items[0]) != event.MaxBytes {
		t.Errorf("the largest line: %d items, %v", len(items), err)
	}
}

func TestSplittersPassErrorsOn(t *testing.T) {
	broken := errors.New("line is down")
	for name, split := range map[string]func(io.Reader, func([]byte, error) error) error{"array": splitArray, "lines": splitLines} {
		_, err := gather(split, io.MultiReader(strings.NewReader(`[{"type":"a"},`), &failing{broken}))
		if fault.KindOf(err) != fault.Invalid || err == nil || strings.Contains(err.Error(), "down") {
			t.Errorf("%s: %v", name, err)
		}
		stop := errors.New("enough")
		if err := split(strings.NewReader("[1,2]"), func([]byte, error) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestBothFormsSplitAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOf(rapid.StringMatching(`\{"[a-z]{1,3}":( ?[1-9][0-9]{0,2}|"[^"\\\n\r\x00-\x1f]{0,20}"|\[\]|\{\}|null)\}`)).Draw(t, "items")
		fromArray, err1 := gather(splitArray, strings.NewReader("["+strings.Join(items, " , ")+"]"))
		fromLines, err2 := gather(splitLines, strings.NewReader(strings.Join(items, "\n")))
		if err1 != nil || err2 != nil || strings.Join(fromArray, "\n") != strings.Join(items, "\n") || strings.Join(fromLines, "\n") != strings.Join(items, "\n") {
			t.Fatalf("items %q: array %q, %v; lines %q, %v", items, fromArray, err1, fromLines, err2)
		}
	})
}

func FuzzSplitArray(f *testing.F) {
	for _, s := range []string{`[]`, `[{"type":"a"},{"b":[1,"]"]}]`, `[1,2`, `[1]]`, "[\xff]", `{"a":1}`, `[{"a":1,"a":2}]`, ` [ "x" , null ] `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, err := gather(splitArray, bytes.NewReader(raw))
		var want []json.RawMessage
		if err == nil && bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
			if json.Unmarshal(raw, &want) != nil || len(want) != len(items) {
				t.Fatalf("%q: %q, the standard library says %q", raw, items, want)
			}
			for i := range want {
				if string(want[i]) != items[i] {
					t.Fatalf("%q: item %d is %q, the standard library says %q", raw, i, items[i], want[i])
				}
			}
		}
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatalf("%q: %v", raw, err)
		}
		if err != nil && json.Unmarshal(raw, &want) == nil && want != nil {
			t.Fatalf("%q is an array, refused: %v", raw, err)
		}
	})
}

func FuzzSplitLines(f *testing.F) {
	for _, s := range []string{"", "a", "a\nb", "\n\n a \r\n\tb", strings.Repeat("x", 70000) + "\ny"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, err := gather(splitLines, bytes.NewReader(raw))
		var want []string
		for line := range bytes.SplitSeq(raw, []byte("\n")) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				want = append(want, string(line))
			}
		}
		if err != nil || len(raw) <= event.MaxBytes && strings.Join(items, "\n") != strings.Join(want, "\n") {
			t.Fatalf("%q: %q, %v, want %q", raw, items, err, want)
		}
	})
}

// nowhere takes every event and keeps none.
type nowhere struct{}

func (nowhere) Append(context.Context, []event.Event) error { return nil }

func (nowhere) AppendWait(context.Context, []event.Event) (*ingest.Waiting, error) { return nil, nil }

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func BenchmarkBatch(b *testing.B) {
	f := newFixture(b)
	f.api.log, f.api.send = silent(), nowhere{}
	item := `{"id":"0190d5a0-0000-7000-8000-000000000000","type":"notification.order","userId":"42","timestamp":1448000000000,"data":{"text":"` + strings.Repeat("x", 250) + `"}}`
	body := "[" + strings.Repeat(item+",", 999) + item + "]"
	bearer := "Bearer " + token(b, "42", "emit")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/api/events/batch", strings.NewReader(body))
		r.Header.Set("Authorization", bearer)
		w := httptest.NewRecorder()
		f.api.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			b.Fatal(w.Code)
		}
	}
}
