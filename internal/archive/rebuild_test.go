package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"eventspine/internal/archive"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// genuine is an archive with a name of its own on the genuine server.
func genuine(t *testing.T) (*archive.Archive, string, string) {
	t.Helper()
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
			t.Fatal("EVENTSPINE_TEST_ES is not set; test/elasticsearch/with.sh sets it")
		}
		t.Skip("no Elasticsearch: EVENTSPINE_TEST_ES is not set")
	}
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16]
	a, err := archive.New(archive.Options{URLs: []string{url}, Index: name})
	must(t, err)
	must(t, a.Prepare(t.Context()))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = a.Mend(ctx) // for the test
		_, err := a.Retain(ctx, time.Now().AddDate(1, 0, 0), nil)
		if err != nil {
			t.Error(err)
		}
		for _, template := range []string{name, name + "-dead"} {
			plain(ctx, t, http.MethodDelete, url+"/_index_template/"+template, "")
		}
		http.DefaultClient.CloseIdleConnections()
		a.Close()
	})
	return a, url, name
}

// plain sends what archive has no call for.
func plain(ctx context.Context, t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	if res.StatusCode > 299 {
		t.Errorf("%s %s: status %d: %s", method, url, res.StatusCode, text)
	}
	return string(text)
}

var someDay = time.Date(2023, 11, 14, 12, 0, 0, 0, time.UTC)

func stored(n int) event.Event {
	id := fmt.Sprintf("e-%07d", n)
	e := event.Event{ID: id, Type: "order.created", Timestamp: someDay.UnixMilli(), Position: event.Position{Partition: 3, Seq: uint64(n + 1), Epoch: 1}}
	e.Raw = fmt.Appendf(nil, `{"id":"%s","type":"order.created","timestamp":%d,"data":{"amount":12.50,"n":%d},"partition":3,"seq":%d,"epoch":1}`, id, e.Timestamp, n, n+1)
	return e
}

// put indexes events from to to, for as long as it takes.
func put(ctx context.Context, a *archive.Archive, from, to int) error {
	var events []event.Event
	for n := from; n < to; n++ {
		events = append(events, stored(n))
	}
	for len(events) > 0 {
		r, err := a.Index(ctx, events)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(r.Refused) > 0 {
			return fmt.Errorf("refused: %+v", r.Refused[0])
		}
		var again []event.Event
		for _, i := range r.Retry {
			again = append(again, events[i])
		}
		if err == nil {
			events = again
		}
	}
	return nil
}

func one(t *testing.T, a *archive.Archive) archive.Day {
	t.Helper()
	days, err := a.Days(t.Context())
	must(t, err)
	if len(days) != 1 {
		t.Fatalf("the days are %+v", days)
	}
	return days[0]
}

func count(t *testing.T, a *archive.Archive) int64 {
	t.Helper()
	must(t, a.Refresh(t.Context()))
	n, err := a.Count(t.Context(), archive.Query{AnyUser: true})
	must(t, err)
	return n
}

// TestRebuildWhileEventsComeIn: an index of an old mapping gets the new one, and none of the
// events that come in meanwhile is lost, repeated or refused, nor seen twice by a search.
func TestRebuildWhileEventsComeIn(t *testing.T) {
	a, url, name := genuine(t)
	day := a.IndexOf(someDay)
	plain(t.Context(), t, http.MethodDelete, url+"/_index_template/"+name, "") // or the index would take a part of its mapping
	plain(t.Context(), t, http.MethodPut, url+"/"+day, `{"mappings":{"dynamic":false,"properties":{"id":{"type":"keyword"},"seq":{"type":"long"},"type":{"type":"keyword"},"userId":{"type":"keyword"},"timestamp":{"type":"date","format":"epoch_millis"}}},"aliases":{"`+name+`":{}}}`)
	must(t, a.Prepare(t.Context()))
	must(t, put(t.Context(), a, 0, 6000))
	plain(t.Context(), t, http.MethodPut, url+"/"+day+"/_doc/foreign", "{\n\"somebody\": \"else's\"\n}")
	if one(t, a).Current {
		t.Fatal("the index has the current mapping at the start")
	}
	ctx, stop := context.WithCancel(t.Context())
	var live sync.WaitGroup
	last, most := 6000, int64(0)
	live.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			if err := put(t.Context(), a, last, last+50); err != nil {
				t.Error(err)
				return
			}
			last += 50
		}
	})
	live.Go(func() {
		before := int64(0)
		for tick := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			n, err := a.Count(t.Context(), archive.Query{AnyUser: true})
			if err != nil || n < before {
				t.Errorf("a search finds %d after %d: %v", n, before, err)
				return
			}
			before, most = n, n
		}
	})
	made := one(t, a).Created
	for range 2 { // an index and then an alias
		docs, err := a.Rebuild(t.Context(), one(t, a), nil)
		must(t, err)
		if docs < 6001 {
			t.Errorf("the copy has %d documents", docs)
		}
	}
	stop()
	live.Wait()
	d := one(t, a)
	if !d.Current || d.Closed || d.Index != name+"_3-"+strings.TrimPrefix(day, name+"-") || d.Name != day {
		t.Errorf("the day is %+v", d)
	}
	if !d.Created.Equal(made) || made.IsZero() {
		t.Errorf("the age counts from %v, before it counted from %v", d.Created, made)
	}
	if n := count(t, a); n != int64(last)+1 || most > n {
		t.Errorf("%d documents, once %d, want %d and one of somebody else", n, most, last)
	}
	page, err := a.Search(t.Context(), archive.Query{AnyUser: true, Text: "e 0000007", Size: 1})
	want := stored(7)
	if err != nil || page.Total != 1 || string(page.Events[0]) != string(want.Raw) {
		t.Errorf("a search by words, which the old index did not have, finds %d, %v, %s", page.Total, err, page.Events)
	}
	if indices := plain(t.Context(), t, http.MethodGet, url+"/_cat/indices/"+name+"*?h=index", ""); strings.TrimSpace(indices) != d.Index {
		t.Errorf("the indices are %s", indices)
	}
}

