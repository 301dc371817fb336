package model

import (
	"math/bits"
)

// callers: an event comes, or one again whose caller did not get the answer.
func (c Config) callers(s State, do func(string, State)) {
	if int(s.API.End) >= c.Records || s.API.Written {
		return
	}
	accept := func(name string, id uint8, s State) {
		s.API.ID[s.API.End] = id
		if s.API.NextID == id {
			s.API.NextID++
		}
		s.API.Written = true
		do(name, s)
	}
	if s.API.NextID < 7 {
		accept("api: writes an event", s.API.NextID, s)
	}
	if s.Used.Repeat < c.Max.Repeat && s.API.NextID > 0 {
		s.Used.Repeat++
		accept("api: writes an id again", s.API.NextID-1, s)
	}
}

// sends: the api's cursor and its questions.
func (c Config) sends(s State, fair, fault func(string, State)) {
	if s.API.Written {
		synced := s
		synced.API.Written = false
		synced.API.End++
		fair("api: the record is on disk, 202", synced)
	}
	first, left, _ := s.API.waiting()
	room := s.Workers[0].Queue[slots-1].Kind == none
	if left > 0 && room {
		most := left
		if first <= s.API.Marked {
			most = min(most, s.API.Marked+1-first)
		}
		c.send(s, most, fair)
		if c.Cuts && most > 1 {
			c.send(s, 1, fair)
		}
	}
	wants := s.API.Acked < s.API.Sent || s.API.Seen > s.API.AckEpoch
	if !wants || !room || c.Mistake == NoQuestion || c.Mistake == NoNakNoQuestion {
		return
	}
	ask := s
	ask.Workers[0].push(message{Kind: question, First: s.API.Sent + 1, Cur: true})
	if left == 0 && s.quiet() {
		fair("api: asks", ask)
	} else if s.Used.Early < c.Max.Early && int(s.Used.sum()) < c.Total {
		ask.Used.Early++
		fault("api: asks too early", ask)
	}
}

func (c Config) send(s State, count uint8, fair func(string, State)) {
	a := &s.API
	first, _, skip := a.waiting()
	m := message{Kind: batch, First: first, Skip: skip, Count: count, Cur: true}
	if m.First-m.Skip <= a.Oldest && c.Mistake != NoStart || c.Mistake == StartAlways && s.Backs > 0 {
		m.Flags |= flagS
	}
	if m.First <= a.Marked || c.Mistake == EverythingMarked && a.AckEpoch > 1 {
		m.Flags |= flagR
	}
	a.Sent = first + count - 1
	s.Workers[0].push(m)
	fair("api: sends", s)
}

func (w *worker) push(m message) {
	for i := range w.Queue {
		if w.Queue[i].Kind == none {
			w.Queue[i] = m
			return
		}
	}
}

// pop takes the first message away.
func (w *worker) pop() {
	copy(w.Queue[:], w.Queue[1:])
	w.Queue[slots-1], w.Held = message{}, 0
}

// say puts an answer on its way; one for which there is no room is lost.
func (w *worker) say(r reaction) {
	for i := range w.Out {
		if w.Out[i].Kind == none {
			w.Out[i] = r
			return
		}
	}
}

// works: a worker handles the first message of its queue.
func (c Config) works(s State, w int, fair, fault func(string, State)) {
	name := [2]string{"worker: ", "other worker: "}[w]
	m := s.Workers[w].Queue[0]
	switch {
	case m.Kind == none:
		return
	case m.Kind == question:
		s.Workers[w].pop()
		c.says(s, w, name+"answers the question", reaction{reply, s.Redis.Epoch, s.Redis.Last, m.First, m.Cur}, fair, fault)
		return
	case c.Mistake == AckBeforeStore && m.Flags&told == 0:
		s.Workers[w].Queue[0].Flags |= told
		c.says(s, w, name+"answers first", reaction{answer, s.Redis.Epoch, m.First + m.Count - 1, m.First, m.Cur}, fair, fault)
		return
	case c.Mistake == ProgressApart && s.Workers[w].Held == 0:
		if c.takes(s.Redis, m) {
			s.Redis.Last = max(s.Redis.Last, m.First+m.Count-1)
			s.Workers[w].Held = s.Redis.Epoch
			fair(name+"moves the progress", s)
			return
		}
	case c.springs(s, m) && c.Mistake != AdvanceFirst && s.Workers[w].Held == 0:
		c.derive(&s)
		s.Workers[w].Held = s.Redis.Epoch
		fair(name+"stores the derived event", s)
		return
	case c.springs(s, m) && s.Workers[w].Held != s.Redis.Epoch && c.Mistake != DerivedUnchecked && c.Mistake != AdvanceFirst:
		s.Workers[w].Held = 0
		fair(name+"sees a new epoch, begins again", s)
		return
	}
	c.stores(s, w, name, fair, fault)
}

// springs reports whether a batch has the event from which another is derived.
func (c Config) springs(s State, m message) bool {
	for n := m.First; c.Derived && n < m.First+m.Count; n++ {
		if s.API.ID[n-1] == 0 {
			return true
		}
	}
	return false
}

