package worker

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/ingest"
	"eventspine/internal/quiet"
)

func TestProcess(t *testing.T) {
	const tail = `,"processed":true,"processedAt":1000000,"latencyMs":400}`
	at := func(members string) string { return `{` + members + `,"timestamp":999600` }
	for name, c := range map[string]struct {
		rules       string
		in, want    []string
		deliverable []bool
	}{
		"nothing": {},
		"a plain event": {
			in:          []string{at(`"id":"1","type":"audit.x","userId":"bo"`) + `}`},
			want:        []string{at(`"id":"1","type":"audit.x","userId":"bo"`) + tail},
			deliverable: []bool{false},
		},
		"metadata of the user": {
			in:          []string{at(`"id":"1","type":"alert.x","userId":"ana"`) + `,"data":[1]}`},
			want:        []string{at(`"id":"1","type":"alert.x","userId":"ana"`) + `,"data":[1],"user":{"name":"Ana"}` + tail},
			deliverable: []bool{true},
		},
		"everybody and nobody have no metadata": {
			in: []string{at(`"id":"1","type":"alert.x","userId":"*"`) + `}`, at(`"id":"2","type":"alert.x"`) + `}`},
			want: []string{at(`"id":"1","type":"alert.x","userId":"*"`) + tail,
				at(`"id":"2","type":"alert.x"`) + tail},
			deliverable: []bool{true, false},
		},
		"repeats within the batch": {
			in: []string{at(`"id":"1","type":"alert.x","userId":"bo"`) + `}`, at(`"id":"1","type":"alert.y","userId":"bo"`) + `}`,
				at(`"id":"1","type":"alert.x","userId":"cy"`) + `}`},
			want: []string{at(`"id":"1","type":"alert.x","userId":"bo"`) + tail,
				at(`"id":"1","type":"alert.x","userId":"cy"`) + tail}, // another partition: not the same event to the journal
			deliverable: []bool{true, true},
		},
		"a filter": {
			in:          []string{at(`"id":"1","type":"debug.x","userId":"bo"`) + `}`, at(`"id":"2","type":"x.y","userId":"bo"`) + `}`},
			want:        []string{at(`"id":"2","type":"x.y","userId":"bo"`) + tail},
			deliverable: []bool{false},
		},
		"a derived event follows its parent": {
			in: []string{at(`"id":"o","type":"order.created","userId":"ana"`) + `}`, at(`"id":"2","type":"x.y","userId":"bo"`) + `}`},
			want: []string{
				at(`"id":"o","type":"order.created","userId":"ana"`) + `,"user":{"name":"Ana"}` + tail,
				`{"id":"o/order-notification","type":"notification.order","userId":"ana","timestamp":999600,` +
					`"data":{"orderId":"o","amount":null,"message":"Your order was received"},"user":{"name":"Ana"}` + tail,
				at(`"id":"2","type":"x.y","userId":"bo"`) + tail},
			deliverable: []bool{false, true, false},
		},
		"a derived event for somebody else, and no loop": {
			rules: `rules: [{name: tell, match: "*", derive: {type: alert.seller, userId: '"ana"'}}, {name: no, match: x.*, drop: true}]`,
			in:    []string{at(`"id":"1","type":"x.y","userId":"bo"`) + `}`},
			want: []string{`{"id":"1/tell","type":"alert.seller","userId":"ana","timestamp":999600` +
				`,"user":{"name":"Ana"}` + tail},
			deliverable: []bool{true},
		},
		"filters hold for derived events too": {
			rules:       `rules: [{name: tell, match: a.b, derive: {type: alert.x}}, {name: no, match: alert.*, drop: true}]`,
			in:          []string{at(`"id":"1","type":"a.b"`) + `}`},
			want:        []string{at(`"id":"1","type":"a.b"`) + tail},
			deliverable: []bool{false},
		},
		"a timestamp in the future": {
			in:          []string{`{"id":"1","type":"a.b","timestamp":2000000}`},
			want:        []string{`{"id":"1","type":"a.b","timestamp":2000000,"processed":true,"processedAt":1000000,"latencyMs":0}`},
			deliverable: []bool{false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcessor(t, &people{known: map[string]string{"ana": `{"name":"Ana"}`, "*": `{"x":1}`, "": `{"y":1}`}}, c.rules)
			entries, err := process(t, p, mustEvents(t, c.in...))
			if err != nil {
				t.Fatal(err)
			}
			if got := raws(entries); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			for i := range entries {
				if entries[i].Deliverable != c.deliverable[i] {
					t.Errorf("event %d: deliverable is %v", i, entries[i].Deliverable)
				}
			}
		})
	}
}

func TestProcessAsksForEachUserOnce(t *testing.T) {
	u := &people{}
	p := newProcessor(t, u, "")
	_, err := process(t, p, mustEvents(t, `{"id":"1","type":"a","userId":"x"}`, `{"id":"2","type":"a","userId":"y"}`,
		`{"id":"3","type":"a","userId":"x"}`, `{"id":"4","type":"a","userId":"*"}`, `{"id":"5","type":"a"}`))
	if err != nil || len(u.asked) != 1 || !slices.Equal(u.asked[0], []string{"x", "y"}) {
		t.Errorf("asked %v, %v", u.asked, err)
	}
}

