package journal

import (
	"context"
	"strconv"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

const partitionsKey = "spine:partitions"

// Ready prepares Redis for this journal: the partition count is written at the first start
// and compared after that (Invalid when it differs), every partition gets its epoch, and the
// scripts are loaded. It may be called again; Append calls it when nobody did. Errors besides
// that are those of rdb.Classify.
func (j *Journal) Ready(ctx context.Context) error {
	all := make([]int, j.opts.Partitions)
	for p := range all {
		all[p] = p
	}
	if err := j.prepare(ctx, all); err != nil {
		return err
	}
	j.ready.Store(true)
	return nil
}

func (j *Journal) ensureReady(ctx context.Context) error {
	if j.ready.Load() {
		return nil
	}
	return j.Ready(ctx)
}

// prepare boots the partitions, each of which changes only if it must, and loads the scripts
// where they are missing. One call at a time.
func (j *Journal) prepare(ctx context.Context, partitions []int) error {
	j.booting.Lock()
	defer j.booting.Unlock()
	if err := j.guardPartitions(ctx); err != nil {
		return err
	}
	begun := 0
	for _, p := range partitions {
		if err := j.mayBoot(ctx, p); err != nil {
			return err
		}
		isNew, err := j.bootPartition(ctx, p)
		if err != nil {
			return err
		}
		if isNew {
			begun++
		}
	}
	if begun > 0 {
		j.metrics.epochs.Add(float64(begun))
		j.opts.Log.Info("journal epochs began", "partitions", begun)
	}
	return rdb.Classify("load journal scripts", j.loadScripts(ctx))
}

// guardPartitions keeps two processes from spreading users over partitions differently.
func (j *Journal) guardPartitions(ctx context.Context) error {
	const op = "check partition count"
	want := strconv.Itoa(j.opts.Partitions)
	if err := j.client.SetNX(ctx, partitionsKey, want, 0).Err(); err != nil {
		return rdb.Classify(op, err)
	}
	got, err := j.client.Get(ctx, partitionsKey).Result()
	if err != nil {
		return rdb.Classify(op, err)
	}
	if got != want {
		return fault.Errorf(op, fault.Invalid,
			"redis was set up with %s partitions and this process is set to %s; the count cannot change while redis holds events", got, want)
	}
	return nil
}

// mayBoot keeps an observer from beginning the epoch of a partition that was wiped. It does not know
// the last numbers that were given, and where the server's clock was set back as well they would be
// given once more. Those who store know them, but for a second's.
func (j *Journal) mayBoot(ctx context.Context, p int) error {
	const op = "boot partition"
	if !j.opts.Observer || j.highest[p].Load() == 0 {
		return nil
	}
	n, err := j.client.Exists(ctx, key(p, "head")).Result()
	if err == nil && n == 0 {
		return fault.Errorf(op, fault.Unavailable, "redis was wiped, and no worker has begun anew yet")
	}
	return rdb.Classify(op, err)
}

// bootPartition gives p an epoch and reports whether it is a new one.
func (j *Journal) bootPartition(ctx context.Context, p int) (bool, error) {
	const op = "boot partition"
	node, err := j.node(ctx, p)
	if err != nil {
		return false, rdb.Classify(op, err)
	}
	keys := []string{key(p, "head"), key(p, "journal")}
	got, err := j.boot.Eval(ctx, node, keys, j.highest[p].Load(), p).Int64Slice()
	if err != nil {
		return false, rdb.Classify(op, err)
	}
	if len(got) != 3 {
		return false, fault.Errorf(op, fault.Corrupt, "the script answered %v", got)
	}
	j.saw(p, uint64(got[1]))
	return got[2] == 1, nil
}

func (j *Journal) loadScripts(ctx context.Context) error {
	load := func(ctx context.Context, node redis.Scripter) error {
		for _, s := range []*redis.Script{j.commit, j.replay, j.trim} {
			if err := s.Load(ctx, node).Err(); err != nil {
				return err
			}
		}
		return nil
	}
	if cluster, ok := j.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return load(ctx, node) })
	}
	return load(ctx, j.client)
}
