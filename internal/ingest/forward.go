package ingest

import (
	"context"
	"time"

	"eventspine/internal/wal"
	"eventspine/internal/zmq"
)

const (
	turnRecords = 4096                  // read by one cursor before the other has its turn
	turnBytes   = 4 << 20               // the same, in bytes of records
	passRecords = 16 * turnRecords      // read for the streams that are behind before one further behind is waited for no longer
	queueRetry  = 50 * time.Millisecond // a worker's queue was full
	tickEvery   = 25 * time.Millisecond // for questions and retries
	tidyEvery   = time.Second           // for trimming
	maxAges     = 600                   // notes of what was acknowledged when
	noteShare   = 10                    // a start after a kill knows what was acknowledged until so large a part of Keep ago
	earlyTrim   = 3                     // quarters of the log's limit: past them nothing acknowledged is kept
)

// cursor reads the log for the streams that name it.
type cursor struct {
	r    *wal.Reader
	next uint64 // index
}

// pack is a message that is being put together.
type pack struct {
	first, last, index uint64
	skip               uint64 // numbers before first that were never used
	flags              Flags
	buf                []byte
	ends               []int // of the events in buf
}

// forwarder sends what the log holds. Nearly all streams are read for by main, which waits for
// nobody; the others wait in their place, or are read for by behind until they catch up.
type forwarder struct {
	b       *Outbox
	streams []stream
	packs   []pack
	packed  []int // partitions with a pack
	main    cursor
	behind  cursor
	members int // streams that behind reads for
	passed  int // records of this pass

	oldest note   // of the oldest segment
	of     uint64 // its first index
	ages   []age  // oldest first
	tidied time.Time
	noted  time.Time // when a segment was last asked to begin, for its note
	peers  int
}

// age says that all below index was acknowledged at that time.
type age struct {
	at    time.Time
	index uint64
}

func (f *forwarder) init(b *Outbox, now time.Time) {
	f.b, f.streams, f.packs = b, make([]stream, b.o.Partitions), make([]pack, b.o.Partitions)
	for p := range f.streams {
		f.streams[p].rest(now)
	}
}

// begin puts every stream in its place: those of which the log holds something ask first how far
// it is stored.
func (f *forwarder) begin(now time.Time) {
	b := f.b
	f.main = cursor{b.log.Reader(b.log.End()), b.log.End()}
	f.behind = cursor{b.log.Reader(b.log.First()), 0}
	f.refresh()
	f.noted = now
	for p := range f.streams {
		s := &f.streams[p]
		s.cursor, s.heard = &f.main, now
		if f.keptFrom(p) <= b.counts.last[p] {
			f.park(s, b.log.First(), holdNothing, now)
			s.due = now
			continue
		}
		s.placed, s.sent, s.acked = true, b.counts.last[p], b.counts.last[p]
	}
}

// refresh reads the note of the oldest segment.
func (f *forwarder) refresh() {
	oldest := f.b.log.Segments()[0]
	if oldest.First == f.of {
		return
	}
	f.of = oldest.First
	if n, ok := f.b.readNote(oldest.Note); ok {
		f.oldest = n
	} else {
		f.oldest = note{}
	}
}

// keptFrom is the number of the oldest event of the partition that is kept; 1 when that is not
// known.
func (f *forwarder) keptFrom(p int) uint64 {
	if f.oldest.Last == nil {
		return 1
	}
	return f.oldest.Last[p] + 1
}

// park takes a stream out, until it is ready.
func (f *forwarder) park(s *stream, at uint64, why hold, retry time.Time) {
	if s.cursor == &f.behind {
		f.members--
	}
	s.cursor, s.at, s.hold, s.retry = nil, at, why, retry
}

// answer takes in what a worker said.
func (f *forwarder) answer(a *Ack, now time.Time) {
	s := &f.streams[a.Partition]
	flights, sent, placed := s.flights, s.sent, s.placed
	if out := s.answer(a, now); out == back || out == renewed {
		f.b.m.rounds.WithLabelValues(out.String()).Inc()
		if placed && sent == s.acked {
			return // nothing has to be sent again
		}
		f.park(s, f.locate(a.Partition, s.acked+1, flights), holdNothing, now)
	}
}

// locate is an index from where on the number n of the partition is found.
func (f *forwarder) locate(p int, n uint64, flights []flight) uint64 {
	for _, m := range flights {
		if m.first <= n && n <= m.last {
			return m.index
		}
	}
	segments := f.b.log.Segments()
	for i := len(segments) - 1; i >= 0; i-- {
		if kept, ok := f.b.readNote(segments[i].Note); ok && kept.Last[p] < n {
			return segments[i].First
		}
	}
	return segments[0].First
}

// Run sends until ctx ends.
func (b *Outbox) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	defer func() { _, _ = b.forward.main.r.Close(), b.forward.behind.r.Close() }()
	for {
		more, next, err := b.turn(time.Now())
		if err != nil {
			b.out.Warn("the write-ahead log cannot be read", "error", err.Error())
			more = false
		}
		if more && ctx.Err() == nil {
			continue
		}
		grown := b.log.Grown(next)
		if err != nil {
			grown = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-grown:
		case <-b.wake:
		case <-tick.C:
		}
	}
}