// When users cannot be read, nothing is skipped and nothing counted: the batch is tried again.
func TestProcessFailsAsAWhole(t *testing.T) {
	u := &people{errs: map[string]error{"ana": fault.Errorf("redis", fault.Unavailable, "away")}}
	p := newProcessor(t, u, "")
	events := mustEvents(t, `{"id":"1","type":"debug.x","userId":"bo"}`, `{"id":"2","type":"a","userId":"ana"}`, `{"id":"2","type":"a","userId":"ana"}`)
	if _, err := process(t, p, events); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("got %v", err)
	}
	if n := testutil.CollectAndCount(p.m.filtered) + testutil.CollectAndCount(p.m.repeats); n != 0 {
		t.Error("a failed try was counted")
	}
	u.errs = nil
	entries, err := process(t, p, events)
	if err != nil || len(entries) != 1 || testutil.ToFloat64(p.m.repeats.WithLabelValues("batch")) != 1 {
		t.Errorf("%v, %v", raws(entries), err)
	}
}

// One user whose metadata is broken for good does not stop the rest.
func TestProcessGoesOnWithoutUnreadableUsers(t *testing.T) {
	u := &people{known: map[string]string{"bo": `{"n":1}`}, errs: map[string]error{"ana": fault.E("redis", fault.Corrupt, errors.New("WRONGTYPE"))}}
	p := newProcessor(t, u, "")
	entries, err := process(t, p, mustEvents(t, `{"id":"1","type":"a","userId":"ana"}`, `{"id":"2","type":"a","userId":"bo"}`))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	if got := raws(entries); strings.Contains(got[0], `"user"`) || !strings.Contains(got[1], `"user":{"n":1}`) {
		t.Errorf("got %v", got)
	}
	if testutil.ToFloat64(p.m.unreadable) != 1 {
		t.Error("not counted")
	}
}

func TestRuleFailuresAreCountedAndLogged(t *testing.T) {
	var log bytes.Buffer
	p := newProcessor(t, &people{}, `rules: [{name: bad, match: "*", when: data.x.y > 1, drop: true}]`)
	p.log = quiet.New(slog.New(slog.NewJSONHandler(&log, nil)), time.Hour)
	entries, err := process(t, p, mustEvents(t, `{"id":"1","type":"a","data":{"secret":1}}`, `{"id":"2","type":"a"}`))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	if testutil.ToFloat64(p.m.failures.WithLabelValues("bad")) != 2 || strings.Count(log.String(), "\n") != 1 || strings.Contains(log.String(), "secret") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestReadSkipsMalformedEvents(t *testing.T) {
	var log bytes.Buffer
	p := newProcessor(t, &people{}, "")
	p.log = quiet.New(slog.New(slog.NewJSONHandler(&log, nil)), 0)
	b := ingest.Batch{Header: ingest.Header{Source: "api-7"}, Events: [][]byte{
		[]byte(`{"id":"1","type":"a.b"}`),
		[]byte(`secret`),
		[]byte(``),
		[]byte(`{"id":"secret"}`),
		[]byte(`{"type":"a","seq":7,"data":"secret"}`),
		[]byte(`{"type":"a","data":"` + strings.Repeat("secret", event.MaxBytes/6+1000) + `"}`),
		[]byte(`{"type":"c","source":"mine","timestamp":5}`),
	}}
	events := p.read(b).events
	if len(events) != 2 || string(events[0].Raw) != `{"id":"1","type":"a.b","timestamp":1000000,"source":"api-7"}` {
		t.Fatalf("got %d events, %s", len(events), events[0].Raw)
	}
	if e := events[1]; e.Source != "mine" || e.Timestamp != 5 || len(e.ID) != 36 {
		t.Errorf("completed to %+v", e)
	}
	for kind, want := range map[string]float64{"invalid": 4, "too_large": 1} {
		if got := testutil.ToFloat64(p.m.malformed.WithLabelValues(kind)); got != want {
			t.Errorf("%v of kind %s, want %v", got, kind, want)
		}
	}
	for _, want := range []string{`"source":"api-7"`, "not a JSON object", "type is missing", "seq is set by eventspine", "too large"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the log tells content:\n%s", log.String())
	}
}

func BenchmarkProcess(b *testing.B) {
	p := newProcessor(b, &people{known: map[string]string{"u1": `{"name":"Ana","plan":"pro"}`}}, "")
	raw := []byte(`{"id":"0190a7c4-0000-7000-8000-000000000001","type":"notification.chat","userId":"u1","timestamp":999600,"source":"api-1","data":{"text":"` +
		strings.Repeat("x", 120) + `"}}`)
	batch := ingest.Batch{Events: [][]byte{raw}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Process(b.Context(), []unit{p.read(batch)}); err != nil {
			b.Fatal(err)
		}
	}
}
