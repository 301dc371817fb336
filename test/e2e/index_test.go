package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"eventspine/internal/archive"
	embeddedsearch "eventspine/internal/embedded/search"
	"eventspine/test/harness"
)

// rough stands in front of Elasticsearch and does to bulk requests what `now` says.
type rough struct {
	*httptest.Server
	now    atomic.Value // string
	faults atomic.Int64
}

// roughly are the moods of rough.
var roughly = []string{"fine", "429", "503", "404", "hang", "cut before", "cut after", "some 429", "short", "nonsense"}

func newRough(t *testing.T, es string) *rough {
	t.Helper()
	at, err := url.Parse(es)
	if err != nil {
		t.Fatal(err)
	}
	r := &rough{}
	r.now.Store("fine")
	back := httputil.NewSingleHostReverseProxy(at)
	back.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mood := r.now.Load().(string)
		if !strings.HasSuffix(q.URL.Path, "/_bulk") || mood == "fine" {
			back.ServeHTTP(w, q)
			return
		}
		r.faults.Add(1)
		r.spoil(w, q, mood, back)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *rough) spoil(w http.ResponseWriter, q *http.Request, mood string, back http.Handler) {
	real := func() []byte { // what Elasticsearch said, after it did it
		rec := httptest.NewRecorder()
		back.ServeHTTP(rec, q)
		return rec.Body.Bytes()
	}
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	switch mood {
	case "429", "503", "404":
		_, _ = io.Copy(io.Discard, q.Body)
		w.WriteHeader(map[string]int{"429": 429, "503": 503, "404": 404}[mood])
	case "hang":
		for r.now.Load() == "hang" && q.Context().Err() == nil {
			<-time.After(10 * time.Millisecond)
		}
		panic(http.ErrAbortHandler)
	case "cut before":
		panic(http.ErrAbortHandler)
	case "cut after":
		real()
		panic(http.ErrAbortHandler)
	case "some 429":
		var answer struct {
			Errors bool                                    `json:"errors"`
			Items  []map[string]map[string]json.RawMessage `json:"items"`
		}
		if json.Unmarshal(real(), &answer) != nil {
			panic(http.ErrAbortHandler)
		}
		for i := range answer.Items {
			if i%3 == 0 {
				answer.Items[i]["create"] = map[string]json.RawMessage{"status": json.RawMessage("429")}
			}
		}
		_ = json.NewEncoder(w).Encode(answer)
	case "short":
		b := real()
		_, _ = w.Write(b[:len(b)/2])
	case "nonsense":
		real()
		_, _ = io.WriteString(w, "<html>a proxy's page</html>")
	}
}

// inIndex is how often each id of the type is in the index.
func inIndex(t *testing.T, a *archive.Archive, typ string) map[string]int {
	t.Helper()
	if err := a.Refresh(t.Context()); err != nil {
		t.Log(err)
	}
	found := map[string]int{}
	for q := (archive.Query{AnyUser: true, Type: typ, Size: archive.MaxSize, Ascending: true}); ; {
		p, err := a.Search(t.Context(), q)
		if err != nil {
			return found
		}
		for _, raw := range p.Events {
			var e struct{ ID string }
			if json.Unmarshal(raw, &e) == nil {
				found[e.ID]++
			}
		}
		if q.After = p.Next; p.Next == "" {
			return found
		}
	}
}

// TestIndexerMissesNothing sends events all the time, while Elasticsearch refuses, hangs, cuts
// answers off or lies about single documents, and the indexer is killed in the middle of its
// bulk requests: at the end every accepted event is in the index, once.
func TestIndexerMissesNothing(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			es, each := w.es(t), 20
			if es == "" {
				each = 10 // with the race detector, the embedded index is slow
				e, err := embeddedsearch.Start(t.Context(), embeddedsearch.Options{Dir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = e.Close() })
				es = e.URL()
			}
			missesNothing(t, w, es, each)
		})
	}
}

