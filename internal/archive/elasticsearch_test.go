package archive_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eventspine/internal/archive"
	"eventspine/internal/archive/archivetest"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestElasticsearch is the contract on a genuine server. Its stand-in is tested in embedded/search.
func TestElasticsearch(t *testing.T) {
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
			t.Fatal("EVENTSPINE_TEST_ES is not set; test/elasticsearch/with.sh sets it")
		}
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	archivetest.Run(t, url)
}

// BenchmarkElasticsearch indexes events of about 480 bytes in batches of 1,000, two requests
// in flight, as the indexer does when it is behind.
func BenchmarkElasticsearch(b *testing.B) {
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		b.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	a, err := archive.New(archive.Options{URLs: []string{url}, Index: "benchmark"})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	ctx := context.WithoutCancel(b.Context())
	if err := a.Prepare(ctx); err != nil {
		b.Fatal(err)
	}
	day := time.UnixMilli(1_700_000_000_000)
	defer func() { _ = a.DeleteIndex(ctx, a.IndexOf(day)) }()
	const size = 1000
	var batches, next atomic.Int64
	work := func() error {
		events := make([]event.Event, size)
		first := next.Add(size) - size
		for i := range events {
			n := first + int64(i)
			id := fmt.Sprintf("0193%08x-7000-8000-%012x", n, n*7919)
			events[i] = event.Event{ID: id, Type: "order.created", UserID: fmt.Sprint("user-", n%1000), Timestamp: day.UnixMilli() + n/100,
				Raw: fmt.Appendf(nil, `{"id":"%s","type":"order.created","userId":"user-%d","timestamp":%d,"source":"api-1","data":{"orderId":%d,"amount":%d.5,"currency":"EUR","items":[{"sku":"SKU-%d","name":"Blue cotton shirt","qty":2},{"sku":"SKU-%d","name":"Green socks","qty":1}],"note":"please leave at the door number %d"},"processed":true,"processedAt":1700000000123,"latencyMs":1.25,"partition":3,"seq":%d,"prev":{"user":0,"feed":0},"epoch":1099511627776}`,
					id, n%1000, day.UnixMilli()+n/100, n, n%500, n%977, n%313, n%89, n+1)}
		}
		r, err := a.Index(ctx, events)
		if err == nil && r.Indexed != size {
			err = fmt.Errorf("indexed %d of %d: %w", r.Indexed, size, r.Cause)
		}
		batches.Add(1)
		return err
	}
	b.SetParallelism(1)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := work(); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(batches.Load()*size)/b.Elapsed().Seconds(), "docs/s")
}

// TestBlocksAreNoFaultOfTheEvent puts the blocks on an index that a full disk and an operator put
// there: events are to be sent again, and are taken once the block is gone.
func TestBlocksAreNoFaultOfTheEvent(t *testing.T) {
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set") // TestElasticsearch fails where one is required
	}
	a, err := archive.New(archive.Options{URLs: []string{url}, Index: fmt.Sprintf("t%d", time.Now().UnixNano())})
	must(t, err)
	defer a.Close()
	ctx := context.WithoutCancel(t.Context())
	must(t, a.Prepare(ctx))
	day := time.UnixMilli(1_700_000_000_000)
	name := a.IndexOf(day)
	defer func() { _ = a.DeleteIndex(ctx, name) }()
	n := 0
	index := func() archive.Result {
		n++
		id := fmt.Sprint("e", n)
		r, err := a.Index(ctx, []event.Event{{ID: id, Type: "order.created", Timestamp: day.UnixMilli(),
			Raw: fmt.Appendf(nil, `{"id":%q,"type":"order.created","timestamp":%d,"seq":%d}`, id, day.UnixMilli(), n)}})
		if err != nil {
			return archive.Result{Retry: []int{0}, Cause: err}
		}
		return r
	}
	set := func(block, value string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/"+name+"/_settings", strings.NewReader(`{"index.blocks.`+block+`":`+value+`}`))
		must(t, err)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		if must(t, res.Body.Close()); res.StatusCode != http.StatusOK {
			t.Fatalf("set block: %s", res.Status)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	if r := index(); r.Indexed != 1 {
		t.Fatalf("before: %+v", r)
	}
	for _, block := range []string{"read_only_allow_delete", "read_only", "write"} {
		set(block, "true")
		if r := index(); len(r.Retry) != 1 || !fault.Retryable(r.Cause) {
			t.Errorf("%s: %+v", block, r)
		}
		d, err := a.Disk(ctx)
		if must(t, err); (len(d.Blocked) == 1 && d.Blocked[0] == name) != (block == "read_only_allow_delete") || d.Used <= 0 {
			t.Errorf("%s: the disk is %+v", block, d)
		}
		if len(d.Blocked) > 0 {
			must(t, a.Unblock(ctx, d.Blocked))
		} else {
			set(block, "false")
		}
		if r := index(); r.Indexed != 1 {
			t.Errorf("after %s: %+v", block, r)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
