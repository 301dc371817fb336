// Package e2e tells the whole: real programs, real sockets, real servers, real input.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/test/harness"
)

var bin string // the built programs

// builtBin names the built programs to tests that run once more in a process of their own.
const builtBin = "EVENTSPINE_E2E_BIN"

func TestMain(m *testing.M) {
	if bin = os.Getenv(builtBin); bin != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "eventspine-bin-")
	if err == nil {
		err = harness.Build(context.Background(), dir, os.Getenv("EVENTSPINE_E2E_RACE") != "")
	}
	if err == nil {
		err = os.Setenv(builtBin, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// world is one way to run a story: which servers and which browsers.
type world struct {
	name     string
	redis    func(*testing.T) string // "" is the embedded one
	es       func(*testing.T) string
	browsers func(*testing.T) browsers
}

var embedded = world{
	name:     "embedded servers",
	redis:    func(*testing.T) string { return "" },
	es:       func(*testing.T) string { return "" },
	browsers: func(*testing.T) browsers { return goBrowsers{} },
}

var real = world{
	name:     "real servers",
	redis:    realRedis,
	es:       realElasticsearch,
	browsers: func(t *testing.T) browsers { return startNode(t, "sio2") },
}

func worlds(t *testing.T) []world {
	t.Helper()
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
		t.Log("only the embedded servers: make test runs this with real ones too")
		return []world{embedded}
	}
	return []world{embedded, real}
}

func realRedis(t *testing.T) string {
	t.Helper()
	p, url, err := harness.Redis(t.Context(), t.TempDir(), "--appendonly", "no")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(5 * time.Second) })
	return url
}

func realElasticsearch(t *testing.T) string {
	t.Helper()
	url := os.Getenv("EVENTSPINE_TEST_ES")
	if url == "" {
		t.Fatal("EVENTSPINE_TEST_ES is empty; make test starts an Elasticsearch and sets it")
	}
	return url
}

func start(t *testing.T, w world, workers int) *harness.System {
	t.Helper()
	return startWith(t, harness.Options{Workers: workers, Redis: w.redis(t), ES: w.es(t)})
}

func startWith(t *testing.T, o harness.Options) *harness.System {
	t.Helper()
	o.Bin, o.Dir = bin, t.TempDir()
	s, err := harness.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Log(s.Logs())
		}
	})
	return s
}

// post sends one request and returns the status and the body.
func post(t *testing.T, url, token, contentType string, body []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", contentType)
	return do(t, r)
}

func do(t *testing.T, r *http.Request) (int, []byte) {
	t.Helper()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, body
}

type input struct {
	ID     string          `json:"id"`
	Type   string          `json:"type"`
	UserID string          `json:"userId"`
	Time   int64           `json:"timestamp"`
	Data   json.RawMessage `json:"data"`
	line   []byte
}

func (e input) category() string {
	c, _, _ := strings.Cut(e.Type, ".")
	return c
}

func (e input) deliverable() bool {
	return slices.Contains([]string{"notification", "status", "alert"}, e.category()) && e.UserID != ""
}

