package model

import "testing"

const limit = 3_000_000 // states a search

func run(t *testing.T, c Config) Result {
	t.Helper()
	r, err := Search(Pipeline(c), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d states, %d moves", r.States, r.Moves)
	return r
}

// holds are searches of the protocol as it should be. Together they have every kind of fault
// in every order, and each pair of kinds.
var holds = map[string]Config{
	"power cuts":                    {Records: 3, Total: 2, Max: Faults{PowerCut: 2, APIDies: 1}},
	"power cuts and anything":       {Records: 2, Total: 2, Max: Faults{PowerCut: 1, WorkerDies: 1, Lost: 1, Reroute: 1, Wipe: 1, Rollback: 1}},
	"any two faults":                {Records: 2, Total: 2, Max: Faults{WorkerDies: 2, APIDies: 2, Lost: 2, Reroute: 2, Early: 2, Wipe: 2, Rollback: 2}},
	"batches of any size":           {Records: 3, Total: 1, Cuts: true, Max: Faults{WorkerDies: 1, APIDies: 1, Lost: 1, Reroute: 1, Early: 1, Wipe: 1, Rollback: 1}},
	"callers repeat":                {Records: 3, Total: 1, Max: Faults{Repeat: 1, WorkerDies: 1, APIDies: 1, Lost: 1, Wipe: 1, Rollback: 1}},
	"a week without events":         {Records: 2, Total: 2, Max: Faults{Idle: 1, APIDies: 1, Lost: 1, Wipe: 1}},
	"derived events":                {Records: 2, Total: 1, Derived: true, Max: Faults{WorkerDies: 1, APIDies: 1, Lost: 1, Wipe: 1, Rollback: 1, Reroute: 1}},
	"a new way and losses of Redis": {Records: 2, Total: 3, Max: Faults{Reroute: 1, Wipe: 1, Rollback: 1}},
}

// TestThePipelineHolds: in all that may happen nothing accepted is lost, no id is stored
// twice into the same data, a user's order is kept, a fault costs at most one going back, and
// without further faults all is well in the end.
func TestThePipelineHolds(t *testing.T) {
	for name, c := range holds {
		t.Run(name, func(t *testing.T) {
			c.Backs = true
			if r := run(t, c); r.Broken != "" {
				t.Fatalf("%s\n%s", r.Broken, r.Trace)
			}
		})
	}
}

// TestWhatIsNotNeeded: these make it slower, and lose nothing. A new epoch in an answer of an
// older round need not send the cursor back at once, as long as it takes back what was
// acknowledged: the next question does it. And a gap need not be told, as long as somebody asks.
func TestWhatIsNotNeeded(t *testing.T) {
	for _, m := range []Mistake{NewEpochNeedsRound, NoNak} {
		c := Config{Records: 2, Total: 2, Mistake: m, Max: Faults{WorkerDies: 1, Reroute: 1, Early: 1, Wipe: 1, Rollback: 1}}
		if r := run(t, c); r.Broken != "" {
			t.Errorf("%d: %s\n%s", m, r.Broken, r.Trace)
		}
	}
}

const (
	circle   = "a circle: it goes on without faults for ever and comes to no good end"
	deadEnd  = "a dead end: something is owed and nothing happens any more"
	unstored = "something is acknowledged that is not stored"
	twice    = "an id is stored twice"
	tooOften = "the api went back more often than there were faults"
	gone     = "a record is gone from the log that never came into the index"
)

// TestMistakesAreFound plants one mistake at a time. A model that finds nothing wrong with
// them would find nothing wrong with anything.
func TestMistakesAreFound(t *testing.T) {
	for _, c := range []struct {
		name    string
		mistake Mistake
		max     Faults
		want    string
		derived bool
	}{
		{"the worker answers before it stores", AckBeforeStore, Faults{}, unstored, false},
		{"a batch behind a gap is stored", GapApplied, Faults{WorkerDies: 1}, unstored, false},
		{"nobody asks", NoQuestion, Faults{WorkerDies: 1}, deadEnd, false},
		{"a gap is dropped silently and nobody asks", NoNakNoQuestion, Faults{Reroute: 1, WorkerDies: 1}, deadEnd, false},
		{"the script does not look at ids", IDsForgotten, Faults{Repeat: 1}, twice, false},
		{"the progress is moved before the events are stored", ProgressApart, Faults{WorkerDies: 1}, unstored, false},
		{"numbers that a power cut took are given again", NumbersAgain, Faults{PowerCut: 1}, unstored, false},
		{"what is missing before such numbers does not count", SkipUnchecked, Faults{PowerCut: 1, WorkerDies: 1}, unstored, false},
		{"answers of an epoch that is over count", OldEpochCounts, Faults{Wipe: 1, Reroute: 1}, unstored, false},
		{"a nak of an older round counts", OldRoundCounts, Faults{WorkerDies: 1}, tooOften, false},
		{"a reply is held against what was sent later", ReplyBeforeSends, Faults{}, tooOften, false},
		{"after a loss the api goes on after what was acknowledged", ResendFromAcked, Faults{Rollback: 1}, unstored, false},
		{"a mark of a new epoch is noted, and nobody asks", NewEpochOnlyNoted, Faults{Wipe: 1}, unstored, false},
		{"a worker marks only what it has served", MarkServedOnly, Faults{Rollback: 1, WorkerDies: 2}, deadEnd, false},
		{"records are trimmed by their age", TrimByAge, Faults{Rollback: 1}, gone, false},
		{"an unknown source never may begin", NoStart, Faults{Wipe: 1}, circle, false},
		{"any batch may begin", StartAlways, Faults{WorkerDies: 2}, unstored, false},
		{"all is marked after a loss", EverythingMarked, Faults{Wipe: 1}, "a redelivery was never stored before", false},
		{"an idle log keeps what Redis has forgotten", IdleKeeps, Faults{Idle: 1}, circle, false},
		{"the parent is stored before what derives from it", AdvanceFirst, Faults{WorkerDies: 1}, deadEnd, true},
		{"a derived event has a new id each time", RandomDerivedIDs, Faults{WorkerDies: 1}, "a derived event is stored twice", true},
		{"the parent is stored in another epoch than what derives from it", DerivedUnchecked, Faults{Wipe: 1}, deadEnd, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, Config{Records: 3, Total: 3, Max: c.max, Mistake: c.mistake, Derived: c.derived, Backs: c.want == tooOften})
			if r.Broken != c.want {
				t.Fatalf("found %q, want %q\n%s", r.Broken, c.want, r.Trace)
			}
			t.Logf("%s\n%s", r.Broken, r.Trace)
		})
	}
}