// turn does what there is to do now. more says that it is worth coming again at once.
func (b *Outbox) turn(now time.Time) (more bool, next uint64, err error) {
	f := &b.forward
	b.mu.Lock()
	f.questions(now)
	f.rejoin(now)
	more, err = f.catchUp(now)
	if err == nil {
		var unread bool
		_, unread, err = f.read(&f.main, b.log.End(), now)
		more = more || unread
	}
	if now.Sub(f.tidied) >= tidyEvery {
		f.tidy(now)
	}
	next = f.main.next
	b.mu.Unlock()
	return more, next, err
}

// questions asks about the streams that wait for an answer too long.
func (f *forwarder) questions(now time.Time) {
	peers := f.b.socket.Stats().Peers
	came := peers > f.peers
	f.peers = peers
	for p := range f.streams {
		s := &f.streams[p]
		wait := s.outstanding()
		if came && wait && s.due.After(now) {
			s.wait, s.due = askFirst, now.Add(jitter(tickEvery))
		}
		if peers == 0 || now.Before(s.due) {
			continue
		}
		if !wait && (f.keptFrom(p) > s.acked || now.Sub(s.heard) < askIdle) {
			s.due = now.Add(jitter(askFirst))
			continue
		}
		f.ask(p, s, now)
	}
}

func (f *forwarder) ask(p int, s *stream, now time.Time) {
	h := Numbered{Source: f.b.o.Source, Generation: f.b.log.Generation(), Partition: p, Round: s.round + 1, First: s.sent + 1}
	if f.b.socket.TrySendKey(uint64(p), zmq.Msg{h.Append(nil)}) != nil {
		s.due = now.Add(jitter(queueRetry))
		return
	}
	f.b.m.questions.Inc()
	s.ask(now)
}

// rejoin gives the streams that may go on a cursor.
func (f *forwarder) rejoin(now time.Time) {
	if f.members == 0 {
		at := f.main.next
		for p := range f.streams {
			if s := &f.streams[p]; s.ready(now) {
				at = min(at, s.at)
			}
		}
		if at < f.main.next {
			f.behind.r.Seek(at)
			f.behind.next, f.passed = at, 0
		}
	}
	for p := range f.streams {
		s := &f.streams[p]
		switch {
		case !s.ready(now):
		case s.at >= f.main.next:
			s.cursor = &f.main
		case s.at >= f.behind.next && f.behind.next < f.main.next:
			s.cursor = &f.behind
			f.members++
		}
	}
}

// catchUp reads for the streams that are behind.
func (f *forwarder) catchUp(now time.Time) (more bool, err error) {
	if f.members == 0 {
		return false, nil
	}
	n, _, err := f.read(&f.behind, f.main.next, now)
	f.passed += n
	all := f.behind.next >= f.main.next
	if !all && f.passed < passRecords {
		return f.members > 0, err
	}
	for p := range f.streams {
		s := &f.streams[p]
		switch {
		case s.cursor != &f.behind:
		case all:
			s.cursor = &f.main
			f.members--
		default:
			f.park(s, f.behind.next, holdNothing, now) // somebody may wait who is further behind
		}
	}
	return true, err
}

// read sends what c finds before the index limit, until its turn is over or nobody is left to read for.
// n is how many records it looked at; more says that its turn ended before the log did.
func (f *forwarder) read(c *cursor, limit uint64, now time.Time) (n int, more bool, err error) {
	defer f.flushAll(now)
	for size := 0; c.next < limit; n++ {
		if c == &f.behind && f.members == 0 {
			return n, false, nil // all wait in their place again
		}
		if n == turnRecords || size >= turnBytes {
			return n, true, nil
		}
		index, record, err := c.r.TryNext()
		if err != nil || index == 0 {
			return n, false, err
		}
		if index >= limit { // damage reaches up to where the other cursor is
			c.next = limit
			c.r.Seek(limit)
			break
		}
		c.next, size = index+1, size+len(record)
		e, ok := f.b.split(record)
		if !ok {
			f.b.out.Warn("a record of the write-ahead log is of no use", "index", index)
			continue
		}
		if s := &f.streams[e.partition]; s.cursor == c {
			f.offer(s, &e, index, now)
		}
	}
	return n, false, nil
}

