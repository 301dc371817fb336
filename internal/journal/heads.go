package journal

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// Head is where a partition stands: its newest number, which is the epoch itself before the
// first event of an epoch, and the newest one of a deliverable event, 0 without any and of an
// earlier epoch where this one has none.
type Head struct{ Seq, Epoch, Feed uint64 }

// Heads reads where every partition stands; entry p is partition p's. A partition that was wiped,
// or whose server was started again or is another one now, is given its new epoch first, also
// while nobody stores anything. Errors are those of rdb.Classify.
func (j *Journal) Heads(ctx context.Context) ([]Head, error) {
	const op = "read heads"
	out := make([]Head, j.opts.Partitions)
	left := make([]int, j.opts.Partitions)
	for p := range left {
		left[p] = p
	}
	for range maxTries {
		outdated, err := j.look(ctx, left, out)
		if err != nil && !j.redirected(err) {
			return nil, rdb.Classify(op, err)
		}
		if len(outdated) == 0 && err == nil {
			return out, nil
		}
		if err != nil {
			j.client.(*redis.ClusterClient).ReloadState(ctx)
			continue
		}
		if err := j.prepare(ctx, outdated); err != nil {
			return nil, err
		}
		left = outdated
	}
	return nil, fault.Errorf(op, fault.Unavailable, "partitions are wiped or moved again and again")
}

// look reads the heads of some partitions into out and gives those that need a new epoch.
func (j *Journal) look(ctx context.Context, partitions []int, out []Head) (outdated []int, err error) {
	groups := map[redis.Cmdable][]int{}
	for _, p := range partitions {
		node, err := j.node(ctx, p)
		if err != nil {
			return nil, err
		}
		groups[node] = append(groups[node], p)
	}
	for node, group := range groups {
		heads := make([]*redis.SliceCmd, len(group))
		var info *redis.StringCmd
		// One pipeline is one connection, and a connection ends with the run of its server.
		_, err := node.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			info = pipe.Info(ctx, "server")
			for i, p := range group {
				heads[i] = pipe.HMGet(ctx, key(p, "head"), "seq", "epoch", "run", "feed")
			}
			return nil
		})
		// The answer to INFO may be a refusal: the script takes that for no run id, too.
		if refused := redis.Error(nil); err != nil && !errors.As(err, &refused) {
			return nil, err
		}
		run := runID(info.Val())
		for i, p := range group {
			got, err := heads[i].Result()
			if err != nil {
				return nil, err
			}
			if got[0] == nil || got[1] == nil || got[2] != run {
				outdated = append(outdated, p)
				continue
			}
			seq, epoch, err := numbers("read heads", got[0], got[1])
			if err != nil {
				return nil, err
			}
			feed := uint64(0)
			if got[3] != nil {
				if feed, _, err = numbers("read heads", got[3], got[3]); err != nil {
					return nil, err
				}
			}
			out[p] = Head{seq, epoch, feed}
			j.saw(p, seq)
		}
	}
	return outdated, nil
}

// runID finds the server's run id, as the scripts do.
func runID(info string) string {
	_, rest, ok := strings.Cut(info, "run_id:")
	if !ok {
		return "none"
	}
	end := 0
	for end < len(rest) && strings.IndexByte("0123456789abcdefABCDEF", rest[end]) >= 0 {
		end++
	}
	return rest[:end]
}
