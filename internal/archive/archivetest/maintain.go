package archivetest

import (
	"fmt"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/event"
)

// numbered is n events of a partition with the numbers from first on, spread over two days.
func (f *fixture) numbered(t *testing.T, partition int, first uint64, n int) []event.Event {
	t.Helper()
	out := make([]event.Event, n)
	for i := range out {
		e, err := event.Parse(fmt.Appendf(nil, `{"id":"p%d-%d","type":"order.created","timestamp":%d}`, partition, first+uint64(i), noon+int64(i%2)*86_400_000))
		must(t, err)
		e.Position = event.Position{Partition: partition, Seq: first + uint64(i), Epoch: first - 1}
		e.Raw = event.Splice(e.Raw, event.AppendPosition([]byte(`,"processed":true,"processedAt":1700000000123,"latencyMs":1.25`), e.Position))
		out[i] = e
	}
	return out
}

// far is a number as the journal gives them.
const far = 1<<49 + 1000

func testTally(t *testing.T, f *fixture) {
	if got, err := f.Tally(t.Context(), []archive.Range{{Partition: 1, First: far, Last: far + 10}}); err != nil || len(got) != 0 {
		t.Errorf("an empty archive has %v, %v", got, err)
	}
	one := f.numbered(t, 1, far, 3000)
	f.all(t, append(one, f.numbered(t, 2, far, 100)...)...)
	got, err := f.Tally(t.Context(), []archive.Range{{Partition: 1, First: far + 10, Last: far + 2999}, {Partition: 2, First: far, Last: far + 5}, {Partition: 3, First: far, Last: far}})
	must(t, err)
	want := map[archive.BlockOf]int64{}
	for seq := uint64(far + 10); seq < far+3000; seq++ {
		want[archive.BlockOf{Partition: 1, Block: seq / archive.Block}]++
	}
	for seq := uint64(far); seq <= far+5; seq++ {
		want[archive.BlockOf{Partition: 2, Block: seq / archive.Block}]++
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the tally is\n%v, want\n%v", got, want)
	}
}

func testRepeats(t *testing.T, f *fixture) {
	events := f.numbered(t, 1, far, 2000)
	again := f.numbered(t, 1, far+700, 2)
	again[0].ID, again[1].ID = "other-1", "other-2" // same numbers, one in the index of each day
	f.all(t, append(events, again...)...)
	whole := archive.Range{Partition: 1, First: far, Last: far + 1999}
	got, err := f.Repeats(t.Context(), []archive.Range{whole})
	must(t, err)
	want := map[archive.Range]int64{{Partition: 1, First: far + 700, Last: far + 700}: 2, {Partition: 1, First: far + 701, Last: far + 701}: 2}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the repeats are %v, want %v", got, want)
	}
	if _, err := f.Repeats(t.Context(), []archive.Range{{Partition: 1, First: 1, Last: archive.MaxNumbers + 1}}); err == nil {
		t.Error("too many numbers are looked at")
	}
}

func testKnown(t *testing.T, f *fixture) {
	events := f.numbered(t, 1, far, 3)
	f.all(t, events[:2]...)
	_, err := f.Bury(t.Context(), []archive.Letter{archive.LetterOf(&events[2], archive.Refusal{Reason: "it is so", Status: 400}, time.Now()),
		archive.LetterOf(&events[1], archive.Refusal{Reason: "it was so", Status: 400}, time.Now())})
	must(t, err)
	defer func() { must(t, f.PurgeLetters(t.Context())) }()
	f.do(t.Context(), t, "POST", "/"+f.name+"-dead/_refresh")
	got, err := f.Known(t.Context(), []string{events[0].ID, events[1].ID, events[2].ID, "nobody", `"*`})
	must(t, err)
	want := map[string]archive.Whereabouts{events[0].ID: archive.Archived, events[1].ID: archive.Archived, events[2].ID: archive.Buried}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("known are %v, want %v", got, want)
	}
}

func testRetain(t *testing.T, f *fixture) {
	began := time.Now()
	day := func(n int) time.Time { return began.UTC().Truncate(24*time.Hour).AddDate(0, 0, n) }
	for _, n := range []int{2, 3} {
		f.all(t, f.event(t, fmt.Sprintf(`{"id":"day-%d","type":"a.b","timestamp":%d}`, n, day(n).UnixMilli())))
	}
	days, err := f.Days(t.Context())
	must(t, err)
	if len(days) != 2 || !days[0].Date.Equal(day(2)) || !days[1].Date.Equal(day(3)) || days[0].Name != f.IndexOf(day(2)) || days[0].Index != days[0].Name || !days[0].Current || days[0].Closed {
		t.Fatalf("the days are %+v", days)
	}
	gone, err := f.Retain(t.Context(), day(3).Add(-time.Millisecond), nil)
	if err != nil || len(gone) != 0 {
		t.Errorf("within the day: %v, %v", gone, err)
	}
	gone, err = f.Retain(t.Context(), day(3), nil)
	if err != nil || len(gone) != 1 || gone[0] != f.IndexOf(day(2)) {
		t.Errorf("after the day: %v, %v", gone, err)
	}
	if days, err = f.Days(t.Context()); err != nil || len(days) != 1 || !days[0].Date.Equal(day(3)) {
		t.Errorf("the days that are left: %+v, %v", days, err)
	}
}

// testRetainNew: of events that are old when they are indexed, the age of their index counts.
func testRetainNew(t *testing.T, f *fixture) {
	began := time.Now()
	f.all(t, f.numbered(t, 1, far, 2)...)
	days, err := f.Days(t.Context())
	must(t, err)
	if len(days) != 2 {
		t.Fatalf("the days are %+v", days)
	}
	first, last := days[0].Young(), days[0].Young()
	for _, d := range days {
		if d.Created.Before(began.Add(-time.Second)) || d.Created.After(time.Now().Add(time.Second)) || !d.Young().Equal(d.Created) {
			t.Errorf("%s was made at %v, now it is %v", d.Name, d.Created, time.Now())
		}
		if d.Young().Before(first) {
			first = d.Young()
		}
		if d.Young().After(last) {
			last = d.Young()
		}
	}
	if gone, err := f.Retain(t.Context(), first.Add(-time.Millisecond), nil); err != nil || len(gone) != 0 {
		t.Errorf("before it was made: %v, %v", gone, err)
	}
	if gone, err := f.Retain(t.Context(), last, nil); err != nil || len(gone) != 2 {
		t.Errorf("after that: %v, %v", gone, err)
	}
}
