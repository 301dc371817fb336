package maintain

import (
	"context"
	"time"

	"eventspine/internal/rdb"
)

// deletedPrefix begins the key that says that a day's index was deleted lately.
const deletedPrefix = "spine:deleted-day:"

// deletedFor is how long a deletion is remembered: longer than a journal holds an event.
const deletedFor = 24 * time.Hour

// noteDeleted remembers that the index of the day is deleted, before it is.
func noteDeleted(ctx context.Context, r rdb.Client, day string) error {
	return rdb.Classify("note a deletion", r.Set(ctx, deletedPrefix+day, time.Now().UnixMilli(), deletedFor).Err())
}

// wasDeleted reports whether noteDeleted was called for the day lately.
func wasDeleted(ctx context.Context, r rdb.Client, day string) (bool, error) {
	n, err := r.Exists(ctx, deletedPrefix+day).Result()
	return n > 0, rdb.Classify("look for a deletion", err)
}
