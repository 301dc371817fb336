package maintain

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/archive"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// KeeperOptions say what a Keeper does, and how often.
type KeeperOptions struct {
	Verifier     *Verifier
	Redis        rdb.Client
	Retention    time.Duration    // age past which a day's index is deleted; 0: never
	RetainLeast  time.Duration    // age below which no index is deleted by Early; 0: Early deletes none
	RetainEvery  time.Duration    // between looks for indices that are too old; default 10 min
	VerifyEvery  time.Duration    // between comparisons; 0: none
	VerifyWindow time.Duration    // how far back they look; 0: as far as the journal reaches
	Now          func() time.Time // nil: time.Now; by it indices are too old
	Lease        time.Duration    // how long an elected Keeper that died stays elected; default 30 s
	Log          *slog.Logger
	Metrics      prometheus.Registerer // nil: none
}

// Keeper does what one process has to do for all indexers: retention, and comparisons of the index
// with the journal, as metrics. Any number of them may run: one at a time is elected.
type Keeper struct {
	o     KeeperOptions
	m     *metrics
	lease *rdb.Lease
}

// NewKeeper makes a Keeper; it does not connect.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Lease <= 0 {
		o.Lease = leaseTime
	}
	if o.RetainEvery <= 0 {
		o.RetainEvery = 10 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o: o, m: newMetrics(o.Metrics), lease: rdb.NewLease(o.Redis, retentionName, o.Lease)}
}

// Run works whenever this Keeper is elected, until ctx ends. It returns nil: what fails is logged,
// counted and tried again.
func (k *Keeper) Run(ctx context.Context) error {
	for wait := time.Duration(0); ; wait = k.o.Lease/3 + rand.N(k.o.Lease/3) {
		if !pause(ctx, wait) {
			return nil
		}
		_, err := k.lease.Hold(ctx, k.work)
		k.m.resign()
		if err != nil && ctx.Err() == nil {
			k.m.failed.WithLabelValues("election").Inc()
			k.o.Log.Warn("maintenance is not elected", "error", err)
		}
	}
}

// work does its tasks in turn until the lease is lost.
func (k *Keeper) work(ctx context.Context) error {
	k.m.elected.Set(1)
	k.o.Log.Info("this process does the maintenance")
	var retain, verify time.Time // when each is due
	for {
		now := time.Now()
		if !now.Before(retain) {
			k.task(ctx, "retention", k.retain)
			retain = now.Add(k.o.RetainEvery)
		}
		next := retain
		if k.o.VerifyEvery > 0 {
			if verify.IsZero() { // not at once: an indexer that just started has to catch up
				verify = now.Add(k.o.VerifyEvery)
			}
			if !now.Before(verify) {
				k.task(ctx, "verify", k.verify)
				verify = now.Add(k.o.VerifyEvery)
			}
			if verify.Before(next) {
				next = verify
			}
		}
		if !pause(ctx, time.Until(next)) {
			return nil
		}
	}
}

func (k *Keeper) task(ctx context.Context, name string, do func(context.Context) error) {
	if err := do(ctx); err != nil && ctx.Err() == nil {
		k.m.failed.WithLabelValues(name).Inc()
		k.o.Log.Warn("maintenance failed, it will be tried again", "task", name, "error", err)
	}
}

// retain mends what a killed rebuild left, while none is under way, and deletes what is too old.
func (k *Keeper) retain(ctx context.Context) error {
	a := k.o.Verifier.Archive
	_, err := rdb.NewLease(k.o.Redis, reindexLease, leaseTime).Hold(ctx, func(ctx context.Context) error {
		mended, err := a.Mend(ctx)
		if len(mended) > 0 {
			k.o.Log.Warn("mended indices that an interrupted reindex left", "indices", mended, "fix", "run eventspine reindex again")
		}
		return err
	})
	if err != nil || k.o.Retention <= 0 {
		return err
	}
	gone, err := a.Retain(ctx, k.o.Now().Add(-k.o.Retention), k.may)
	if len(gone) > 0 {
		k.m.deleted.Add(float64(len(gone)))
		k.o.Log.Info("deleted indices for their age", "indices", gone, "retention", k.o.Retention.String())
	}
	return err
}

// Early deletes the index that is Young no longer since the longest time before its time, when this
// Keeper is elected and that time is over RetainLeast: for when a disk is nearly full. It deletes one
// day, or several of one moment, so that its caller can look again. Errors are as those of archive.Retain.
func (k *Keeper) Early(ctx context.Context) error {
	if k.o.RetainLeast <= 0 || fault.KindOf(k.lease.Check(ctx)) == fault.Conflict { // another is elected
		return nil
	}
	a := k.o.Verifier.Archive
	days, err := a.Days(ctx)
	if err != nil || len(days) == 0 {
		return err
	}
	oldest := slices.MinFunc(days, func(x, y archive.Day) int { return x.Young().Compare(y.Young()) })
	if oldest.Young().After(k.o.Now().Add(-k.o.RetainLeast)) {
		return nil
	}
	gone, err := a.Retain(ctx, oldest.Young(), k.may)
	if len(gone) > 0 {
		k.m.deleted.Add(float64(len(gone)))
		k.o.Log.Warn("deleted an index before its time, as a disk of elasticsearch is nearly full", "indices", gone, "fix", "give it more room, or lower INDEXER_RETENTION")
	}
	return err
}

// may allows a day to be deleted while this Keeper is elected, and notes that it is.
func (k *Keeper) may(ctx context.Context, d archive.Day) error {
	if err := k.lease.Check(ctx); err != nil {
		return err
	}
	return noteDeleted(ctx, k.o.Redis, d.Name)
}

const listed = 20 // missing events that a log line names

// verify compares and sets the metrics.
func (k *Keeper) verify(ctx context.Context) error {
	began := time.Now()
	r, err := k.o.Verifier.Verify(ctx, Request{Since: k.o.VerifyWindow, Lag: DefaultLag, Limit: listed})
	if err != nil {
		return err
	}
	all := r.Sum()
	k.m.compared(r, time.Since(began))
	if !r.Agrees() {
		k.o.Log.Error("the index is not what the journal holds", "missing", all.Missing, "repeated", all.Repeated, "compared", all.Journal,
			"first", r.Missing, "fix", "run eventspine verify --repair")
	}
	return nil
}

// pause waits for d and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
