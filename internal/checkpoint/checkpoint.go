// Package checkpoint keeps how far a consumer of the journal has come, by partition: in Redis, where
// all processes of the consumer share it, and in a file of each process's own.
//
// Guarantees:
//   - A checkpoint only moves forward, whoever saves it and in whatever order: numbers of a newer
//     epoch lie above all older ones.
//   - A file is the whole old one or the whole new one after a crash. A damaged file, a foreign one
//     and one of another version are told apart and never overwritten by a read.
package checkpoint

import (
	"context"
	_ "embed"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
)

// Position says that all of a partition up to Seq is done. The zero Position is before everything.
type Position struct {
	Seq   uint64 `json:"seq"`
	Epoch uint64 `json:"epoch"`
}

// Set is a position for each partition that has one.
type Set map[int]Position

// Forward moves every position of s that is behind in from, and reports whether one was.
func (s Set) Forward(from Set) (moved bool) {
	for p, at := range from {
		if at.Seq > s[p].Seq {
			s[p], moved = at, true
		}
	}
	return moved
}

// Store is a consumer's checkpoint in Redis. Safe for concurrent use.
type Store struct {
	client rdb.Client
	key    string
	save   *redis.Script
}

//go:embed save.lua
var saveSource string

// New makes a Store of the consumer with this name. It does not connect; client stays the caller's
// to close.
func New(client rdb.Client, consumer string) *Store {
	return &Store{client: client, key: "spine:checkpoint:" + consumer, save: redis.NewScript(saveSource)}
}

// Load reads the checkpoint; an empty Set when there is none. Errors are those of rdb.Classify, and
// Corrupt for a value that no Store wrote.
func (s *Store) Load(ctx context.Context) (Set, error) {
	const op = "load checkpoint"
	found, err := s.client.HGetAll(ctx, s.key).Result()
	if err != nil {
		return nil, rdb.Classify(op, err)
	}
	set := make(Set, len(found))
	for field, value := range found {
		p, err := strconv.ParseUint(field, 10, 16)
		at, ok := parse(value)
		if err != nil || !ok {
			return nil, fault.Errorf(op, fault.Corrupt, "the hash %s in Redis holds %.40q for partition %.40q, which no eventspine wrote; delete that field, and the indexer begins there with the oldest event of the journal",
				s.key, value, field)
		}
		set[int(p)] = at
	}
	return set, nil
}

func parse(value string) (Position, bool) {
	seq, epoch, _ := strings.Cut(value, "/")
	n, err1 := strconv.ParseUint(seq, 10, 53)
	e, err2 := strconv.ParseUint(epoch, 10, 53)
	return Position{Seq: n, Epoch: e}, err1 == nil && err2 == nil
}

// Save moves the positions in Redis forward to those of set. One that is further already stays.
// Errors are those of rdb.Classify; then the call may be repeated.
func (s *Store) Save(ctx context.Context, set Set) error {
	if len(set) == 0 {
		return nil
	}
	args := make([]any, 0, 3*len(set))
	for p, at := range set {
		args = append(args, p, at.Seq, at.Epoch)
	}
	return rdb.Classify("save checkpoint", s.save.Run(ctx, s.client, []string{s.key}, args...).Err())
}

// Key is the name of the hash in Redis.
func (s *Store) Key() string { return s.key }
