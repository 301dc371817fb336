package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"eventspine/internal/event"
	"eventspine/internal/fanout"
	"eventspine/internal/ingest"
	"eventspine/internal/journal"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

// ack waits for the next answer to source api-1.
func (s *stage) ack(t testing.TB) ingest.Ack {
	t.Helper()
	a, err := ingest.ParseAck(s.reserved(t, event.TopicAck+"api-1"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (s *stage) wantAck(t testing.TB, round, last uint64, nak bool) ingest.Ack {
	t.Helper()
	a := s.ack(t)
	if a.Round != round || a.Last != last || a.Nak != nak || a.Generation != 7 || a.Epoch == 0 {
		t.Fatalf("answer %+v, want round %d, last %d, nak %v", a, round, last, nak)
	}
	return a
}

// frames is the batch of numbers first to last of api-1's log for the partition of ana.
func frames(round, first, last int, flags string) []string {
	out := []string{fmt.Sprintf("B2 api-1 7 %d %d %d %s", event.Partition("ana", "", 16), round, first, flags)}
	for n := first; n <= last; n++ {
		out = append(out, fmt.Sprintf(`{"id":"e%d","type":"notification.x","userId":"ana"}`, n))
	}
	return out
}

// The whole of it: a batch, a repeat, a gap and the way back, a question, and who waits.
func TestNumberedBatchesAreAnswered(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		w := s.worker(t, nil)
		p := pusher(t, w.Endpoint())
		push(t, p, frames(0, 1, 0, "-")...)
		epoch := s.wantAck(t, 0, 0, false).Epoch
		push(t, p, frames(0, 1, 3, "-")...)
		if a := s.wantAck(t, 0, 3, false); a.Seqs != nil || a.Epoch != epoch || a.Partition != event.Partition("ana", "", 16) {
			t.Errorf("answer %+v", a)
		}
		push(t, p, frames(0, 5, 6, "-")...)
		s.wantAck(t, 0, 3, true)
		push(t, p, frames(1, 2, 6, "W")...)
		if a := s.wantAck(t, 1, 6, false); a.First != 2 || !slices.Equal(a.Seqs, []uint64{epoch + 2, epoch + 3, epoch + 4, epoch + 5, epoch + 6}) {
			t.Errorf("answer %+v", a)
		}
		push(t, p, frames(1, 9, 0, "-")...)
		if a := s.wantAck(t, 1, 6, false); a.First != 9 || a.Seqs != nil {
			t.Errorf("the answer to a question is %+v", a)
		}
		push(t, p, frames(2, 9, 9, "SR")...) // 7 and 8 are nowhere any more
		s.wantAck(t, 2, 9, false)
		if n := testutil.ToFloat64(w.m.lost); n != 2 || !strings.Contains(w.log.String(), "no longer had events") {
			t.Errorf("%v events are counted as lost", n)
		}
		events, err := w.journal.Read(within(t), event.Partition("ana", "", 16), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, raw := range events {
			e, err := event.ParseStored(raw)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.ID)
			if e.Redelivered != (e.ID == "e9") {
				t.Errorf("%s", raw)
			}
		}
		if want := []string{"e1", "e2", "e3", "e4", "e5", "e6", "e9"}; !slices.Equal(got, want) {
			t.Errorf("stored %v, want %v", got, want)
		}
	})
}

// What rules drop, what is malformed and what repeats an id moves the number on all the same.
func TestNumbersMoveOnOverWhatIsNotStored(t *testing.T) {
	s := newStage(t, testkit.Miniredis(t))
	w := s.worker(t, nil)
	p := pusher(t, w.Endpoint())
	push(t, p, frames(0, 1, 0, "-")[0], `{"id":"d","type":"debug.x","userId":"ana"}`, `no event`, `{"id":"o","type":"order.created","userId":"ana"}`,
		`{"id":"o","type":"order.created","userId":"ana"}`)
	s.wantAck(t, 0, 4, false)
	push(t, p, append([]string{frames(0, 5, 0, "W")[0]}, `{"id":"debug","type":"debug.x","userId":"ana"}`, `{"id":"o","type":"a.b","userId":"ana"}`, `{"id":"z","type":"a.b","userId":"ana"}`)...)
	a := s.wantAck(t, 0, 7, false)
	if e := a.Epoch; !slices.Equal(a.Seqs, []uint64{0, e + 1, e + 3}) || a.First != 5 {
		t.Errorf("answer %+v", a)
	}
}

// A Redis that lost everything does not know the source, whatever was answered before.
func TestAWipedRedisIsToldBySeqAndRefusal(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		w := s.worker(t, nil)
		p := pusher(t, w.Endpoint())
		push(t, p, frames(0, 1, 3, "-")...)
		before := s.wantAck(t, 0, 3, false)
		wipe(t, url)
		push(t, p, frames(0, 4, 4, "-")...)
		after := s.wantAck(t, 0, 0, true)
		if after.Epoch <= before.Epoch {
			t.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
		}
		push(t, p, frames(1, 1, 3, "R")...)
		push(t, p, frames(1, 4, 4, "-")...)
		for s.ack(t).Last != 4 {
		}
		events, err := w.journal.Read(within(t), before.Partition, 0, 0)
		if err != nil || len(events) != 4 || !strings.Contains(string(events[2]), `"redelivered":true,"partition"`) || strings.Contains(string(events[3]), "redelivered") {
			t.Errorf("stored %s, %v", events, err)
		}
	})
}

