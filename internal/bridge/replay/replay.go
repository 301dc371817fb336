package replay

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/journal"
	"eventspine/internal/quiet"
)

// Journal is what replays read: journal.Journal.
type Journal interface {
	Replay(ctx context.Context, userID string, after uint64, limit int) (journal.Page, error)
	Lookup(ctx context.Context, p int, seqs []uint64) ([]journal.Stored, error)
	Heads(ctx context.Context) ([]journal.Head, error)
}

// Options are the settings of a Replayer. Journal and Partitions are needed; the other zero values
// have defaults.
type Options struct {
	Journal    Journal
	Partitions int
	Window     time.Duration // how far back a user's events go; default 5 min
	Limit      int           // events of the user, and of everybody, in one answer; default 1,000

	Concurrent int           // replays at the same time; default 8
	Rate       int           // events a second over all of them; default 20,000
	Waiting    int           // replays that may wait for their turn; default 10,000
	Wait       time.Duration // for how long; default 15 s

	// Followed waits a moment until nothing is missed that is stored for the user from then on, and
	// reports whether that is so; nil: it always is.
	Followed func(ctx context.Context, user string) bool

	Registry prometheus.Registerer // nil: metrics are kept but not exported
	Log      *slog.Logger          // nil: nothing is logged
}

func (o *Options) defaults() {
	setInt := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	setInt(&o.Limit, 1000)
	setInt(&o.Concurrent, 8)
	setInt(&o.Rate, 20_000)
	setInt(&o.Waiting, 10_000)
	if o.Followed == nil {
		o.Followed = func(context.Context, string) bool { return true }
	}
	set(&o.Window, 5*time.Minute)
	set(&o.Wait, 15*time.Second)
}

// recentEvents is how many positions are remembered, with the order they were delivered in, for
// clients that know one number only.
const recentEvents = 1 << 16

// Replayer answers clients that missed something. Safe for concurrent use.
type Replayer struct {
	opt    Options
	recent *recent
	heads  *heads
	budget *budget
	now    func() time.Time
	m      *metrics
	log    *quiet.Logger
}

// New makes a Replayer, which has nothing to be closed.
func New(o Options) *Replayer {
	o.defaults()
	r := &Replayer{opt: o, recent: newRecent(recentEvents, o.Partitions), heads: newHeads(o.Journal), budget: newBudget(o),
		now: time.Now, log: quiet.New(o.Log, time.Second)}
	r.m = newMetrics(o.Registry, func() float64 { return float64(r.budget.waiting.Load()) })
	return r
}

// Delivered notes that an event was handed to the connections it is for. Calls are in the order
// of delivery.
func (r *Replayer) Delivered(partition int, seq uint64) { r.recent.add(place{partition, seq}) }

// Info is what a client is told about what it got.
type Info struct {
	Complete   bool      `json:"complete"` // nothing between the client's position and now is missing, but what More announces
	More       bool      `json:"more"`     // there is more; sync(last) gives it
	Last       *Position `json:"last,omitempty"`
	Error      string    `json:"error,omitempty"`
	RetryAfter int64     `json:"retryAfter,omitempty"` // milliseconds; nothing was given for now
}

// Position has the form that sync takes.
type Position struct {
	User  uint64 `json:"user"`
	All   uint64 `json:"all"`
	Epoch Epochs `json:"epoch"`
}

// Epochs are the journal's generations that the two numbers of a Position are of.
type Epochs struct {
	User uint64 `json:"user"`
	All  uint64 `json:"all"`
}

func (i *Info) encode() []byte {
	b, err := json.Marshal(i)
	if err != nil { // numbers and strings only
		b = []byte(`{"complete":false,"more":false}`)
	}
	return b
}
