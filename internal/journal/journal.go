// Package journal keeps every event once, in Redis: it drops repeats, numbers what is new,
// and holds the last minutes for those who missed them.
package journal

import (
	"context"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// Options are the limits of a Journal. Start from DefaultOptions; a zero field takes its
// value from there.
type Options struct {
	Partitions   int           // fixed once Redis holds events
	DedupeWindow time.Duration // how long an id is remembered at least
	ReplayWindow time.Duration // how long a user's events can be replayed
	ReplayMax    int           // events a user in the replay window
	JournalMax   int64         // events a partition
	JournalAge   time.Duration
	Log          *slog.Logger // nil: none
	Now          func() time.Time
}

// DefaultOptions are the limits of the design.
func DefaultOptions() Options {
	return Options{
		Partitions:   16,
		DedupeWindow: 10 * time.Minute,
		ReplayWindow: 5 * time.Minute,
		ReplayMax:    1000,
		JournalMax:   100_000,
		JournalAge:   30 * time.Minute,
		Log:          slog.New(slog.DiscardHandler),
		Now:          time.Now,
	}
}

// Journal is a client of the stored journal. It is safe for concurrent use.
type Journal struct {
	client redis.UniversalClient
	opts   Options
}

// New makes a Journal over client, which stays the caller's to close.
func New(client redis.UniversalClient, o Options) *Journal { return &Journal{client, o} }

// Entry is one event to store. Event.ID is set, and Event.Raw holds no position members yet.
type Entry struct {
	Event       event.Event
	Deliverable bool // goes to browsers: kept for replay when it has a UserID
}

// Stored is an event's place in the journal.
type Stored struct {
	event.Position
	Duplicate bool
	Raw       []byte // the event with its position spliced in; nil for a Duplicate
}

// Page is a part of a user's replay.
type Page struct {
	Events   [][]byte // whole events, oldest first
	Last     uint64   // where the next call goes on: its `after`
	More     bool     // the limit was reached before the end
	Complete bool     // nothing after `after` is missing
	Epoch    uint64   // the partition's epoch now
}

var errLater = fault.Errorf("journal", fault.Unavailable, "not ready")

// Ready prepares Redis for Append.
func (j *Journal) Ready(ctx context.Context) error { return errLater }

// Append stores the batch, each event once, and numbers it.
func (j *Journal) Append(ctx context.Context, batch []Entry) ([]Stored, error) { return nil, errLater }

// Lookup reads events back by number.
func (j *Journal) Lookup(ctx context.Context, p int, seqs []uint64) ([]Stored, error) {
	return nil, errLater
}

// Replay gives a user's deliverable events with seq > after.
func (j *Journal) Replay(ctx context.Context, userID string, after uint64, limit int) (Page, error) {
	return Page{}, errLater
}

// Read gives the partition's events with seq > after.
func (j *Journal) Read(ctx context.Context, p int, after uint64, limit int) ([][]byte, error) {
	return nil, errLater
}

// Head is the partition's newest seq and its epoch.
func (j *Journal) Head(ctx context.Context, p int) (seq, epoch uint64, err error) {
	return 0, 0, errLater
}