// missesNothing posts batches of so many events each.
func missesNothing(t *testing.T, w world, es string, each int) {
	front := newRough(t, es)
	s := startWith(t, harness.Options{Redis: w.redis(t), ES: front.URL, Env: []string{"INDEXER_SPOOL_AFTER=200ms", "INDEXER_QUEUE_BYTES=1MiB", "ES_TIMEOUT=1s"}})
	typ := fmt.Sprintf("kill.t%d", time.Now().UnixNano())
	accepted := 0
	stop := make(chan struct{})
	var producer sync.WaitGroup
	producer.Go(func() {
		every(20*time.Millisecond, stop, func() {
			var b bytes.Buffer
			for i := range each {
				fmt.Fprintf(&b, `{"id":"%s-%d","type":%q,"userId":"user-%d","data":{"n":%d}}`+"\n", typ, accepted+i, typ, i, accepted+i)
			}
			r, err := http.NewRequest(http.MethodPost, s.APIURL+"/api/events/batch", &b)
			if err != nil {
				return
			}
			r.Header.Set("Authorization", "Bearer "+harness.Token("sender", "emit"))
			r.Header.Set("Content-Type", "application/x-ndjson")
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				return
			}
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusAccepted {
				accepted += each
			}
		})
	})
	kills := 0
	for i, mood := range append(append(roughly, "fine"), roughly...) {
		front.now.Store(mood)
		<-time.After(time.Duration(300+rand.IntN(400)) * time.Millisecond)
		if i%4 == 3 {
			if err := s.Indexer.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			kills++
			<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
			if err := s.Indexer.Start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	front.now.Store("fine")
	close(stop)
	producer.Wait()
	a, err := archive.New(archive.Options{URLs: []string{es}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var n int64
	eventually(t, 60*time.Second, func() bool {
		if err := a.Refresh(t.Context()); err != nil {
			return false
		}
		n, err = a.Count(t.Context(), archive.Query{AnyUser: true, Type: typ})
		return err == nil && n >= int64(accepted)
	}, func() string {
		return fmt.Sprintf("%d of %d accepted events are in the index (%v)", n, accepted, err)
	})
	found := inIndex(t, a, typ)
	if len(found) < accepted {
		t.Errorf("%d of %d accepted events are found in the index", len(found), accepted)
	}
	for id, n := range found {
		if n != 1 {
			t.Errorf("%s is in the index %d times", id, n)
		}
	}
	if accepted < 1000 || front.faults.Load() < 20 || kills < 5 {
		t.Errorf("only %d events, %d spoiled requests, %d kills", accepted, front.faults.Load(), kills)
	}
	t.Logf("%d events, %d spoiled requests, %d kills", accepted, front.faults.Load(), kills)
}

// TestDeadLettersOfASystem: an event that Elasticsearch refuses is a dead letter with its reason in the
// index and in the file, and nothing waits for it.
func TestDeadLettersOfASystem(t *testing.T) {
	if len(worlds(t)) == 1 {
		return // the embedded index refuses nothing that the archive makes
	}
	es := realElasticsearch(t)
	front := newRefuser(t, es)
	s := startWith(t, harness.Options{ES: front.URL})
	id := fmt.Sprintf("dead-%d", time.Now().UnixNano())
	token := harness.Token("sender", "emit")
	for _, body := range []string{`{"id":"` + id + `","type":"order.poison","userId":"7","data":{"poison":"` + front.word + `"}}`, `{"id":"` + id + `-b","type":"order.created","userId":"7"}`} {
		if status, answer := post(t, s.APIURL+"/api/events", token, "application/json", []byte(body)); status != http.StatusAccepted {
			t.Fatalf("POST: %d %s", status, answer)
		}
	}
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "eventspine"), append([]string{"deadletters"}, args...)...)
		cmd.Env = append(cmd.Environ(), "ES_HOST="+es)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	eventually(t, 20*time.Second, func() bool { return strings.Contains(run("show", id), "poisoned by the test") }, func() string { return run("show", id) + run("list") })
	if out := run("retry", id); !strings.Contains(out, "is indexed") {
		t.Errorf("retry: %s", out)
	}
	if out := run("show", id); !strings.Contains(out, "no dead letter") {
		t.Errorf("it is still there: %s", out)
	}
	a, err := archive.New(archive.Options{URLs: []string{es}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	eventually(t, 20*time.Second, func() bool { f := inIndex(t, a, "order.*"); return f[id] == 1 && f[id+"-b"] == 1 }, func() string { return "the two events are not in the index" })
}

// refuser is an Elasticsearch that refuses documents with a word, and takes all others.
type refuser struct {
	*httptest.Server
	word string
}

func newRefuser(t *testing.T, es string) *refuser {
	t.Helper()
	at, err := url.Parse(es)
	if err != nil {
		t.Fatal(err)
	}
	f := &refuser{word: fmt.Sprintf("w%d", time.Now().UnixNano())}
	back := httputil.NewSingleHostReverseProxy(at)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, "/_bulk") {
			b, _ := io.ReadAll(q.Body)
			if bytes.Contains(b, []byte(f.word)) && !bytes.Contains(b, []byte("events-dead")) {
				w.Header().Set("X-Elastic-Product", "Elasticsearch")
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"error":{"type":"poison","reason":"poisoned by the test"},"status":400}`)
				return
			}
			q.Body = io.NopCloser(bytes.NewReader(b))
		}
		back.ServeHTTP(w, q)
	}))
	t.Cleanup(f.Close)
	return f
}
