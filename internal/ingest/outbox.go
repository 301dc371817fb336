package ingest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/wal"
	"eventspine/internal/zmq"
)

// OutboxOptions are an Outbox's settings.
type OutboxOptions struct {
	Endpoints  []string // one per worker
	Source     string   // this process; 1 to 128 bytes of printable ASCII without spaces
	Partitions int      // the journal's partition count
	Log        wal.Options
	Keep       time.Duration // how long the log keeps what was acknowledged; 0: 10 minutes
	ZMQ        zmq.Options
	Logger     *slog.Logger          // nil: none
	Metrics    prometheus.Registerer // nil: none
}

// Outbox keeps events on disk and sends them to the workers until these have stored them, in
// order a partition, and again when the journal has lost them. Give it what the workers say with
// Acknowledge and Mark, and let Run run. Safe for concurrent use.
type Outbox struct {
	o       OutboxOptions
	log     *wal.Log
	socket  *zmq.Socket
	out     *quiet.Logger
	m       *outboxMetrics
	waiters waiters
	wake    chan struct{} // a token: something changed for the forwarder

	counts struct { // its own lock: stamps run while the forwarder is at work
		sync.Mutex
		last []uint64 // number of the newest event of each partition
	}

	mu       sync.Mutex // of all below
	forward  forwarder
	openLast []uint64 // the newest number of each partition when the log was opened
	base     uint64   // numbers that are given now are above it
}

func (o *OutboxOptions) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// note is what a segment's header tells: how things stood when the segment was begun.
type note struct {
	Format     int      `json:"format"` // of the records
	Partitions int      `json:"partitions"`
	Last       []uint64 `json:"last"`  // number of the newest event before the segment, by partition
	Acked      []uint64 `json:"acked"` // and up to which all was stored
	Epochs     []uint64 `json:"epochs"`
}

const (
	recordFormat = 2
	recordHead   = 18 // bytes before an event in the log: partition, number, and the number before it
	baseShift    = 20 // so many events a partition and second, as a power of two, have numbers of their own from start to start
)

// OpenOutbox opens the log and connects to the workers in the background: none of them has to be
// there yet. Errors are of kind Invalid and say what to do.
func OpenOutbox(o OutboxOptions) (*Outbox, error) {
	const op = "open outbox"
	if err := checkSender(o.Endpoints, o.Partitions, o.Source); err != nil {
		return nil, fault.E(op, fault.Invalid, err)
	}
	if o.Keep == 0 {
		o.Keep = 10 * time.Minute
	}
	b := &Outbox{o: o, out: quiet.New(o.Logger, time.Second), wake: make(chan struct{}, 1)}
	b.counts.last = make([]uint64, o.Partitions)
	b.forward.init(b, time.Now())
	o.Log.Note = b.note
	o.Log.Log, o.Log.Metrics = o.Logger, o.Metrics
	var err error
	if b.log, err = wal.Open(o.Log); err != nil {
		return nil, err
	}
	if err := b.restore(); err != nil {
		return nil, errors.Join(err, b.log.Close())
	}
	if b.socket, err = connect(o.Endpoints, o.ZMQ, o.Logger); err != nil {
		return nil, errors.Join(err, b.log.Close())
	}
	b.m = newOutboxMetrics(o.Metrics, b)
	return b, nil
}