// Events of another partition than the header's, as from an api with another partition count,
// are stored where they belong, once, and hold nobody up.
func TestMisplacedEventsAreStoredWhereTheyBelong(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		w := s.worker(t, nil)
		p := pusher(t, w.Endpoint())
		elsewhere := (event.Partition("ana", "", 16) + 1) % 16
		batch := func(partition, first int) []string {
			return []string{fmt.Sprintf("B2 api-1 7 %d 0 %d -", partition, first),
				fmt.Sprintf(`{"id":"e%d","type":"a.b","userId":"ana"}`, first), fmt.Sprintf(`{"id":"e%d","type":"a.b","userId":"ana"}`, first+1)}
		}
		for _, partition := range []int{elsewhere, 16 + elsewhere} {
			push(t, p, batch(partition, 1)...)
			if a := s.wantAck(t, 0, 2, false); a.Partition != partition {
				t.Errorf("answer %+v", a)
			}
			push(t, p, batch(partition, 7)...) // a gap: nothing of it may be stored before its turn
			s.wantAck(t, 0, 2, true)
			push(t, p, batch(partition, 2)...)
			s.wantAck(t, 0, 3, false)
		}
		events, err := w.journal.Read(within(t), event.Partition("ana", "", 16), 0, 0)
		if err != nil || len(events) != 3 {
			t.Errorf("stored %s, %v", events, err)
		}
		if n := testutil.ToFloat64(w.m.misplaced); n == 0 || !strings.Contains(w.log.String(), "same PARTITIONS") {
			t.Errorf("%v are counted", n)
		}
	})
}

// Events that rules make for other users are stored before their parent is acknowledged.
func TestDerivedEventsOfOtherPartitionsComeFirst(t *testing.T) {
	s := newStage(t, testkit.Miniredis(t))
	w := s.worker(t, func(c *Config) {
		c.Rules = rulesFile(t, `rules: [{name: tell, match: order.*, derive: {type: alert.seller, userId: '"bob"'}}]`)
	})
	p := pusher(t, w.Endpoint())
	push(t, p, frames(0, 1, 0, "-")[0], `{"id":"o","type":"order.created","userId":"ana"}`)
	s.wantAck(t, 0, 1, false)
	page, err := w.journal.Replay(within(t), "bob", 0, 10)
	if err != nil || len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), `"id":"o/tell"`) {
		t.Errorf("bob has %s, %v", page.Events, err)
	}
	forget(t, s.redis) // the dedupe window is over
	push(t, p, frames(0, 1, 0, "-")[0], `{"id":"o","type":"order.created","userId":"ana"}`)
	s.wantAck(t, 0, 1, false)
	if page, err := w.journal.Replay(within(t), "bob", 0, 10); err != nil || len(page.Events) != 1 {
		t.Errorf("after a late repeat bob has %s, %v", page.Events, err)
	}
}

