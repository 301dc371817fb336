package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"eventspine/internal/archive"
	embeddedsearch "eventspine/internal/embedded/search"
	"eventspine/internal/event"
	"eventspine/internal/journal"
	"eventspine/internal/maintain"
	"eventspine/internal/rdb"
	"eventspine/internal/run"
	"eventspine/internal/testkit"
)

// maintained is a Redis with n events that an index has, but for the last.
func maintained(t *testing.T, index string, n int) (flags []string, a *archive.Archive, events []event.Event) {
	t.Helper()
	t.Chdir(t.TempDir())
	name := fmt.Sprintf("t%d", time.Now().UnixNano())
	t.Setenv("ES_INDEX", name)
	server := testkit.StartRedis(t)
	client, err := rdb.Open(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if a, err = archive.New(archive.Options{URLs: []string{index}, Index: name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = a.Retain(t.Context(), time.Now().AddDate(1, 0, 0), nil) // a server of the tests
		a.Close()
	})
	if err := a.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	var batch []journal.Entry
	for i := range n {
		e := event.Event{ID: fmt.Sprint("e", i), Type: "a.b", Timestamp: time.Now().UnixMilli()}
		e.Raw = fmt.Appendf(nil, `{"id":%q,"type":"a.b","timestamp":%d}`, e.ID, e.Timestamp)
		batch = append(batch, journal.Entry{Event: e})
	}
	stored, err := journal.New(client, journal.Options{Partitions: 2}).Append(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stored {
		e, err := event.ParseStored(s.Raw)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	if r, err := a.Index(t.Context(), events[:n-1]); err != nil || r.Indexed != n-1 {
		t.Fatalf("%+v, %v", r, err)
	}
	return []string{"--redis", server.URL(), "--es", index}, a, events
}

func embeddedIndex(t *testing.T) string {
	t.Helper()
	s, err := embeddedsearch.Start(t.Context(), embeddedsearch.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.URL()
}

func TestVerify(t *testing.T) {
	flags, _, events := maintained(t, embeddedIndex(t), 100)
	verify := func(args ...string) (string, error) {
		out, _, err := call(t, append(append([]string{"verify", "--lag", "0s"}, flags...), args...)...)
		return out, err
	}
	out, err := verify()
	gone := events[99]
	if run.Code(err) != run.ExitFailure || !strings.Contains(err.Error(), "1 of 100 events") || !strings.Contains(err.Error(), "--repair") {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{`PARTITION +EPOCH +FROM +TO +JOURNAL +INDEX +MISSING +DUPLICATES`, `all +100 +99 +1 +0`,
		fmt.Sprintf(`partition %d  seq %d  id "e99"  missing`, gone.Partition, gone.Seq), `100 events compared in `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s is not in\n%s", want, out)
		}
	}
	if out, err = verify("--since", "1h", "--repair"); err != nil || !strings.Contains(out, `"e99"  repaired`) || !strings.Contains(out, "1 events were missing and are in the index now") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = verify("--json")
	var r maintain.Report
	if e := json.Unmarshal([]byte(out), &r); e != nil || err != nil || !r.Agrees() || r.Sum().Index != 100 {
		t.Errorf("%v, %v\n%s", err, e, out)
	}
	if out, err = verify("--lag", "1h"); err != nil || !strings.Contains(out, "100 events are younger than --lag") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestVerifyOfNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	server := testkit.StartRedis(t)
	out, _, err := call(t, "verify", "--redis", server.URL(), "--es", embeddedIndex(t))
	if err != nil || !strings.Contains(out, "0 events compared") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := call(t, "verify", "--lag", "-1s"); run.Code(err) != run.ExitUsage {
		t.Errorf("a negative lag: %v", err)
	}
	if _, _, err := call(t, "verify", "--redis", "redis://127.0.0.1:1", "--es", "http://127.0.0.1:1"); run.Code(err) != run.ExitFailure {
		t.Errorf("nobody there: %v", err)
	}
}

func TestReindexNeedsARealElasticsearch(t *testing.T) {
	t.Chdir(t.TempDir())
	server := testkit.StartRedis(t)
	if _, _, err := call(t, "reindex", "--redis", server.URL(), "--es", embeddedIndex(t)); run.Code(err) != run.ExitUsage || !strings.Contains(err.Error(), "real Elasticsearch") {
		t.Errorf("%v", err)
	}
	if _, _, err := call(t, "reindex", "--day", "yesterday"); run.Code(err) != run.ExitUsage {
		t.Errorf("%v", err)
	}
}

func TestReindex(t *testing.T) {
	index := os.Getenv("EVENTSPINE_TEST_ES")
	if index == "" {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
			t.Fatal("EVENTSPINE_TEST_ES is not set; test/elasticsearch/with.sh sets it")
		}
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	flags, a, events := maintained(t, index, 1001)
	reindex := func(args ...string) (string, string) {
		t.Helper()
		out, notes, err := call(t, append(append([]string{"reindex"}, flags...), args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out, notes
	}
	if out, _ := reindex(); !strings.Contains(out, "0 indices rebuilt") {
		t.Error(out)
	}
	day := a.IndexOf(events[0].Time())
	if err := a.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, _ := reindex("--list", "--all"); out != day+"  1000 documents\n" {
		t.Error(out)
	}
	out, notes := reindex("--day", events[0].Time().Format("2006.01.02"))
	if !strings.Contains(out, "1 indices rebuilt") || !strings.Contains(notes, day+": done (1 of 1), 1000 of 1000 documents, 100 %") {
		t.Errorf("%s\n%s", out, notes)
	}
	days, err := a.Days(t.Context())
	if err != nil || len(days) != 1 || days[0].Index == day {
		t.Errorf("%+v, %v", days, err)
	}
}

// TestTheBar shows how far it is, over itself, and ends its line once.
func TestTheBar(t *testing.T) {
	var b strings.Builder
	r := reindexCall{notes: &b, began: time.Now().Add(-10 * time.Second)}
	r.bar(maintain.Progress{Day: "events-2026.11.20", Number: 1, All: 2, Docs: 100, Total: 400})
	r.bar(maintain.Progress{Day: "events-2026.11.20", Number: 1, All: 2, Docs: 101, Total: 400}) // too soon
	r.bar(maintain.Progress{Day: "events-2026.11.21", Number: 2, All: 2, Docs: 400, Total: 400, Done: true})
	want := "\r[#######.......................]  25 %  events-2026.11.20 (1 of 2)  100 of 400 documents, 30s left \x1b[K" +
		"\r[##############################] 100 %  events-2026.11.21 (2 of 2)  400 of 400 documents, 0s left \x1b[K\n"
	if b.String() != want {
		t.Errorf("the bar is\n%q, want\n%q", b.String(), want)
	}
}
