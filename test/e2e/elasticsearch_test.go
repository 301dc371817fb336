package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/test/harness"
)

// elastic sends one request to Elasticsearch.
func elastic(t *testing.T, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode > 299 {
		t.Fatalf("%s %s: %s %s %v", method, url, res.Status, text, err)
	}
	return string(text)
}

// spooled is how many events wait in the indexer's spool.
func spooled(t *testing.T, s *harness.System) float64 {
	t.Helper()
	return metric(t, s.Ready["indexer-1"], "eventspine_indexer_spool_events")
}

// TestElasticsearchOutage harms a genuine server of its own: it is killed and comes back, and then its disk
// passes the flood stage, so that indices are read-only, until there is room again. Events wait in
// the spool meanwhile, an old index goes before its time, and at the end every accepted event is in
// the index, once.
func TestElasticsearchOutage(t *testing.T) {
	if os.Getenv("EVENTSPINE_OUTAGE") == "" {
		t.Skip("takes two minutes: make outage-test runs it")
	}
	search, err := harness.StartSearch(t.Context(), harness.Place{}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := search.Close(); err != nil {
			t.Error(err)
		}
	})
	s := startWith(t, harness.Options{Redis: realRedis(t), ES: search.URL, Workers: 1,
		Env: []string{"INDEXER_SPOOL_AFTER=500ms", "INDEXER_RETENTION=1440h"}})
	a, err := archive.New(archive.Options{URLs: []string{search.URL}, Index: "events"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	stop, accepted := make(chan struct{}), make(chan []string, 1)
	var wg sync.WaitGroup
	wg.Go(func() { accepted <- postUntil(t, s, stop) })
	defer wg.Wait()
	once := sync.OnceFunc(func() { close(stop) })
	defer once()
	eventually(t, 90*time.Second, func() bool { return len(inIndex(t, a, "notification.kept")) > 0 }, func() string { return "nothing is indexed" })

	killSearch(t, s, search)
	floodSearch(t, s, search, a)

	once()
	wg.Wait()
	ids := <-accepted
	found := map[string]int{}
	eventually(t, 90*time.Second, func() bool { found = inIndex(t, a, "notification.kept"); return len(found) == len(ids) },
		func() string { return fmt.Sprintf("%d of %d are in the index", len(found), len(ids)) })
	for _, id := range ids {
		if found[id] != 1 {
			t.Errorf("%s is in the index %d times", id, found[id])
		}
	}
	eventually(t, time.Minute, func() bool { return spooled(t, s) == 0 }, func() string { return "the spool is not empty" })
}

func waitsInTheSpool(t *testing.T, s *harness.System) {
	t.Helper()
	eventually(t, time.Minute, func() bool { return spooled(t, s) > 0 },
		func() string { return "no event waits in the spool" })
}

// killSearch is a kill -9 of Elasticsearch and its return.
func killSearch(t *testing.T, s *harness.System, search *harness.Search) {
	t.Helper()
	if err := search.Kill(); err != nil {
		t.Fatal(err)
	}
	waitsInTheSpool(t, s)
	if err := search.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 4*time.Minute, func() bool { return search.Answers() == nil }, func() string { return "it does not come back: " + search.Tail() })
	eventually(t, time.Minute, func() bool { return spooled(t, s) == 0 },
		func() string { return "the spool is not drained" })
}

// floodSearch sets the watermarks so that the disk is past all of them, and back.
func floodSearch(t *testing.T, s *harness.System, search *harness.Search, a *archive.Archive) {
	t.Helper()
	old := time.Now().UTC().AddDate(0, 0, -40)
	elastic(t, "PUT", search.URL+"/"+a.IndexOf(old), fmt.Sprintf(`{"mappings":{"_meta":{"created":%d}}}`, old.UnixMilli())) // or it would count as new
	marks := func(value, interval string) string {
		const prefix = `"cluster.routing.allocation.disk.`
		return `{"persistent":{` + prefix + `threshold_enabled":true,` + prefix + `watermark.low":` + value + `,` + prefix + `watermark.high":` + value + `,` +
			prefix + `watermark.flood_stage":` + value + `,"cluster.info.update.interval":` + interval + `}}`
	}
	elastic(t, "PUT", search.URL+"/_cluster/settings", marks(`"1%"`, `"10s"`))
	blocked := func() bool {
		return strings.Contains(elastic(t, "GET", search.URL+"/events-*/_settings/index.blocks.read_only_allow_delete", ""), `"true"`)
	}
	eventually(t, 90*time.Second, blocked, func() string { return "Elasticsearch does not make the index read-only" })
	waitsInTheSpool(t, s)
	said := func(line string) {
		t.Helper()
		eventually(t, 90*time.Second, func() bool {
			text, err := os.ReadFile(filepath.Clean(s.Indexer.Log))
			return err == nil && strings.Contains(string(text), line)
		}, func() string { return "the indexer does not say that " + line })
	}
	said("elasticsearch's disk is full and indices are read-only")
	said("deleted an index before its time")
	if days, err := a.Days(t.Context()); err != nil || len(days) == 0 || days[0].Name == a.IndexOf(old) {
		t.Errorf("the old index is still there: %+v, %v", days, err)
	}
	elastic(t, "PUT", search.URL+"/_cluster/settings", marks("null", "null"))
	eventually(t, 90*time.Second, func() bool { return !blocked() }, func() string { return "nobody lifts the block" }) // Elasticsearch itself or the indexer
}
