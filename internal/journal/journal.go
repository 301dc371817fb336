// Package journal keeps every event once, in Redis. It drops repeats, gives what is new its
// number, and holds the last minutes for those who missed them.
//
//	                       ┌ dedupe buckets: id → seq
//	batches ──▶ commit.lua ┼ journal: stream, seq → event
//	                       ├ replay sets: user → seqs of the last minutes
//	                       └ sources: write-ahead log → the number up to which all is stored
//
// All of a partition is in one Redis Cluster slot, and one script call stores a batch of it
// as a whole or not at all. Numbers are contiguous within an epoch and never used twice. A
// new epoch begins whenever the server was started again (its data may have been rolled
// back, which cannot be seen from the data) or was wiped; the commit script refuses to run
// until that happened. Times of storage are the server's, so that workers need not agree on
// the time; only the dedupe bucket of an id that holds no time comes from the caller's clock,
// which may be wrong by up to a dedupe window.
package journal

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// Options are the limits of a Journal. A field that is zero or negative takes its value from
// DefaultOptions. All processes of one installation must use the same limits.
type Options struct {
	Partitions   int           // fixed once Redis holds events
	DedupeWindow time.Duration // how long an id is remembered at least, after it was seen last
	ReplayWindow time.Duration // how long a user's events can be replayed
	ReplayMax    int           // newest events a user that can be replayed
	JournalMax   int64         // events a partition, trimmed in whole blocks of up to 100
	JournalBytes int64         // bytes of events a partition, roughly: up to twice that while their size changes
	JournalAge   time.Duration // age of an event at which it is trimmed; at least ReplayWindow
	Observer     bool          // only reads: leaves it to those who store to begin again after a wipe
	Log          *slog.Logger  // nil: none
	Now          func() time.Time
	Metrics      prometheus.Registerer // nil: none
}

// DefaultOptions are the limits an installation starts with: 16 partitions, dedupe over 10
// minutes, replay of 5 minutes and 1,000 events a user, 100,000 events, 64 MiB and 30 minutes
// a partition.
func DefaultOptions() Options {
	return Options{
		Partitions:   16,
		DedupeWindow: 10 * time.Minute,
		ReplayWindow: 5 * time.Minute,
		ReplayMax:    1000,
		JournalMax:   100_000,
		JournalBytes: 64 << 20,
		JournalAge:   30 * time.Minute,
		Log:          slog.New(slog.DiscardHandler),
		Now:          time.Now,
	}
}

func (o Options) withDefaults() Options {
	d := DefaultOptions()
	o.Partitions = positive(o.Partitions, d.Partitions)
	o.DedupeWindow = positive(o.DedupeWindow, d.DedupeWindow)
	o.ReplayWindow = positive(o.ReplayWindow, d.ReplayWindow)
	o.ReplayMax = positive(o.ReplayMax, d.ReplayMax)
	o.JournalMax = positive(o.JournalMax, d.JournalMax)
	o.JournalBytes = positive(o.JournalBytes, d.JournalBytes)
	o.JournalAge = max(positive(o.JournalAge, d.JournalAge), o.ReplayWindow)
	if o.Log == nil {
		o.Log = d.Log
	}
	if o.Now == nil {
		o.Now = d.Now
	}
	return o
}

func positive[T int | int64 | time.Duration](n, otherwise T) T {
	if n > 0 {
		return n
	}
	return otherwise
}

// Journal is a client of the stored journal. It is safe for concurrent use, by many
// goroutines and by many processes.
type Journal struct {
	client  redis.UniversalClient
	opts    Options
	metrics *metrics

	commit, boot, replay, trim *redis.Script

	ready   atomic.Bool
	booting sync.Mutex
	highest []atomic.Uint64 // by partition: the highest number seen, so that a new epoch lies above it
	weights []weight        // by partition
	trimmed atomic.Int64    // when memory was last freed, in nanoseconds
}

var (
	//go:embed commit.lua
	commitSource string
	//go:embed boot.lua
	bootSource string
	//go:embed replay.lua
	replaySource string
	//go:embed trim.lua
	trimSource string
)

// New makes a Journal over client, which stays the caller's to close. It does not connect.
func New(client redis.UniversalClient, o Options) *Journal {
	o = o.withDefaults()
	return &Journal{
		client:  client,
		opts:    o,
		metrics: newMetrics(o.Metrics),
		commit:  redis.NewScript(commitSource),
		boot:    redis.NewScript(bootSource),
		replay:  redis.NewScript(replaySource),
		trim:    redis.NewScript(trimSource),
		highest: make([]atomic.Uint64, o.Partitions),
		weights: make([]weight, o.Partitions),
	}
}

// Entry is one event to store. Event.ID and Event.Raw are set, and Raw, a compact JSON
// object, holds no position members yet.
type Entry struct {
	Event       event.Event
	Deliverable bool   // goes to browsers: replayed to its user, when it has a UserID
	Number      uint64 // in a numbered Batch: of the record it comes from; otherwise not looked at
}

// Stored is an event's place in the journal.
type Stored struct {
	event.Position
	Duplicate bool
	Raw       []byte // the event with its position spliced in; nil for a Duplicate
}

// tick is how often, in time, the script notes which number was the newest: the accuracy of
// the windows.
func (j *Journal) tick() time.Duration {
	return min(max(j.opts.ReplayWindow/256, 5*time.Millisecond), 2*time.Second)
}

func (j *Journal) saw(p int, seq uint64) {
	for {
		old := j.highest[p].Load()
		if seq <= old || j.highest[p].CompareAndSwap(old, seq) {
			return
		}
	}
}

func (j *Journal) checkPartition(op string, p int) error {
	if p < 0 || p >= j.opts.Partitions {
		return fault.Errorf(op, fault.Invalid, "there is no partition %d; they are 0 to %d", p, j.opts.Partitions-1)
	}
	return nil
}

// key names a key of partition p. The braces are the hash tag that keeps a partition in one
// slot.
func key(p int, name string) string { return fmt.Sprintf("spine:{p%02d}:%s", p, name) }

func replayKey(p int, userID string) string { return key(p, "replay:"+userID) }

func bucketKey(p int, bucket int64) string { return key(p, fmt.Sprintf("ids:%d", bucket)) }

func ms(d time.Duration) int64 { return d.Milliseconds() }

// node is the server that holds partition p. Calls to it are not repeated behind our back,
// as a cluster client does: whether a commit was done twice must stay visible.
func (j *Journal) node(ctx context.Context, p int) (redis.Cmdable, error) {
	if cluster, ok := j.client.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key(p, "head"))
	}
	return j.client, nil
}