func (c Config) derive(s *State) {
	if has(s.Redis.Derived, 0) && c.Mistake == RandomDerivedIDs {
		s.Wrong = 4
	}
	s.Redis.Derived |= 1
}

// takes reports whether the script applies the batch.
func (c Config) takes(d data, m message) bool {
	if c.Mistake == SkipUnchecked && m.Skip > 0 {
		return true
	}
	return m.First-m.Skip <= d.Last+1 || m.Flags&flagS != 0
}

func (c Config) stores(s State, w int, name string, fair, fault func(string, State)) {
	m := s.Workers[w].Queue[0]
	apart := c.Mistake == ProgressApart && s.Workers[w].Held != 0
	if c.Mistake == AdvanceFirst && c.springs(s, m) && s.Workers[w].Held != 0 {
		c.derive(&s)
		s.Workers[w].pop()
		fair(name+"stores the derived event last", s)
		return
	}
	s.Workers[w].Served = true
	if !c.takes(s.Redis, m) && c.Mistake != GapApplied {
		s.Workers[w].pop()
		if c.Mistake == NoNakNoQuestion || c.Mistake == NoNak {
			fair(name+"drops a gap", s)
			return
		}
		c.says(s, w, name+"finds a gap", reaction{nak, s.Redis.Epoch, s.Redis.Last, m.First, m.Cur}, fair, fault)
		return
	}
	for n := m.First; n < m.First+m.Count; n++ {
		if n > s.Redis.Last || apart {
			c.store(&s, n, m.Flags&flagR != 0)
		}
	}
	r := reaction{answer, s.Redis.Epoch, s.Redis.Last, m.First, m.Cur}
	if c.Mistake == AdvanceFirst && c.springs(s, m) {
		s.Workers[w].Held = 1
		fair(name+"stores", s)
		return
	}
	s.Workers[w].pop()
	if m.Flags&told != 0 {
		fair(name+"stores after the answer", s)
		return
	}
	c.says(s, w, name+"stores", r, fair, fault)
}

func (c Config) store(s *State, n uint8, again bool) {
	d, id := &s.Redis, s.API.ID[n-1]
	d.Last = max(d.Last, n)
	if has(d.IDs, id) && c.Mistake != IDsForgotten {
		return
	}
	switch {
	case has(d.Stored, id):
		s.Wrong = 1
	case n < d.Newest:
		s.Wrong = 2
	case again && !has(s.Ever, id):
		s.Wrong = 3
	}
	d.IDs |= 1 << id
	d.Stored |= 1 << id
	d.Newest = n
	s.Ever |= 1 << id
}

// says: the answer goes out, or is lost.
func (c Config) says(s State, w int, name string, r reaction, fair, fault func(string, State)) {
	lost := s
	s.Workers[w].say(r)
	fair(name, s)
	if s.Used.Lost < c.Max.Lost && int(s.Used.sum()) < c.Total {
		lost.Used.Lost++
		fault(name+", the answer is lost", lost)
	}
}

// marks: a worker tells which epoch Redis is in, each second. One that says what the api knows
// is left out.
func (c Config) marks(s State, w int, fair func(string, State)) {
	if s.API.Seen >= s.Redis.Epoch || c.Mistake == MarkServedOnly && !s.Workers[w].Served {
		return
	}
	if s.Workers[w].Out[slots-1].Kind != none {
		return
	}
	for _, r := range s.Workers[w].Out {
		if r.Kind == mark && r.Epoch == s.Redis.Epoch {
			return
		}
	}
	s.Workers[w].say(reaction{Kind: mark, Epoch: s.Redis.Epoch})
	fair([2]string{"worker: marks", "other worker: marks"}[w], s)
}

// hears: the api takes the first answer of a worker.
func (c Config) hears(s State, w int, fair, fault func(string, State)) {
	r := s.Workers[w].Out[0]
	if r.Kind == none {
		return
	}
	out := &s.Workers[w].Out
	copy(out[:], out[1:])
	out[slots-1] = reaction{}
	if r.Kind == mark && s.Used.Lost < c.Max.Lost && int(s.Used.sum()) < c.Total {
		lost := s
		lost.Used.Lost++
		fault("a mark is lost", lost)
	}
	if r.Kind == mark {
		if r.Epoch > s.API.Seen {
			s.API.Seen = r.Epoch
			if c.Mistake == NewEpochOnlyNoted {
				s.API.AckEpoch = r.Epoch
			}
		}
		fair("api: hears a mark", s)
		return
	}
	c.answered(&s, r)
	fair([...]string{answer: "api: hears an answer", nak: "api: hears a nak", reply: "api: hears the reply"}[r.Kind], s)
}