// TestRebuildInterrupted: a rebuild that is ended changes nothing, one that was killed is mended,
// and then it can be done again.
func TestRebuildInterrupted(t *testing.T) {
	a, url, name := genuine(t)
	must(t, put(t.Context(), a, 0, 3000))
	ctx, stop := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	if _, err := a.Rebuild(ctx, one(t, a), func(n int64) {
		if n >= 1000 {
			stop(enough)
		}
	}); err == nil {
		t.Error("it went on after its context had ended")
	}
	same := func(what string) {
		t.Helper()
		d := one(t, a)
		indices := strings.Fields(plain(t.Context(), t, http.MethodGet, url+"/_cat/indices/"+name+"*?h=index", ""))
		if d.Closed || d.Index != d.Name || len(indices) != 1 {
			t.Errorf("%s: the day is %+v, the indices %v", what, d, indices)
		}
		must(t, put(t.Context(), a, 2990, 3000))
		if n := count(t, a); n != 3000 {
			t.Errorf("%s: %d documents", what, n)
		}
	}
	same("interrupted")

	left := one(t, a) // as a killed process leaves it
	part := strings.Replace(left.Index, name+"-", name+"_2-", 1)
	plain(t.Context(), t, http.MethodPut, url+"/"+part, "")
	plain(t.Context(), t, http.MethodPut, url+"/"+left.Index+"/_block/write", "")
	if d := one(t, a); !d.Closed {
		t.Fatalf("the block is not seen: %+v", d)
	}
	mended, err := a.Mend(t.Context())
	if err != nil || len(mended) != 1 || mended[0] != left.Name {
		t.Errorf("mended %v, %v", mended, err)
	}
	same("mended")

	plain(t.Context(), t, http.MethodPut, url+"/"+part, "")
	plain(t.Context(), t, http.MethodPut, url+"/"+left.Index+"/_block/write", "")
	docs, err := a.Rebuild(t.Context(), one(t, a), nil)
	if err != nil || docs != 3000 {
		t.Fatalf("again: %d documents, %v", docs, err)
	}
	must(t, put(t.Context(), a, 2999, 3001)) // through the alias
	if n := count(t, a); n != 3001 {
		t.Errorf("afterwards: %d documents", n)
	}
	if _, err := a.Rebuild(t.Context(), left, nil); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a rebuild of what it was: %v", err)
	}
	if mended, err := a.Mend(t.Context()); err != nil || len(mended) != 0 {
		t.Errorf("mended what is in use: %v, %v", mended, err)
	}
}

// TestRebuildKeepsAnOperatorsBlock: an index that was closed on purpose stays so.
func TestRebuildKeepsAnOperatorsBlock(t *testing.T) {
	a, url, _ := genuine(t)
	must(t, put(t.Context(), a, 0, 10))
	plain(t.Context(), t, http.MethodPut, url+"/"+one(t, a).Index+"/_block/write", "")
	_, err := a.Rebuild(t.Context(), one(t, a), nil)
	must(t, err)
	if d := one(t, a); !d.Closed || d.Index == d.Name {
		t.Errorf("the day is %+v", d)
	}
}