// restore reads where the log stands: from the newest note, and what was appended after it.
func (b *Outbox) restore() error {
	segments := b.log.Segments()
	from, now := segments[0].First, time.Now()
	for i := len(segments) - 1; i >= 0; i-- {
		n, ok := b.readNote(segments[i].Note)
		if !ok {
			continue
		}
		if n.Format != recordFormat {
			return fault.Errorf("open outbox", fault.Invalid, "the log in %s was written by another version (format %d, this one reads %d); "+
				"let that version send all of it, or move the directory away", b.o.Log.Dir, n.Format, recordFormat)
		}
		if n.Partitions != b.o.Partitions {
			return fault.Errorf("open outbox", fault.Invalid, "the log in %s was made for %d partitions and PARTITIONS is %d; "+
				"set it back, or give an empty directory once all is sent", b.o.Log.Dir, n.Partitions, b.o.Partitions)
		}
		from = segments[i].First
		copy(b.counts.last, n.Last)
		for p := range b.forward.streams {
			s := &b.forward.streams[p]
			s.acked, s.epoch, s.seen = n.Acked[p], n.Epochs[p], n.Epochs[p]
			s.sent = s.acked
		}
		break
	}
	r := b.log.Reader(from)
	defer func() { _ = r.Close() }()
	for {
		index, record, err := r.TryNext()
		if err != nil {
			return err
		}
		if index == 0 {
			break
		}
		if e, ok := b.split(record); ok {
			b.counts.last[e.partition] = max(b.counts.last[e.partition], e.number)
		}
	}
	b.openLast = append([]uint64(nil), b.counts.last...)
	// A power cut may have taken events from the log that are stored: their numbers are never
	// given again, in no way that the next events can be taken for them.
	b.base = max(b.log.Opened()<<baseShift, slices.Max(b.openLast))
	b.forward.begin(now)
	return nil
}

// readNote reads a segment's note, if it is whole.
func (b *Outbox) readNote(text []byte) (n note, ok bool) {
	if text == nil || json.Unmarshal(text, &n) != nil {
		return note{}, false
	}
	return n, n.Partitions > 0 && len(n.Last) == n.Partitions && len(n.Acked) == n.Partitions && len(n.Epochs) == n.Partitions
}

// note runs between two groups: every number given is in the segments before.
func (b *Outbox) note() []byte {
	n := note{Format: recordFormat, Partitions: b.o.Partitions, Acked: make([]uint64, b.o.Partitions), Epochs: make([]uint64, b.o.Partitions)}
	b.counts.Lock()
	n.Last = append(n.Last, b.counts.last...)
	b.counts.Unlock()
	b.mu.Lock()
	for p := range b.forward.streams {
		s := &b.forward.streams[p]
		n.Acked[p], n.Epochs[p] = s.acked, s.epoch
	}
	b.mu.Unlock()
	text, err := json.Marshal(n)
	if err != nil { // numbers only: cannot happen
		return nil
	}
	return text
}

// kept is a record of the log.
type kept struct {
	partition     int
	number, after uint64 // its number, and that of the event before it in the partition
	raw           []byte
}

// split takes a record apart. The event is not copied.
func (b *Outbox) split(record []byte) (e kept, ok bool) {
	if len(record) < recordHead {
		return kept{}, false
	}
	e = kept{int(binary.LittleEndian.Uint16(record)), binary.LittleEndian.Uint64(record[2:]), binary.LittleEndian.Uint64(record[10:]), record[recordHead:]}
	return e, e.partition < b.o.Partitions && e.after < e.number
}

// Append keeps the events; nil means that they are on the disk and will be stored. Otherwise none
// of them is kept: Overloaded when the log or the disk is full, Unavailable when the disk fails. Only
// when it fails in the middle of the fsync they may be stored all the same, as they are sent beside it.
func (b *Outbox) Append(ctx context.Context, events []event.Event) error {
	return b.append(ctx, events, nil)
}