func (c Config) answered(s *State, r reaction) {
	a := &s.API
	if r.Epoch < a.Seen && c.Mistake != OldEpochCounts {
		return
	}
	floor := a.Oldest - 1
	back := false
	switch {
	case r.Epoch <= a.AckEpoch:
		a.Acked = max(a.Acked, r.Last)
	case r.Last < a.Acked:
		a.Seen, a.AckEpoch = r.Epoch, r.Epoch
		a.Marked = max(a.Marked, a.Acked)
		if c.Mistake == ResendFromAcked {
			break
		}
		a.Acked = max(r.Last, floor)
		back = r.Cur || c.Mistake != NewEpochNeedsRound
	default:
		a.Seen, a.AckEpoch = r.Epoch, r.Epoch
		a.Acked = r.Last
	}
	behind := r.Last+1 < r.First // not: behind what was sent since the question
	if c.Mistake == ReplyBeforeSends && r.Kind == reply {
		behind = r.Last < a.Sent
	}
	if r.Kind != answer && behind && (r.Cur || c.Mistake == OldRoundCounts) {
		back = true
	}
	if !back {
		a.Sent = max(a.Sent, a.Acked)
		return
	}
	a.Sent = a.Acked
	s.Backs++
	s.newRound()
}

// newRound makes all that is under way belong to an older round.
func (s *State) newRound() {
	for w := range s.Workers {
		for i := range slots {
			s.Workers[w].Queue[i].Cur, s.Workers[w].Out[i].Cur = false, false
		}
	}
}

// indexes: the follower reads on, Redis writes to its disk, the log is trimmed.
func (c Config) indexes(s State, fair, chance func(string, State)) {
	if left := s.Redis.Stored &^ s.Indexed; left != 0 {
		to := s
		to.Indexed |= 1 << bits.TrailingZeros8(left)
		fair("indexer: indexes", to)
	}
	if s.Redis.Derived&^s.Sprung != 0 {
		to := s
		to.Sprung |= 1
		fair("indexer: indexes the derived event", to)
	}
	if s.Used.Rollback < c.Max.Rollback && s.Disk != s.Redis {
		to := s
		to.Disk = s.Redis
		fair("redis: syncs its disk", to)
	}
	if s.API.Oldest > s.API.Acked {
		return
	}
	id := s.API.ID[s.API.Oldest-1]
	safe := has(s.API.Void, s.API.Oldest) || has(s.Indexed, id) && (!c.Derived || id != 0 || has(s.Sprung, 0)) // KEEP is longer than the index is behind
	if safe || c.Mistake == TrimByAge {
		s.API.Oldest++
		chance("api: trims the oldest record", s)
	}
}

// faults: what goes wrong.
func (c Config) faults(s State, do func(string, State)) {
	used, most := s.Used, c.Max
	for w := range s.Workers {
		if used.WorkerDies < most.WorkerDies && s.Workers[w] != (worker{}) {
			to := s
			to.Used.WorkerDies++
			to.Workers[w] = worker{Out: s.Workers[w].Out} // what left it is under way
			do([2]string{"the worker dies", "the other worker dies"}[w], to)
		}
	}
	if used.Reroute < most.Reroute {
		to := s
		to.Used.Reroute++
		to.Workers[0], to.Workers[1] = s.Workers[1], s.Workers[0]
		do("the api sends to the other worker from now on", to)
	}
	if used.APIDies < most.APIDies {
		c.apiDies(s, do)
	}
	if used.PowerCut < most.PowerCut && s.API.Written {
		c.powerCut(s, do)
	}
	if used.Wipe < most.Wipe {
		to := s
		to.Used.Wipe++
		to.Redis = data{Epoch: s.Redis.Epoch + 1}
		to.Disk = to.Redis
		do("redis is wiped", to)
	}
	if used.Rollback < most.Rollback {
		to := s
		to.Used.Rollback++
		to.Redis = s.Disk
		to.Redis.Epoch = s.Redis.Epoch + 1
		to.Disk = to.Redis
		do("redis loses what was not on its disk", to)
	}
	if used.Idle < most.Idle && s.quiet() && s.API.Acked >= s.API.newest() && s.API.End > 0 && c.good(s) {
		if c.Mistake == IdleKeeps || s.API.Oldest > s.API.newest() {
			s.Used.Idle++
			s.Redis.Last, s.Redis.IDs = 0, 0
			s.Disk = s.Redis
			do("a week passes, redis forgets the source", s)
		}
	}
}

// apiDies: it comes back with its log alone. Its rounds may begin where old messages think
// that they are of this round, or not.
func (c Config) apiDies(s State, do func(string, State)) {
	s.Used.APIDies++
	a := s.API
	s.API = api{End: a.End, Oldest: a.Oldest, ID: a.ID, NextID: a.NextID, Sent: a.Oldest - 1, Acked: a.Oldest - 1}
	s.API.Void = a.Void
	if a.Written {
		s.API.End++ // it is found when the log is opened
	}
	do("the api is killed and started again", s)
	s.newRound()
	do("the api is killed and started again, rounds anew", s)
}

// powerCut: as apiDies, and the record that is not on disk is gone, wherever it was sent to.
func (c Config) powerCut(s State, do func(string, State)) {
	s.Used.PowerCut++
	s.API.Written = false
	if c.Mistake != NumbersAgain {
		s.API.End++
		s.API.Void |= 1 << s.API.End
	}
	s.Used.APIDies-- // counted here
	c.apiDies(s, func(_ string, s State) { do("a power cut takes the end of the log", s) })
}
