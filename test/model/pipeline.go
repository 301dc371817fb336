package model

import (
	"fmt"
	"strings"
)

// The pipeline in the small: one api with one partition of its log, two workers of which the
// first is the one that the api sends to, the script's state in Redis, the index. Events have
// one user, so that their order is the order of the log.
//
// Numbers of records begin at 1, ids at 0; a set of ids is a mask. Epochs begin at 1 and rise
// by one with each loss of data. Rounds are not counted: a message belongs to the api's present
// round or to an older one, and that is all that its reader looks at.

const (
	slots   = 2 // messages that fit into a worker's queue, and answers under way from each worker
	records = 4 // the log has room for as many
)

// Kinds of messages to a worker, and of answers.
const (
	none = iota
	batch
	question
)

const (
	answer = iota + 1
	nak
	reply // to a question
	mark
)

// Flags of a batch.
const (
	flagS = 1 << iota // nothing before it is kept any more
	flagR             // a redelivery: acknowledged in an earlier epoch
	told              // of the mistake AckBeforeStore: its answer is out already
)

type message struct {
	Kind, First, Count, Flags uint8
	Skip                      uint8 // numbers before First that were never accepted and are not given again
	Cur                       bool  // of the api's present round
}

type reaction struct {
	Kind, Epoch, Last uint8
	First             uint8 // of the message it answers
	Cur               bool
}

// data is what Redis holds, changed by one script call at a time.
type data struct {
	Epoch   uint8
	Last    uint8 // the highest record applied; 0: the source is unknown
	IDs     uint8 // ids that the dedupe window remembers
	Derived uint8 // ids whose derived events another partition holds

	Stored uint8 // not in Redis, for the checks: ids that were stored into these data
	Newest uint8 // the same: the newest record stored
}

type api struct {
	End, Oldest uint8          // the log: the newest record on disk, the oldest kept
	ID          [records]uint8 // of each record
	NextID      uint8
	Written     bool  // a record that is not on disk yet follows End: it may be sent, and its caller waits
	Void        uint8 // the numbers of records that a power cut took: they are not given again

	Sent, Acked uint8
	AckEpoch    uint8 // in which Acked was true
	Seen        uint8 // the newest epoch heard of
	Marked      uint8 // up to where a redelivery is one
}

type worker struct {
	Queue  [slots]message
	Out    [slots]reaction
	Held   uint8 // the epoch in which the derived events of the first batch were stored; 0: not yet
	Served bool  // it has stored something since it was started
}

// State is one state of the whole.
type State struct {
	API     api
	Workers [2]worker
	Redis   data
	Disk    data  // what Redis comes back with when it is killed
	Indexed uint8 // ids
	Sprung  uint8 // ids whose derived events are in the index
	Ever    uint8 // ids that were stored at any time
	Wrong   uint8 // what a script call did that it must not: index of wrongs
	Backs   uint8 // how often the api went back
	Used    Faults
}

var wrongs = []string{"",
	"an id is stored twice",
	"a user's events are stored out of order",
	"a redelivery was never stored before",
	"a derived event is stored twice",
}

// Faults counts each kind: how many a search may use, and how many a state has behind it.
type Faults struct {
	WorkerDies, APIDies, PowerCut, Lost, Reroute, Early, Wipe, Rollback, Repeat, Idle uint8
}

func (f Faults) sum() uint8 {
	return f.WorkerDies + f.APIDies + f.PowerCut + f.Lost + f.Reroute + f.Early + f.Wipe + f.Rollback + f.Idle
}

// Mistake is a change that the protocol must not have. The search has to find what it does.
type Mistake int

// The mistakes that are tried.
const (
	Correct            Mistake = iota
	AckBeforeStore             // the worker answers before its call of the script
	GapApplied                 // a batch behind a gap is stored
	NoQuestion                 // the api waits for answers and never asks
	NoNak                      // a gap is dropped silently
	NoNakNoQuestion            // a gap is dropped silently, too
	IDsForgotten               // the script does not look at ids
	ProgressApart              // the source's progress is moved before the events are stored
	NumbersAgain               // after a power cut the numbers of what it took are given again
	SkipUnchecked              // a batch after numbers that are not given again is stored whatever is missing before them
	OldEpochCounts             // answers of an epoch that is over count as acknowledgements
	OldRoundCounts             // a nak of an older round makes the api go back
	ReplyBeforeSends           // a reply is held against what was sent after its question, too
	ResendFromAcked            // after a loss the api goes on after what was acknowledged
	NewEpochOnlyNoted          // a mark of a new epoch is noted, and nobody asks
	NewEpochNeedsRound         // a new epoch in an answer of an older round is noted only
	MarkServedOnly             // a worker marks only what it has stored into since it was started
	TrimByAge                  // records go by their age, not by that of their acknowledgement
	NoStart                    // flag S is not set
	StartAlways                // flag S is set whenever the api went back
	EverythingMarked           // all that is sent after a loss is marked as a redelivery
	IdleKeeps                  // an idle log keeps its last records after Redis forgot the source
	AdvanceFirst               // the parent is stored before what derives from it
	RandomDerivedIDs           // a derived event has another id each time
	DerivedUnchecked           // the parent is stored although the epoch changed after its derived events were
)