// When Redis loses what was stored ahead, the run that it belongs to is not stored alone.
func TestWhatWasStoredAheadIsNotLost(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		s := newStage(t, url)
		w := s.worker(t, nil)
		r := &run{Batch: journal.Batch{Partition: event.Partition("ana", "", 16), Source: "api-1/7", First: 1, Last: 1}, elsewhere: entriesOf("derived@bob")}
		r.elsewhere[0].Number = 1
		ahead, err := w.committer.ahead(within(t), []*run{r})
		if err != nil || len(ahead) != 1 {
			t.Fatal(ahead, err)
		}
		wipe(t, url)
		if err := w.journal.Apply(within(t), []*journal.Batch{&r.Batch}); err != nil || !r.Gap {
			t.Errorf("applied without what was to come first: %+v, %v", r.Batch, err)
		}
	})
}

// rulesFile writes a rule file.
func rulesFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wipe empties Redis.
func wipe(t *testing.T, url string) {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := client.FlushAll(within(t)).Err(); err != nil {
		t.Fatal(err)
	}
}

// forget drops what Redis knows of ids.
func forget(t *testing.T, url string) {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	keys := client.Keys(within(t), "spine:*:ids:*").Val()
	if n := client.Del(within(t), keys...).Val(); n == 0 {
		t.Error("nothing was to forget")
	}
}

// unitOf is a unit of numbers first to last for partition p of a generation.
func unitOf(p, generation, round, first, last int, flags ingest.Flags) unit {
	h := &ingest.Numbered{Source: "api-1", Generation: uint64(generation), Partition: p, Round: uint64(round), First: uint64(first), Flags: flags}
	u := unit{numbered: h, last: uint64(last)}
	for n := first; n <= last; n++ {
		u.events = append(u.events, event.Event{ID: fmt.Sprint(generation, "-", n), Type: "a.b", UserID: userOf[p], Raw: fmt.Appendf(nil, `{"id":"%d-%d"}`, generation, n)})
		u.numbers = append(u.numbers, uint64(n))
	}
	return u
}

// userOf has a user of each of the 4 partitions that the tests of this package use.
var userOf = func() (out [partitions]string) {
	for i := 0; slices.Contains(out[:], ""); i++ {
		u := fmt.Sprint("u", i)
		out[event.Partition(u, "", partitions)] = u
	}
	return out
}()

