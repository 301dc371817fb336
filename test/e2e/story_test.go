package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"eventspine/test/harness"
)

// TestStories runs every file of testdata/*.story: one line a step, read by person and machine.
//
//	connect NAME              a browser of that user; after a drop, one that knows its last number
//	send id=.. user=.. type=..  an event
//	expect NAME ID...         the next events NAME gets live, in this order
//	sync NAME ID...           NAME asks for what it missed and gets this, in this order
//	silent NAME DURATION      NAME gets nothing for that long
//	drop NAME                 its connection goes
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.story")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			s := start(t, w, 1)
			b := w.browsers(t)
			for _, f := range files {
				t.Run(strings.TrimSuffix(filepath.Base(f), ".story"), func(t *testing.T) { tell(t, s, b, f) })
			}
		})
	}
}

// story is the state of one run of one file.
type story struct {
	s     *harness.System
	all   browsers
	mark  string // makes users and ids of this run its own
	open  map[string]browser
	taken map[string]int    // live events already expected, by name
	last  map[string]uint64 // the highest number seen, by name
}

func tell(t *testing.T, s *harness.System, all browsers, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	st := &story{s, all, fmt.Sprintf("-%d", time.Now().UnixNano()), map[string]browser{}, map[string]int{}, map[string]uint64{}}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if words := strings.Fields(text); len(words) > 0 {
			st.step(t, fmt.Sprintf("%s:%d: %s", file, n, strings.TrimSpace(text)), words)
		}
	}
}

func (st *story) step(t *testing.T, at string, words []string) {
	t.Helper()
	t.Log(at)
	name := words[1]
	switch words[0] {
	case "connect":
		st.open[name], st.taken[name] = st.all.connect(t, st.s.BridgeURL, harness.Token(name+st.mark)), 0
	case "send":
		st.send(t, at, words[1:])
	case "expect":
		st.expect(t, at, name, words[2:])
	case "sync":
		st.sync(t, at, name, words[2:])
	case "silent":
		st.silent(t, at, name, words[2])
	case "drop":
		st.open[name].drop()
		delete(st.open, name)
	default:
		t.Fatalf("%s: no such step", at)
	}
}

func (st *story) send(t *testing.T, at string, fields []string) {
	t.Helper()
	f := map[string]string{}
	for _, w := range fields {
		k, v, _ := strings.Cut(w, "=")
		f[k] = v
	}
	if f["user"] != "*" {
		f["user"] += st.mark
	}
	body := fmt.Sprintf(`{"id":%q,"type":%q,"userId":%q}`, f["id"]+st.mark, f["type"], f["user"])
	if status, answer := post(t, st.s.APIURL+"/api/events", harness.Token("teller", "emit"), "application/json", []byte(body)); status != http.StatusAccepted {
		t.Fatalf("%s: %d %s", at, status, answer)
	}
}

func (st *story) ids(events []seen, name string) []string {
	var out []string
	for _, e := range events {
		out = append(out, strings.TrimSuffix(e.ID, st.mark))
		if e.UserID != "*" {
			st.last[name] = max(st.last[name], e.Seq)
		}
	}
	return out
}

func (st *story) expect(t *testing.T, at, name string, want []string) {
	t.Helper()
	var got []string
	eventually(t, 10*time.Second, func() bool {
		got = st.ids(st.open[name].events()[st.taken[name]:], name)
		return len(got) >= len(want)
	}, func() string { return fmt.Sprintf("%s: got %v", at, got) })
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v", at, got)
	}
	st.taken[name] += len(want)
}

func (st *story) sync(t *testing.T, at, name string, want []string) {
	t.Helper()
	events, complete := st.open[name].sync(t, st.last[name])
	if got := st.ids(events, name); !slices.Equal(got, want) || !complete {
		t.Fatalf("%s: got %v, complete %v", at, got, complete)
	}
}

func (st *story) silent(t *testing.T, at, name, limit string) {
	t.Helper()
	d, err := time.ParseDuration(limit)
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	err = harness.Until(t.Context(), d, func() error {
		if len(st.open[name].events()) > st.taken[name] {
			return nil
		}
		return fmt.Errorf("nothing")
	})
	if err == nil {
		t.Fatalf("%s: got %v", at, st.ids(st.open[name].events()[st.taken[name]:], name))
	}
}