// offer puts one event of a stream into its pack.
func (f *forwarder) offer(s *stream, e *kept, index uint64, now time.Time) {
	p, n := e.partition, e.number
	k := &f.packs[p]
	next := s.sent + 1
	if len(k.ends) > 0 {
		next = k.last + 1
	}
	if n < next {
		return // it was sent, or stored, already
	}
	limit := len(k.ends) == MaxBatchEvents || len(k.buf)+len(e.raw) > MaxBatchBytes && len(k.ends) > 0
	if limit || n > next || e.after+1 < n || k.flags&Redelivered != 0 && n > s.ever {
		if f.flush(p, now); s.cursor == nil {
			return
		}
	}
	switch {
	case e.after >= next && s.acked != s.sent:
		f.park(s, index, holdGap, now)
		return
	case s.full(uint64(len(k.ends))):
		if f.flush(p, now); s.cursor != nil {
			f.park(s, index, holdFlight, now)
		}
		return
	}
	if len(k.ends) == 0 {
		f.beginPack(s, e, next, index)
	}
	if f.b.waiters.any(place{p, n}) {
		k.flags |= Wait
	}
	k.buf, k.last = append(k.buf, e.raw...), n
	k.ends = append(k.ends, len(k.buf))
}

func (f *forwarder) beginPack(s *stream, e *kept, next, index uint64) {
	p, n, from := e.partition, e.number, e.after+1
	k := &f.packs[p]
	k.first, k.skip, k.index, k.flags = n, n-from, index, 0
	f.packed = append(f.packed, p)
	if from > 1 && (from > next || from == f.keptFrom(p)) {
		k.flags |= Start
	}
	if n <= s.ever {
		k.flags |= Redelivered
	}
	if known := max(next, s.ever+1, f.keptFrom(p)); from > known {
		f.b.m.missing.Add(float64(from - known))
		f.b.o.logger().Error("accepted events are missing in the write-ahead log", "partition", p, "from", known, "to", from-1)
	}
}

func (f *forwarder) flushAll(now time.Time) {
	for len(f.packed) > 0 {
		f.flush(f.packed[0], now)
	}
}

// flush sends a partition's pack, or parks the stream at its beginning when it cannot be sent.
func (f *forwarder) flush(p int, now time.Time) {
	k, s := &f.packs[p], &f.streams[p]
	if len(k.ends) == 0 {
		return
	}
	for i, q := range f.packed {
		if q == p {
			f.packed = append(f.packed[:i], f.packed[i+1:]...)
			break
		}
	}
	h := Numbered{Source: f.b.o.Source, Generation: f.b.log.Generation(), Partition: p, Round: s.round, First: k.first, Skip: k.skip, Flags: k.flags}
	m := make(zmq.Msg, 1, len(k.ends)+1)
	m[0] = h.Append(make([]byte, 0, len(h.Source)+64))
	buf, from := append([]byte(nil), k.buf...), 0 // the socket owns it
	for _, end := range k.ends {
		m = append(m, buf[from:end:end])
		from = end
	}
	n := len(k.ends)
	k.buf, k.ends = k.buf[:0], k.ends[:0]
	if f.b.socket.TrySendKey(uint64(p), m) != nil {
		f.park(s, k.index, holdQueue, now.Add(jitter(queueRetry)))
		return
	}
	if !s.outstanding() {
		s.rest(now)
	}
	if s.sent = k.last; k.skip > 0 {
		s.jump, s.jumpAt = k.skip, k.first
	}
	s.flights = append(s.flights, flight{k.first, k.last, k.index})
	f.b.m.sent.Add(float64(n))
	f.b.m.messages.Inc()
	if k.flags&Redelivered != 0 {
		f.b.m.redelivered.Add(float64(n))
	}
}

// lowest is an index below which all is acknowledged; false when that is not known now.
func (f *forwarder) lowest() (index uint64, ok bool) {
	index = f.main.next
	for p := range f.streams {
		s := &f.streams[p]
		switch {
		case !s.placed, s.epoch != 0 && s.seen > s.epoch:
			return 0, false
		case len(s.flights) > 0:
			index = min(index, s.flights[0].index)
		case s.cursor == nil:
			index = min(index, s.at)
		default:
			index = min(index, s.cursor.next)
		}
	}
	return index, true
}

// tidy removes what was acknowledged long enough ago, by the word of a journal that has not
// lost anything since.
func (f *forwarder) tidy(now time.Time) {
	f.tidied = now
	index, ok := f.lowest()
	if !ok {
		return
	}
	if now.Sub(f.noted) >= f.b.o.Keep/noteShare {
		f.noted = now
		f.b.log.Roll()
	}
	if n := len(f.ages); n == 0 || now.Sub(f.ages[n-1].at) >= f.b.o.Keep/maxAges {
		f.ages = append(f.ages, age{now, index})
	}
	confirmed := now
	for p := range f.streams {
		if s := &f.streams[p]; f.keptFrom(p) <= s.acked && s.heard.Before(confirmed) {
			confirmed = s.heard
		}
	}
	before := uint64(0)
	for len(f.ages) > 0 && confirmed.Sub(f.ages[0].at) >= f.b.o.Keep {
		before = f.ages[0].index
		f.ages = f.ages[1:]
	}
	if limit := f.b.o.Log.MaxBytes; limit > 0 && f.b.log.Size() > limit/4*earlyTrim {
		before = index
		f.b.out.Warn("the write-ahead log is nearly full: acknowledged events are kept no longer", "bytes", f.b.log.Size(), "limit", limit)
	}
	if before > 0 {
		f.b.log.Trim(min(before, index), now)
		f.refresh()
	}
}