func TestUnitsThatFollowEachOtherAreOneRun(t *testing.T) {
	p := newProcessor(t, &people{}, "")
	got, err := p.Process(t.Context(), []unit{
		unitOf(1, 7, 0, 1, 3, 0), unitOf(1, 7, 0, 4, 4, 0), unitOf(2, 7, 0, 1, 1, 0), unitOf(1, 7, 0, 9, 0, 0), // the last is a question
		unitOf(1, 7, 1, 6, 8, 0), unitOf(1, 7, 1, 9, 9, ingest.Start), unitOf(1, 8, 0, 1, 1, ingest.Wait), unitOf(3, 7, 0, 1, 0, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	for _, r := range got.runs {
		runs = append(runs, fmt.Sprintf("%d %s %d-%d:%d", r.Partition, r.Source, r.First, r.Last, len(r.Entries)))
	}
	want := []string{"1 api-1/7 1-4:4", "2 api-1/7 1-1:1", "1 api-1/7 6-8:3", "1 api-1/7 9-9:1", "1 api-1/8 1-1:1", "3 api-1/7 1-0:0"}
	if !slices.Equal(runs, want) {
		t.Errorf("runs %q, want %q", runs, want)
	}
	if r := got.replies[3]; !r.question || r.run != got.runs[0] || r.slots != nil {
		t.Errorf("the question is answered out of %+v", r)
	}
}

// answers gives what an acker publishes for the units, applied by the ledger.
func answers(t *testing.T, l *ledger, a *acker, at time.Time, units ...unit) []string {
	t.Helper()
	var out []string
	a.publish = func(all ...fanout.Message) {
		for _, m := range all {
			out = append(out, m.Topic+" "+string(m.Body))
		}
	}
	p, err := newProcessor(t, &people{}, "").Process(t.Context(), units)
	if err != nil {
		t.Fatal(err)
	}
	if err := newBench(l).Apply(within(t), p.runs); err != nil {
		t.Fatal(err)
	}
	a.answer(p, at)
	return out
}

func TestAnswersAreMerged(t *testing.T) {
	a := newAcker(nil, 0, newMetrics(nil))
	got := answers(t, &ledger{}, a, time.Time{}, unitOf(1, 7, 0, 1, 2, 0), unitOf(1, 7, 0, 3, 3, 0), unitOf(2, 7, 0, 1, 1, 0),
		unitOf(1, 7, 0, 4, 5, ingest.Wait), unitOf(1, 7, 0, 9, 9, 0), unitOf(1, 7, 1, 6, 6, 0))
	want := []string{
		`_ack.api-1 {"gen":7,"partition":1,"round":0,"last":5,"epoch":1,"nak":true}`,
		`_ack.api-1 {"gen":7,"partition":2,"round":0,"last":1,"epoch":1,"nak":false}`,
		`_ack.api-1 {"gen":7,"partition":1,"round":0,"last":5,"epoch":1,"nak":false,"first":4,"seqs":[103,104]}`,
		`_ack.api-1 {"gen":7,"partition":1,"round":1,"last":6,"epoch":1,"nak":false}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// An answer that nobody waits for goes with later ones: with the first that somebody waits for, or when
// its time is up, or at the end.
func TestAnswersWaitForEachOther(t *testing.T) {
	l, m := &ledger{}, newMetrics(nil)
	a := newAcker(nil, time.Hour, m)
	if got := answers(t, l, a, time.Time{}, unitOf(1, 7, 0, 1, 2, 0), unitOf(2, 7, 0, 1, 1, 0)); got != nil {
		t.Errorf("answered at once: %q", got)
	}
	got := answers(t, l, a, time.Time{}, unitOf(1, 7, 0, 3, 4, 0), unitOf(2, 7, 1, 2, 2, ingest.Wait))
	want := []string{
		`_ack.api-1 {"gen":7,"partition":1,"round":0,"last":4,"epoch":1,"nak":false}`,
		`_ack.api-1 {"gen":7,"partition":2,"round":0,"last":1,"epoch":1,"nak":false}`,
		`_ack.api-1 {"gen":7,"partition":2,"round":1,"last":2,"epoch":1,"nak":false,"first":2,"seqs":[101]}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("with one that is waited for\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for name, urgent := range map[string]unit{"a gap": unitOf(1, 7, 0, 9, 9, 0), "a question": unitOf(1, 7, 0, 5, 4, 0)} {
		if got := answers(t, l, a, time.Time{}, urgent); len(got) != 1 {
			t.Errorf("%s is answered %q", name, got)
		}
	}
	if got := answers(t, l, a, time.Time{}, unitOf(1, 7, 0, 5, 5, 0)); got != nil {
		t.Errorf("answered at once: %q", got)
	}
	calls := make(chan []fanout.Message, 10)
	a.publish = func(all ...fanout.Message) { calls <- all }
	a.end()
	if len(calls) != 1 || len(<-calls) != 1 {
		t.Error("at the end it was not told what waited")
	}
	a.end()
	a.every = time.Millisecond
	for n := 6; n < 9; n++ {
		p, err := newProcessor(t, &people{}, "").Process(t.Context(), []unit{unitOf(1, 7, 0, n, n, 0)})
		if err != nil {
			t.Fatal(err)
		}
		if err := newBench(l).Apply(within(t), p.runs); err != nil {
			t.Fatal(err)
		}
		a.answer(p, time.Time{})
		if all := <-calls; len(all) != 1 || !strings.Contains(string(all[0].Body), fmt.Sprintf(`"last":%d,`, n)) {
			t.Errorf("when its time was up: %s", all)
		}
	}
	if n := testutil.ToFloat64(m.acks); n != 9 || len(calls) != 0 {
		t.Errorf("%v answers were counted, want 9; %d more calls", n, len(calls))
	}
}

// A sender that sends the same again and again is refused less and less often; its questions are
// answered, and a step forward begins anew.
func TestRefusalsAreBounded(t *testing.T) {
	a, l, at := newAcker(nil, 0, newMetrics(nil)), &ledger{}, time.UnixMilli(1000)
	refusals := 0
	for round := range 500 {
		for _, body := range answers(t, l, a, at, unitOf(1, 7, round, 5, 5, 0)) {
			if strings.Contains(body, `"nak":true`) {
				refusals++
			}
		}
		at = at.Add(10 * time.Millisecond)
	}
	if refusals < 5 || refusals > 11 {
		t.Errorf("refused %d times in 5 s", refusals)
	}
	if got := answers(t, l, a, at, unitOf(1, 7, 1, 5, 4, 0)); len(got) != 1 {
		t.Errorf("a question is answered %q", got)
	}
	answers(t, l, a, at, unitOf(1, 7, 1, 1, 1, 0))
	if got := answers(t, l, a, at, unitOf(1, 7, 1, 5, 5, 0)); len(got) != 1 || !strings.Contains(got[0], `"last":1,"epoch":1,"nak":true`) {
		t.Errorf("after a step forward: %q", got)
	}
}

// Whatever answers of Redis are lost, every event is published once, each partition's numbers
// without gaps and in order, and the runs say what is stored.
func TestApplyProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{}
		b := newBench(l)
		type stream struct{ partition, source int }
		last := map[stream]int{}
		for range rapid.IntRange(1, 6).Draw(t, "plans") {
			l.plan = nil
			for _, o := range rapid.SliceOfN(rapid.IntRange(int(works), int(halfLoses)), 0, 5).Draw(t, "plan") {
				l.plan = append(l.plan, outcome(o))
			}
			var runs []*run
			at := map[stream]int{}
			for range rapid.IntRange(0, 6).Draw(t, "runs") {
				k := stream{rapid.IntRange(0, partitions-1).Draw(t, "partition"), rapid.IntRange(1, 2).Draw(t, "source")}
				at[k] = max(at[k], last[k])
				first := max(1, at[k]+1+rapid.SampledFrom([]int{0, 0, 0, -2, 1}).Draw(t, "off"))
				u := unitOf(k.partition, k.source, 0, first, first+rapid.IntRange(0, 3).Draw(t, "more"), 0)
				r := &run{Batch: journal.Batch{Partition: k.partition, Source: fmt.Sprint(k.source), First: uint64(first), Last: u.last}}
				for i, e := range u.events {
					r.Entries = append(r.Entries, journal.Entry{Event: e, Number: u.numbers[i]})
				}
				runs = append(runs, r)
				if first <= at[k]+1 {
					at[k] = max(at[k], int(u.last))
				}
			}
			if err := b.Apply(t.Context(), runs); err != nil {
				t.Fatal(err)
			}
			for k, n := range at { // a gap may have been closed when the plan was tried again
				if last[k] = int(l.sources[fmt.Sprint(k.partition, fmt.Sprint(k.source))]); last[k] < n {
					t.Fatalf("source %v is applied up to %d, want %d", k, last[k], n)
				}
			}
			for i, r := range runs {
				if !r.Done || !r.Gap && r.Upto < r.Last {
					t.Fatalf("run %d is answered with %+v", i, r.Batch)
				}
			}
		}
		want, total := 0, 0
		for _, n := range last {
			want += n
		}
		for p, seqs := range b.byPart {
			total += len(seqs)
			for i, seq := range seqs {
				if seq != 100+uint64(i) {
					t.Fatalf("partition %d published %v", p, seqs)
				}
			}
		}
		if total != want {
			t.Fatalf("%d published, %d different events came in", total, want)
		}
	})
}