// AppendWait keeps events as Append does, and gives what tells of their being stored.
func (b *Outbox) AppendWait(ctx context.Context, events []event.Event) (*Waiting, error) {
	w := &Waiting{own: &b.waiters}
	err := b.append(ctx, events, func(k place) { w.keys, w.Stored = append(w.keys, k), append(w.Stored, b.waiters.add(k)) })
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (b *Outbox) append(ctx context.Context, events []event.Event, stamped func(place)) error {
	size := 0
	for i := range events {
		size += recordHead + len(events[i].Raw)
	}
	arena, records := make([]byte, 0, size), make([][]byte, len(events))
	partitions := make([]int, len(events))
	for i := range events {
		at := len(arena)
		partitions[i] = event.Partition(events[i].UserID, events[i].ID, b.o.Partitions)
		arena = binary.LittleEndian.AppendUint16(arena, uint16(partitions[i]))
		arena = append(append(arena, make([]byte, recordHead-2)...), events[i].Raw...)
		records[i] = arena[at:len(arena):len(arena)]
	}
	return b.keep(ctx, partitions, records, stamped)
}

// keep appends records whose numbers are given now.
func (b *Outbox) keep(ctx context.Context, partitions []int, records [][]byte, stamped func(place)) error {
	_, err := b.log.Append(ctx, records, func(first uint64) {
		b.counts.Lock()
		defer b.counts.Unlock()
		for i := len(partitions) - 1; first == 0 && i >= 0; i-- { // taken back
			e, _ := b.split(records[i])
			b.counts.last[e.partition] = e.after
			b.waiters.remove(place{e.partition, e.number})
		}
		for i := 0; first != 0 && i < len(partitions); i++ {
			p := partitions[i]
			after := b.counts.last[p]
			k := place{p, max(after, b.base) + 1}
			b.counts.last[p] = k.number
			binary.LittleEndian.PutUint64(records[i][2:], k.number)
			binary.LittleEndian.PutUint64(records[i][10:], after)
			if stamped != nil {
				stamped(k)
			}
		}
	})
	return err
}

// Generation is the log's, of which Acknowledge takes acknowledgements only.
func (b *Outbox) Generation() uint64 { return b.log.Generation() }

// Acknowledge takes in what a worker said of this source.
func (b *Outbox) Acknowledge(a Ack) {
	if a.Generation != b.log.Generation() || a.Partition >= b.o.Partitions {
		return // of a log that is gone
	}
	b.waiters.tell(&a)
	b.mu.Lock()
	b.forward.answer(&a, time.Now())
	b.mu.Unlock()
	b.poke()
}

// Mark takes in the epoch that a partition of the journal is in.
func (b *Outbox) Mark(partition int, epoch uint64) {
	if partition < 0 || partition >= b.o.Partitions {
		return
	}
	b.mu.Lock()
	s := &b.forward.streams[partition]
	was := s.seen
	s.mark(epoch, time.Now())
	changed := s.seen != was
	b.mu.Unlock()
	if changed {
		b.poke()
	}
}

// Hurry asks at once about all that is outstanding: answers may have been lost until now.
func (b *Outbox) Hurry() {
	now := time.Now()
	b.mu.Lock()
	for p := range b.forward.streams {
		if s := &b.forward.streams[p]; s.outstanding() {
			s.wait, s.due = askFirst, now
		}
	}
	b.mu.Unlock()
	b.poke()
}

func (b *Outbox) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Unacknowledged is the number of events that are kept and not known to be stored.
func (b *Outbox) Unacknowledged() (n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.Lock()
	defer b.counts.Unlock()
	kept := b.log.End() - b.log.First()
	for p, last := range b.counts.last {
		done := max(b.forward.streams[p].acked, b.forward.keptFrom(p)-1)
		if last > b.base {
			n += last - min(last, max(done, b.base))
			last = b.openLast[p]
		}
		n += min(kept, last-min(last, done)) // there may be numbers among them that were never used
	}
	return min(n, kept)
}

// Workers is the number of connected workers.
func (b *Outbox) Workers() int { return b.socket.Stats().Peers }

// Drain waits until all is acknowledged, for as long as ctx lasts, and returns how many events
// are not. They go out after the next start.
func (b *Outbox) Drain(ctx context.Context) uint64 {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left := b.Unacknowledged()
		if left == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}

// Close closes the log and the socket, after Run has ended. What was not acknowledged stays in
// the log.
func (b *Outbox) Close(ctx context.Context) error {
	if b.socket != nil {
		_ = b.socket.Close(ctx) // what it drops is sent again
	}
	b.log.Roll() // the next start knows what was acknowledged until now
	return b.log.Close()
}
