package journal

import (
	"context"
	"strconv"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// Newest gives the number of each user's newest deliverable event, 0 where the replay window holds
// none. Result i belongs to users[i], which must be user ids that Append has taken, or
// event.Everybody. Errors are those of rdb.Classify, and Corrupt.
func (j *Journal) Newest(ctx context.Context, users []string) ([]uint64, error) {
	const op = "read newest events"
	out := make([]uint64, len(users))
	for from := 0; from < len(users); from += readChunk {
		chunk := users[from:min(from+readChunk, len(users))]
		answers := make([]*redis.StringSliceCmd, len(chunk))
		_, err := j.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i, user := range chunk {
				answers[i] = pipe.ZRevRange(ctx, replayKey(event.Partition(user, "", j.opts.Partitions), user), 0, 0)
			}
			return nil
		})
		if err != nil {
			return nil, rdb.Classify(op, err)
		}
		for i := range chunk {
			found := answers[i].Val()
			if len(found) == 0 {
				continue
			}
			if out[from+i], err = strconv.ParseUint(found[0], 10, 53); err != nil {
				return nil, fault.E(op, fault.Corrupt, err)
			}
		}
	}
	return out, nil
}