// webhooks is the real input: 329 GitHub webhook payloads. mark makes ids and user names of
// this run unlike those of any other, so that tests can share an Elasticsearch.
func webhooks(t *testing.T, mark string) []input {
	t.Helper()
	text, err := os.ReadFile("../../testdata/github-webhooks.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	var out []input
	for line := range bytes.Lines(text) {
		var all map[string]json.RawMessage
		var e input
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(line, &all); err != nil {
			t.Fatal(err)
		}
		e.ID += mark
		all["id"] = []byte(fmt.Sprintf("%q", e.ID))
		if e.UserID != "*" {
			e.UserID += mark
			all["userId"] = []byte(fmt.Sprintf("%q", e.UserID))
		}
		if e.line, err = json.Marshal(all); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	if len(out) != 329 {
		t.Fatalf("the real input has %d events, not 329", len(out))
	}
	return out
}

// eventually fails the test when cond does not hold within limit; say tells what was there.
func eventually(t *testing.T, limit time.Duration, cond func() bool, say func() string) {
	t.Helper()
	err := harness.Until(t.Context(), limit, func() error {
		if !cond() {
			return fmt.Errorf("%s", say())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRealInput is the main job: every event in the index once with its fields, each
// addressee got each of its deliverable events once and in order, and a client that was away
// during the second half got the rest by sync.
func TestRealInput(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			mark := fmt.Sprintf("-%d", time.Now().UnixNano())
			s := start(t, w, 2)
			realInput(t, s, w.browsers(t), webhooks(t, mark), "*"+mark)
		})
	}
}

func realInput(t *testing.T, s *harness.System, b browsers, events []input, stranger string) {
	users := map[string]browser{stranger: nil}
	for _, e := range events {
		if e.UserID != "*" {
			users[e.UserID] = nil
		}
	}
	for u := range users {
		users[u] = b.connect(t, s.BridgeURL, s.Token(u))
	}
	busiest := busiestUser(events)
	away := b.connect(t, s.BridgeURL, s.Token(busiest))

	half := len(events) / 2
	send(t, s, events[:half])
	waitLive(t, away, events[:half], busiest)
	before := away.events()
	away.drop()
	send(t, s, events[half:])
	for u, c := range users {
		waitLive(t, c, events, u)
		checkBrowser(t, u, c.events(), events)
	}

	back := b.connect(t, s.BridgeURL, s.Token(busiest))
	missed, complete := back.sync(t, lastSeq(before))
	if !complete {
		t.Error("sync inside the window says that it is not complete")
	}
	checkBrowser(t, busiest, append(before, missed...), events)

	checkIndex(t, s, events)
	checkJournal(t, s, events)

	send(t, s, events) // a producer that repeats everything
	send(t, s, nil)
	checkJournal(t, s, events)
	for u, c := range users {
		checkBrowser(t, u, c.events(), events)
	}
	checkIndex(t, s, events)
}

func busiestUser(events []input) string {
	n := map[string]int{}
	best := ""
	for _, e := range events {
		if n[e.UserID]++; e.UserID != "*" && n[e.UserID] > n[best] {
			best = e.UserID
		}
	}
	return best
}

// send posts the events in order: every third as one request, the others in small batches,
// as NDJSON and as an array by turns, and ends with a marker event that it waits for, so that
// all before it have gone the same way.
func send(t *testing.T, s *harness.System, events []input) {
	t.Helper()
	token := s.Token("sender", "emit")
	for i := 0; i < len(events); {
		n := min([]int{1, 7, 16}[i%3], len(events)-i)
		var status int
		var body []byte
		switch group := lines(events[i : i+n]); {
		case n == 1:
			status, body = post(t, s.APIURL+"/api/events", token, "application/json", group[0])
		case i%2 == 0:
			status, body = post(t, s.APIURL+"/api/events/batch", token, "application/x-ndjson", bytes.Join(group, []byte("\n")))
		default:
			array := append(append([]byte("["), bytes.Join(group, []byte(","))...), ']')
			status, body = post(t, s.APIURL+"/api/events/batch", token, "application/json", array)
		}
		if status != http.StatusAccepted {
			t.Fatalf("POST of %d events: %d %s", n, status, body)
		}
		i += n
	}
	settle(t, s, token)
}

func lines(events []input) [][]byte {
	out := make([][]byte, len(events))
	for i, e := range events {
		out[i] = e.line
	}
	return out
}

// settle sends one event into every partition and waits until the journal holds them: what
// was sent before them is stored by then, because a partition is stored in order.
func settle(t *testing.T, s *harness.System, token string) {
	t.Helper()
	heads := journalHeads(t, s)
	for p := range heads {
		user := userIn(p, len(heads))
		body := fmt.Sprintf(`{"type":"debug2.settle","userId":%q}`, user)
		if status, answer := post(t, s.APIURL+"/api/events", token, "application/json", []byte(body)); status != http.StatusAccepted {
			t.Fatalf("settle: %d %s", status, answer)
		}
	}
	eventually(t, 20*time.Second, func() bool {
		for p, now := range journalHeads(t, s) {
			if now <= heads[p] {
				return false
			}
		}
		return true
	}, func() string { return "the journal does not move" })
}

func openJournal(t *testing.T, s *harness.System) *journal.Journal {
	t.Helper()
	c, err := rdb.Open(s.Redis)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return journal.New(c, journal.DefaultOptions())
}

func journalHeads(t *testing.T, s *harness.System) []uint64 {
	t.Helper()
	j := openJournal(t, s)
	out := make([]uint64, journal.DefaultOptions().Partitions)
	for p := range out {
		seq, _, err := j.Head(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		out[p] = seq
	}
	return out
}

// own are the events of the list that the user's browsers should get.
func own(events []input, user string) (mine, everybody []string) {
	for _, e := range events {
		switch {
		case !e.deliverable():
		case e.UserID == user:
			mine = append(mine, e.ID)
		case e.UserID == "*":
			everybody = append(everybody, e.ID)
		}
	}
	return mine, everybody
}

func waitLive(t *testing.T, c browser, events []input, user string) {
	t.Helper()
	mine, everybody := own(events, user)
	want := len(mine) + len(everybody)
	eventually(t, 20*time.Second, func() bool { return len(c.events()) >= want },
		func() string { return fmt.Sprintf("%s got %d of %d events", user, len(c.events()), want) })
}

// checkBrowser wants exactly the user's events, once, its own and the broadcasts each in order.
func checkBrowser(t *testing.T, user string, got []seen, events []input) {
	t.Helper()
	mine, everybody := own(events, user)
	var gotMine, gotAll []string
	for _, g := range got {
		switch g.UserID {
		case "*":
			gotAll = append(gotAll, g.ID)
		case user:
			gotMine = append(gotMine, g.ID)
		default:
			t.Errorf("%s got an event of %s", user, g.UserID)
		}
		if g.Name != "" && !strings.HasPrefix(g.Type, g.Name+".") {
			t.Errorf("%s got %s under the name %s", user, g.Type, g.Name)
		}
	}
	if !slices.Equal(gotMine, mine) {
		t.Errorf("%s got %d own events, want %d in this order\n got %v\nwant %v", user, len(gotMine), len(mine), gotMine, mine)
	}
	if !slices.Equal(gotAll, everybody) {
		t.Errorf("%s got broadcasts %v, want %v", user, gotAll, everybody)
	}
}

func lastSeq(events []seen) uint64 {
	var last uint64
	for _, e := range events {
		if e.UserID != "*" {
			last = max(last, e.Seq)
		}
	}
	return last
}

type page struct {
	Total  int64             `json:"total"`
	Events []json.RawMessage `json:"events"`
	Next   string            `json:"next"`
}

// ask sends one search and returns the status and the body.
func ask(t *testing.T, s *harness.System, token string, q url.Values) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.APIURL+"/api/search?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return do(t, r)
}

func search(t *testing.T, s *harness.System, token string, q url.Values) page {
	t.Helper()
	status, body := ask(t, s, token, q)
	var out page
	if status != http.StatusOK {
		t.Fatalf("search %s: %d %s", q.Encode(), status, body)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// indexed reads every event that the index holds of these users.
func indexed(t *testing.T, s *harness.System, events []input) map[string][]json.RawMessage {
	t.Helper()
	wanted := map[string]bool{}
	users := map[string]bool{}
	for _, e := range events {
		wanted[e.ID], users[e.UserID] = true, true
	}
	out := map[string][]json.RawMessage{}
	for u := range users {
		q := url.Values{"userId": {u}, "size": {"200"}, "from": {"1"}}
		for {
			p := search(t, s, s.Token("root", "admin"), q)
			for _, raw := range p.Events {
				if id := look("", raw).ID; wanted[id] {
					out[id] = append(out[id], raw)
				}
			}
			if p.Next == "" {
				break
			}
			q.Set("after", p.Next)
		}
	}
	return out
}

// checkIndex wants every event in the index once, with its fields as they were posted.
func checkIndex(t *testing.T, s *harness.System, events []input) {
	t.Helper()
	var got map[string][]json.RawMessage
	eventually(t, 20*time.Second, func() bool { got = indexed(t, s, events); return len(got) >= len(events) },
		func() string { return fmt.Sprintf("%d of %d events in the index", len(got), len(events)) })
	for _, e := range events {
		docs := got[e.ID]
		if len(docs) != 1 {
			t.Errorf("%s is in the index %d times", e.ID, len(docs))
			continue
		}
		var doc input
		var added struct {
			Processed   bool   `json:"processed"`
			ProcessedAt int64  `json:"processedAt"`
			Seq         uint64 `json:"seq"`
			Epoch       uint64 `json:"epoch"`
		}
		if err := json.Unmarshal(docs[0], &doc); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(docs[0], &added); err != nil {
			t.Fatal(err)
		}
		if doc.Type != e.Type || doc.UserID != e.UserID || doc.Time != e.Time || !sameJSON(t, doc.Data, e.Data) {
			t.Errorf("%s is not in the index as it was posted: %.300s", e.ID, docs[0])
		}
		if !added.Processed || added.ProcessedAt == 0 || added.Seq == 0 || added.Epoch == 0 {
			t.Errorf("%s lacks what the worker adds: %+v", e.ID, added)
		}
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	one, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	two, err := json.Marshal(y)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(one, two)
}

// checkJournal wants every event in Redis once, with contiguous numbers in each partition.
func checkJournal(t *testing.T, s *harness.System, events []input) {
	t.Helper()
	times := readJournal(t, s, func(p int, last, next uint64) {
		if next != last+1 {
			t.Errorf("partition %d jumps from %d to %d", p, last, next)
		}
	})
	for _, e := range events {
		if times[e.ID] != 1 {
			t.Errorf("%s is in the journal %d times", e.ID, times[e.ID])
		}
	}
}

// readJournal counts how often each event is in Redis, and shows each step from one number of a
// partition to the next.
func readJournal(t *testing.T, s *harness.System, step func(p int, last, next uint64)) map[string]int {
	t.Helper()
	j := openJournal(t, s)
	times := map[string]int{}
	for p := range journal.DefaultOptions().Partitions {
		var last uint64
		for {
			list, err := j.Read(t.Context(), p, last, 100)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			for _, raw := range list {
				e := look("", raw)
				if last != 0 {
					step(p, last, e.Seq)
				}
				last = e.Seq
				times[e.ID]++
			}
		}
	}
	return times
}
