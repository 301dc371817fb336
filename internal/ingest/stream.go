package ingest

import (
	"math/rand/v2"
	"time"
)

// Bounds of how a stream waits for its acknowledgements.
const (
	askFirst   = 500 * time.Millisecond // without progress, then the worker is asked
	askMost    = 5 * time.Second        // between two questions
	askIdle    = 10 * time.Second       // when nothing is outstanding, to learn of a new epoch
	maxFlight  = 16 << 10               // events sent and not acknowledged
	flightRoom = maxFlight / 2          // a stream that was full goes on when it has so much
)

// flight is one message under way.
type flight struct {
	first, last uint64 // numbers
	index       uint64 // the log's index of the first
}

// stream is what is known of one partition: how far its events are sent and acknowledged. It
// has no lock and no clock of its own.
type stream struct {
	sent    uint64 // the last number sent
	acked   uint64 // all up to it are stored, in epoch
	ever    uint64 // the highest number acknowledged in an earlier epoch
	jump    uint64 // as many numbers before jumpAt were never used: the last that was sent of such
	jumpAt  uint64
	round   uint64
	epoch   uint64 // of acked; 0: not known
	seen    uint64 // the newest epoch that was heard of
	placed  bool   // the workers have said from where to go on, or there is nothing before
	flights []flight

	cursor *cursor // that reads the log for it; nil: it is parked
	at     uint64  // parked: the index from where to read
	hold   hold    // parked: why
	retry  time.Time

	asking bool          // a question of this round is under way
	asked  uint64        // sent, when the question was sent
	wait   time.Duration // until the next question
	due    time.Time     // for the next question
	heard  time.Time     // of epoch
}

type hold uint8

const (
	holdNothing hold = iota // goes on at once
	holdQueue               // the worker's queue was full, or no worker was there
	holdFlight              // too much is under way
	holdGap                 // numbers are missing in the log: all before has to be acknowledged first
)

// outcome says what an answer means for a stream.
type outcome uint8

const (
	nothing  outcome = iota
	progress         // more is acknowledged
	back             // what follows acked has to be sent again
	renewed          // the same, in another epoch
)

func (o outcome) String() string {
	return [...]string{"nothing", "progress", "gap", "epoch"}[o]
}

// answer takes in what a worker said.
func (s *stream) answer(a *Ack, now time.Time) outcome {
	switch {
	case a.Epoch < s.seen:
		return nothing // says nothing of the present
	case !s.placed || s.epoch != 0 && a.Epoch > s.epoch:
		return s.renew(a, now)
	}
	s.epoch, s.seen, s.heard = a.Epoch, a.Epoch, now
	ofRound, was := a.Round == s.round, s.acked
	s.settle(a.Last)
	if s.acked > was {
		s.rest(now)
	}
	switch {
	case ofRound && a.Nak, ofRound && s.asking && a.Last < s.asked:
		s.acked = min(s.acked, a.Last)
		s.goBack(now)
		return back
	case ofRound && s.asking:
		s.asking = false
		s.rest(now)
	}
	if s.acked > was {
		return progress
	}
	return nothing
}

// renew takes what the first answer, or the first of a new epoch, says for the whole truth.
func (s *stream) renew(a *Ack, now time.Time) outcome {
	if a.Epoch > s.epoch {
		s.ever = max(s.ever, s.acked)
	}
	s.epoch, s.seen, s.heard, s.acked, s.placed = a.Epoch, a.Epoch, now, a.Last, true
	s.goBack(now)
	return renewed
}

// goBack begins a new round after acked. The caller parks the stream there.
func (s *stream) goBack(now time.Time) {
	s.sent, s.flights, s.asking = s.acked, nil, false
	s.round++
	s.rest(now)
}

// settle counts all up to last as acknowledged.
func (s *stream) settle(last uint64) {
	s.acked = max(s.acked, last)
	s.sent = max(s.sent, s.acked)
	n := 0
	for n < len(s.flights) && s.flights[n].last <= s.acked {
		n++
	}
	s.flights = s.flights[n:]
}

// rest begins the wait for the next question anew.
func (s *stream) rest(now time.Time) {
	s.wait = askFirst
	s.due = now.Add(jitter(s.wait))
}

// mark takes in the epoch of a partition. A new one is not believed to hold anything: it is
// asked for until an answer of it comes.
func (s *stream) mark(epoch uint64, now time.Time) {
	if epoch <= s.seen {
		return
	}
	if s.seen = epoch; s.epoch != 0 || !s.placed {
		s.wait, s.due = askFirst, now
	}
}

// outstanding reports whether an answer is waited for.
func (s *stream) outstanding() bool {
	return !s.placed || s.sent > s.acked || s.epoch != 0 && s.seen > s.epoch
}

// ask begins a round whose answers come after the question.
func (s *stream) ask(now time.Time) {
	s.round++
	s.asking, s.asked = true, s.sent
	s.wait = min(2*s.wait, askMost)
	s.due = now.Add(jitter(s.wait))
}

// under is how many events are sent and not acknowledged.
func (s *stream) under() uint64 {
	n := s.sent - min(s.acked, s.sent)
	if s.acked < s.jumpAt && s.jumpAt <= s.sent {
		n -= min(n, s.jump)
	}
	return n
}

// full reports whether so many more events may not be under way.
func (s *stream) full(more uint64) bool { return s.under()+more >= maxFlight }

// ready reports whether a parked stream may go on.
func (s *stream) ready(now time.Time) bool {
	switch {
	case s.cursor != nil || !s.placed:
		return false
	case s.hold == holdFlight:
		return s.under() <= maxFlight-flightRoom
	case s.hold == holdGap:
		return s.sent == s.acked
	}
	return !now.Before(s.retry)
}

// jitter spreads waits, so that many streams do not ask at once.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
