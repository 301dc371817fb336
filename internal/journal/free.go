package journal

import (
	"context"
	"time"

	"eventspine/internal/rdb"
)

// freeEvery bounds how often a full Redis is trimmed.
const freeEvery = time.Second

// free trims every partition to what replay still needs, as Redis is out of memory. The next
// Append may find room.
func (j *Journal) free(ctx context.Context) {
	now, last := time.Now().UnixNano(), j.trimmed.Load()
	if now-last < int64(freeEvery) || !j.trimmed.CompareAndSwap(last, now) {
		return
	}
	freed := int64(0)
	for p := range j.opts.Partitions {
		n, err := j.freePartition(ctx, p)
		if err != nil {
			j.opts.Log.Warn("journal not trimmed", "partition", p, "error", err)
			return
		}
		freed += n
	}
	j.metrics.freed.Add(float64(freed))
	j.opts.Log.Warn("redis is out of memory; trimmed the journal to the replay window", "events", freed, "fix", "raise maxmemory or lower JournalMax")
}

func (j *Journal) freePartition(ctx context.Context, p int) (int64, error) {
	const op = "trim journal"
	node, err := j.node(ctx, p)
	if err != nil {
		return 0, rdb.Classify(op, err)
	}
	outdated := j.opts.Now().UnixMilli()/ms(j.opts.DedupeWindow) - 2
	keys := []string{key(p, "head"), key(p, "journal"), key(p, "times"), bucketKey(p, outdated)}
	n, err := j.trim.Run(ctx, node, keys, ms(j.opts.ReplayWindow), j.opts.JournalMax).Int64()
	return n, rdb.Classify(op, err)
}