// Config is one search.
type Config struct {
	Records int
	Max     Faults
	Total   int  // at most as many faults in one run; callers' repeats are none
	Cuts    bool // batches of any size, not only of all there is
	Derived bool // the first id has a derived event in another partition
	Backs   bool // going back more often than there were faults is a mistake
	Mistake Mistake
}

// Pipeline is the protocol as a graph.
func Pipeline(c Config) System[State] {
	start := State{API: api{Oldest: 1}, Redis: data{Epoch: 1}, Disk: data{Epoch: 1}}
	return System[State]{Start: start, Next: c.next, Check: c.check, Good: c.good, Show: State.String}
}

// check is what must hold in every state.
func (c Config) check(s State) string {
	if s.Wrong != 0 {
		return wrongs[s.Wrong]
	}
	a := s.API
	for n := a.Oldest; a.AckEpoch == s.Redis.Epoch && n <= a.Acked; n++ {
		if !has(a.Void, n) && !has(s.Redis.Stored, a.ID[n-1]) {
			return "something is acknowledged that is not stored"
		}
	}
	for n := uint8(1); n < a.Oldest; n++ {
		if !has(a.Void, n) && !has(s.Indexed, a.ID[n-1]) {
			return "a record is gone from the log that never came into the index"
		}
	}
	if c.Backs && s.Backs > s.Used.sum() {
		return "the api went back more often than there were faults"
	}
	return ""
}

// good: all that was accepted is in the index, and what the log still keeps is in Redis.
func (c Config) good(s State) bool {
	for n := uint8(1); n <= s.API.End; n++ {
		id := s.API.ID[n-1]
		if has(s.API.Void, n) {
			continue
		}
		if !has(s.Indexed, id) || n >= s.API.Oldest && !has(s.Redis.Stored, id) {
			return false
		}
		if c.Derived && id == 0 && (!has(s.Sprung, 0) || n >= s.API.Oldest && !has(s.Redis.Derived, 0)) {
			return false
		}
	}
	return s.quiet() && !s.API.Written && s.API.Sent >= s.API.newest()
}

// newest is the highest number of a record in the log.
func (a *api) newest() uint8 {
	n := a.End
	for has(a.Void, n) {
		n--
	}
	return n
}

// waiting is what is to be sent next: so many records from first on, after numbers that are
// skipped.
func (a *api) waiting() (first, count, skip uint8) {
	end := a.End
	if a.Written {
		end++
	}
	for first = a.Sent + 1; has(a.Void, first); first++ {
	}
	for first+count <= end && !has(a.Void, first+count) {
		count++
	}
	for has(a.Void, first-1-skip) {
		skip++
	}
	return first, count, skip
}

func (s State) quiet() bool {
	for _, w := range s.Workers {
		if w.Queue[0].Kind != none || w.Out[0].Kind != none {
			return false
		}
	}
	return true
}

func has(set, id uint8) bool { return set&(1<<id) != 0 }

// next hands out all moves of a state.
func (c Config) next(s State, add func(Move[State])) {
	fair := func(name string, to State) { add(Move[State]{name, c.norm(to), true}) }
	fault := func(name string, to State) { add(Move[State]{name, c.norm(to), false}) }
	c.callers(s, fault)
	c.sends(s, fair, fault)
	for w := range s.Workers {
		c.works(s, w, fair, fault)
		c.hears(s, w, fair, fault)
		c.marks(s, w, fair)
	}
	c.indexes(s, fair, fault)
	if int(s.Used.sum()) < c.Total {
		c.faults(s, fault)
	}
}

// norm drops what nobody will look at again, so that equal states are equal.
func (c Config) norm(s State) State {
	if s.Used.Rollback >= c.Max.Rollback {
		s.Disk = data{}
	}
	if !c.Backs && c.Mistake != StartAlways {
		s.Backs = 0
	}
	if s.API.Marked <= s.API.Acked && s.API.Acked == s.API.Sent {
		s.API.Marked = 0
	}
	return s
}

// String is the state in one line.
func (s State) String() string {
	var b strings.Builder
	a := s.API
	fmt.Fprintf(&b, "log %d..%d sent %d acked %d@%d seen %d | redis @%d last %d stored %s | index %s",
		a.Oldest, a.End, a.Sent, a.Acked, a.AckEpoch, a.Seen, s.Redis.Epoch, s.Redis.Last, ids(s.Redis.Stored), ids(s.Indexed))
	for w, it := range s.Workers {
		for _, m := range it.Queue {
			switch m.Kind {
			case batch:
				fmt.Fprintf(&b, " | to %d: %d..%d%s", w+1, m.First, m.First+m.Count-1, letters(m))
			case question:
				fmt.Fprintf(&b, " | to %d: ?", w+1)
			}
		}
		for _, r := range it.Out {
			if r.Kind != none {
				fmt.Fprintf(&b, " | from %d: %s %d@%d", w+1, [...]string{answer: "last", nak: "nak", reply: "reply", mark: "mark"}[r.Kind], r.Last, r.Epoch)
			}
		}
	}
	return b.String()
}

func letters(m message) string {
	out := ""
	if m.Flags&flagS != 0 {
		out += "S"
	}
	if m.Flags&flagR != 0 {
		out += "R"
	}
	return out
}

func ids(set uint8) string {
	out := ""
	for id := range uint8(8) {
		if has(set, id) {
			out += string(rune('a' + id))
		}
	}
	if out == "" {
		return "-"
	}
	return out
}
