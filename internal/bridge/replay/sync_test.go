package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

func TestParseSince(t *testing.T) {
	for in, want := range map[string]since{
		``:                                     {},
		`null`:                                 {},
		`0`:                                    {kind: plain},
		`9007199254740991`:                     {kind: plain, seq: 1<<53 - 1},
		`"now"`:                                {kind: latest},
		`{}`:                                   {},
		`{"user":1,"all":2,"epoch":3}`:         {user: 1, all: 2, epoch: Epochs{User: 3}},
		`{"epoch":{"user":3,"all":4},"all":2}`: {all: 2, epoch: Epochs{3, 4}},
		`{"user":null,"epoch":null,"x":[1]}`:   {},
	} {
		if got, err := parseSince(json.RawMessage(in)); err != nil || got != want {
			t.Errorf("parseSince(%s) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{`-1`, `1.5`, `1e3`, `9007199254740992`, `"7"`, `[7]`, `true`, `{"user":"7"}`, `{"epoch":{"all":-1}}`, `{"user":1,"user":2}`, `{"user":[]}`} {
		if got, err := parseSince(json.RawMessage(in)); err == nil {
			t.Errorf("parseSince(%s) = %+v, want an error", in, got)
		}
	}
}

func FuzzParseSince(f *testing.F) {
	for _, s := range []string{`1`, `{"user":1,"all":2,"epoch":3}`, `{"epoch":{"user":3,"all":4}}`, `null`, `-0`, `00`, `{"user":1e1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSince(b)
		for _, n := range []uint64{s.seq, s.user, s.all, s.epoch.User, s.epoch.All} {
			if err == nil && n >= 1<<53 {
				t.Fatalf("%s became %+v", b, s)
			}
		}
		if err == nil && len(b) > 0 && !json.Valid(b) && s.kind == plain {
			t.Fatalf("%q is not JSON and became %+v", b, s)
		}
	})
}

// fakeJournal holds sets by user; the window reaches back to floor.
type fakeJournal struct {
	sets  map[string][][]byte
	epoch uint64
	fail  error
}

func (j *fakeJournal) Replay(_ context.Context, user string, after uint64, limit int) (journal.Page, error) {
	page := journal.Page{Last: after, Complete: true, Epoch: j.epoch}
	for _, raw := range j.sets[user] {
		it := stamp(raw)
		page.Head = it.seq
		if it.seq <= after {
			continue
		}
		if len(page.Events) == limit {
			page.More = true
			continue
		}
		page.Events, page.Last = append(page.Events, raw), it.seq
	}
	page.Complete = after == 0 || after >= page.Epoch && after <= page.Head
	return page, j.fail
}

func (j *fakeJournal) Lookup(_ context.Context, p int, seqs []uint64) ([]journal.Stored, error) {
	out := make([]journal.Stored, len(seqs))
	for user, set := range j.sets {
		for _, raw := range set {
			if event.Partition(user, "", 16) == p && stamp(raw).seq == seqs[0] {
				out[0].Raw = raw
			}
		}
	}
	return out, j.fail
}

func (j *fakeJournal) Heads(context.Context) ([]journal.Head, error) {
	out := make([]journal.Head, 16)
	for user, set := range j.sets {
		for _, raw := range set {
			h := &out[event.Partition(user, "", 16)]
			h.Seq, h.Epoch = max(h.Seq, stamp(raw).seq), j.epoch
		}
	}
	return out, j.fail
}

const noon = int64(1_700_000_000_000)

func newReplayer(j Journal) *Replayer {
	r := New(Options{Journal: j, Partitions: 16, Registry: prometheus.NewRegistry()})
	r.now = func() time.Time { return time.UnixMilli(noon + 60_000) }
	return r
}

func ask(t *testing.T, s *Replayer, user, arg string) (ids string, in Info) {
	t.Helper()
	got := s.Sync(context.Background(), user, json.RawMessage(arg))
	var names []string
	for _, raw := range got.Events {
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		names = append(names, e.ID)
	}
	if err := json.Unmarshal(got.Info, &in); err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " "), in
}

// The user's partition counts far ahead of the one for everybody, as busy ones do.
func twoSets() *fakeJournal {
	return &fakeJournal{epoch: 1, sets: map[string][][]byte{
		"ana": {stored("ana", "status", 1001, noon), stored("ana", "status", 1002, noon+20_000), stored("ana", "status", 1005, noon+40_000)},
		"*":   {stored("*", "alert", 11, noon+10_000), stored("*", "alert", 12, noon+30_000)},
		"bob": {stored("bob", "status", 500, noon)},
	}}
}

func TestSync(t *testing.T) {
	everything := "ana-1001 *-11 ana-1002 *-12 ana-1005"
	for name, tt := range map[string]struct {
		arg, want string
		complete  bool
	}{
		"nothing seen":                    {`0`, everything, true},
		"no argument":                     {``, everything, true},
		"exact":                           {`{"user":1002,"all":11}`, "*-12 ana-1005", true},
		"exact, up to date":               {`{"user":1005,"all":12}`, "", true},
		"same epoch":                      {`{"user":1002,"all":11,"epoch":1}`, "*-12 ana-1005", true},
		"older epoch":                     {`{"user":2,"all":11,"epoch":77}`, "ana-1001 ana-1002 *-12 ana-1005", false},
		"older epoch of the broadcasts":   {`{"user":1005,"all":2,"epoch":{"user":1,"all":7}}`, "*-11 *-12", false},
		"a number of the user's":          {`1002`, "*-12 ana-1005", true},
		"a number of a broadcast":         {`12`, "ana-1005", true},
		"a number nobody knows":           {`999`, everything, false},
		"a number of somebody else":       {`500`, everything, false},
		"a number that is yet to come":    {`99999999`, everything, false},
		"the first number, an hour later": {`1001`, "*-11 ana-1002 *-12 ana-1005", true},
	} {
		ids, in := ask(t, newReplayer(twoSets()), "ana", tt.arg)
		if ids != tt.want || in.Complete != tt.complete || in.More {
			t.Errorf("%s: %q complete %v more %v; want %q complete %v", name, ids, in.Complete, in.More, tt.want, tt.complete)
		}
		if in.Last == nil || in.Last.User != 1005 && tt.want != "" && strings.Contains(tt.want, "ana") || in.Last.All != 12 && strings.Contains(tt.want, "*") {
			t.Errorf("%s: last is %+v", name, in.Last)
		}
	}
}

func TestSyncGoesOnFromLast(t *testing.T) {
	s := newReplayer(twoSets())
	s.opt.Limit = 1
	var got []string
	arg := `0`
	for range 10 {
		ids, in := ask(t, s, "ana", arg)
		got = append(got, strings.Fields(ids)...)
		b, err := json.Marshal(in.Last)
		if err != nil {
			t.Fatal(err)
		}
		arg = string(b)
		if !in.More {
			break
		}
	}
	if strings.Join(got, " ") != "ana-1001 *-11 ana-1002 *-12 ana-1005" {
		t.Errorf("got %s", got)
	}
}

// TestPlainNumberDoesNotRepeatWhatWasDelivered: the bridge knows in what order it delivered.
func TestPlainNumberDoesNotRepeatWhatWasDelivered(t *testing.T) {
	j := &fakeJournal{epoch: 1, sets: map[string][][]byte{
		"ana": {stored("ana", "status", 1001, noon+100), stored("ana", "status", 1002, noon+400)},
		"*":   {stored("*", "alert", 11, noon), stored("*", "alert", 12, noon+200), stored("*", "alert", 13, noon+300)},
	}}
	s := newReplayer(j)
	if ids, _ := ask(t, s, "ana", `1001`); ids != "*-11 *-12 *-13 ana-1002" {
		t.Errorf("after a restart: %s", ids)
	}
	own, all := event.Partition("ana", "", 16), event.Partition("*", "", 16)
	for _, p := range []place{{all, 11}, {all, 12}, {own, 1001}, {own, 1002}, {all, 13}} { // 12 overtook 1001
		s.recent.add(p)
	}
	if ids, in := ask(t, s, "ana", `1001`); ids != "*-13 ana-1002" || !in.Complete {
		t.Errorf("since the user's: %s %+v", ids, in)
	}
	if ids, in := ask(t, s, "ana", `12`); ids != "ana-1001 *-13 ana-1002" || !in.Complete {
		t.Errorf("since a broadcast: %s %+v", ids, in)
	}
}

// TestPlainNumberAndAPartitionThatWaited: the broadcasts waited for the journal for longer than
// the slack, while the user's own went on.
func TestPlainNumberAndAPartitionThatWaited(t *testing.T) {
	j := &fakeJournal{epoch: 1, sets: map[string][][]byte{
		"ana": {stored("ana", "status", 1001, noon+20_000)},
		"*":   {stored("*", "alert", 11, noon), stored("*", "alert", 12, noon+1000), stored("*", "alert", 13, noon+2000)},
	}}
	s := newReplayer(j)
	own, all := event.Partition("ana", "", 16), event.Partition("*", "", 16)
	for _, p := range []place{{all, 11}, {own, 1001}, {all, 12}, {all, 13}} {
		s.recent.add(p)
	}
	if ids, in := ask(t, s, "ana", `1001`); ids != "*-12 *-13" || !in.Complete {
		t.Errorf("since the user's: %s %+v", ids, in)
	}
}

func TestPlainNumberOutsideTheWindow(t *testing.T) {
	s := newReplayer(twoSets())
	s.now = func() time.Time { return time.UnixMilli(noon).Add(5*time.Minute + 25*time.Second) }
	if ids, in := ask(t, s, "ana", `1002`); in.Complete || !strings.Contains(ids, "ana-1005") {
		t.Errorf("%s complete %v: broadcasts before the window cannot be ruled out", ids, in.Complete)
	}
	s = newReplayer(twoSets())
	s.opt.Limit = 2
	if _, in := ask(t, s, "ana", `1001`); in.Complete {
		t.Errorf("%+v: the bound on a set may have cut broadcasts off", in)
	}
}

func TestSyncThatCannot(t *testing.T) {
	s := newReplayer(&fakeJournal{fail: fault.Errorf("", fault.Unavailable, "redis is away: secret")})
	if ids, in := ask(t, s, "ana", `7`); ids != "" || in.Complete || in.Error == "" || strings.Contains(in.Error, "secret") || in.Last != nil {
		t.Errorf("%q %+v", ids, in)
	}
	if ids, in := ask(t, s, "ana", `"x"`); ids != "" || in.Complete || !strings.Contains(in.Error, "lastSeq") {
		t.Errorf("%q %+v", ids, in)
	}
	for outcome, want := range map[string]float64{"failed": 1, "invalid": 1} {
		if got := testutil.ToFloat64(s.m.syncs.WithLabelValues(outcome)); got != want {
			t.Errorf("%s counted %v", outcome, got)
		}
	}
}

// TestMerge: every event once, each set in its own order, and the rest after a cut is what the
// next answer begins with.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(user string) *set {
			s := &set{}
			at := int64(1)
			for i := range rapid.IntRange(0, 12).Draw(t, user) {
				at += int64(rapid.IntRange(0, 3).Draw(t, "later"))
				s.items = append(s.items, item{raw: fmt.Appendf(nil, "%s%d", user, i+1), seq: uint64(i + 1), at: at})
				s.last = uint64(i + 1)
			}
			return s
		}
		own, all := draw("u"), draw("a")
		events, cut := merge(own, all)
		var perSet [2]int
		for _, it := range events {
			k := map[byte]int{'u': 0, 'a': 1}[it.raw[0]]
			perSet[k]++
			if want := fmt.Sprintf("%c%d", it.raw[0], perSet[k]); string(it.raw) != want || it.all != (k == 1) {
				t.Fatalf("%s in place of %s", it.raw, want)
			}
		}
		if cut || perSet[0] != len(own.items) || perSet[1] != len(all.items) {
			t.Fatalf("%v of %d and %d, cut %v", perSet, len(own.items), len(all.items), cut)
		}
	})
}

func TestMergeStopsAtItsBytes(t *testing.T) {
	big := make([]byte, syncBytes/2+1)
	own := &set{last: 3, items: []item{{raw: big, seq: 1, at: 1}, {raw: big, seq: 2, at: 3}, {raw: big, seq: 3, at: 5}}}
	all := &set{last: 9, items: []item{{raw: big, seq: 8, at: 2}, {raw: big, seq: 9, at: 4}}}
	events, cut := merge(own, all)
	if len(events) != 2 || !cut || own.last != 1 || all.last != 8 {
		t.Errorf("%d events, cut %v, last %d and %d", len(events), cut, own.last, all.last)
	}
}

func TestStamp(t *testing.T) {
	for raw, want := range map[string]int64{
		`{"seq":5,"processedAt":1700000000123,"timestamp":1}`:        1700000000123,
		`{"seq":5,"processedAt":"2023-11-14T22:13:20.123Z"}`:         1700000000123,
		`{"seq":5,"processedAt":"yesterday","timestamp":1700000000}`: 1700000000,
		`{"seq":5,"timestamp":42.9}`:                                 42,
		`{"seq":5,"processedAt":[1]}`:                                0,
	} {
		if got := stamp([]byte(raw)); got.at != want || got.seq != 5 {
			t.Errorf("stamp(%s) = %+v, want %d", raw, got, want)
		}
	}
}
