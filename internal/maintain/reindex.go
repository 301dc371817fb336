package maintain

import (
	"context"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

const (
	leaseTime     = 30 * time.Second
	reindexLease  = "reindex"
	retentionName = "maintain"
)

// Reindexer rebuilds daily indices under the mapping of today.
type Reindexer struct {
	Archive  *archive.Archive
	Redis    rdb.Client
	Progress func(Progress) // told now and then; nil: nobody
}

// Progress says how far a rebuild is.
type Progress struct {
	Day         string // the one being copied
	Number, All int    // it is the Number-th of All days, from 1
	Docs, Total int64  // copied of all days so far, and in all
	Done        bool   // this day's copy took the old index's place
}

// Run rebuilds the days that pick wants, one after the other, oldest first, and returns how many
// there were. Only one Run is under way at a time, on whatever machine: another is of kind
// Conflict. After an error the days before are done and the rest is as it was; Run again goes on.
func (r *Reindexer) Run(ctx context.Context, pick func(archive.Day) bool) (days int, err error) {
	held, err := rdb.NewLease(r.Redis, reindexLease, leaseTime).Hold(ctx, func(ctx context.Context) error {
		days, err = r.run(ctx, pick)
		return err
	})
	if err == nil && !held {
		err = fault.Errorf("reindex", fault.Conflict, "another one is under way, or ended less than %v ago without a farewell", leaseTime)
	}
	return days, err
}

func (r *Reindexer) run(ctx context.Context, pick func(archive.Day) bool) (int, error) {
	if err := r.Archive.Prepare(ctx); err != nil { // new days are to have the mapping as well
		return 0, err
	}
	if _, err := r.Archive.Mend(ctx); err != nil {
		return 0, err
	}
	all, err := r.Archive.Days(ctx)
	if err != nil {
		return 0, err
	}
	var days []archive.Day
	p := Progress{}
	for _, d := range all {
		if !pick(d) {
			continue
		}
		n, err := r.Archive.CountDay(ctx, d)
		if err != nil {
			return 0, err
		}
		p.Total += n
		days = append(days, d)
	}
	p.All = len(days)
	before := int64(0)
	for i, d := range days {
		p.Day, p.Number, p.Done = d.Name, i+1, false
		n, err := r.Archive.Rebuild(ctx, d, func(docs int64) {
			p.Docs, p.Total = before+docs, max(p.Total, before+docs)
			r.tell(p)
		})
		if err != nil {
			return i, err
		}
		before += n
		p.Docs, p.Total, p.Done = before, max(p.Total, before), true
		r.tell(p)
	}
	return len(days), nil
}

func (r *Reindexer) tell(p Progress) {
	if r.Progress != nil {
		r.Progress(p)
	}
}
