package revoked

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/rdb"
)

const (
	block      = 500 * time.Millisecond // Redis holds a question for news this long
	answerTime = 2 * time.Second        // beyond which a Redis that is silent counts as away
	pageSize   = 5000                   // entries of one answer
	firstWait  = 100 * time.Millisecond // after a failure; then twice as long each time
	longWait   = 2 * time.Second
	lookEvery  = 30 * time.Second // whether Redis still holds all of it
	begin      = "0-0"
)

// Run follows the list until ctx ends, and returns nil then. After each time that Redis was away it
// reads all of it again, and writes what is missing there.
func (l *List) Run(ctx context.Context) error {
	wait := firstWait
	for ctx.Err() == nil {
		if err := l.follow(ctx, func() { wait = firstWait }); err != nil && ctx.Err() == nil {
			l.away.Failed(rdb.Classify("follow revocations", err))
			pause(ctx, wait)
			wait = min(2*wait, longWait)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// follow reads everything and then what comes, until there is an error.
func (l *List) follow(ctx context.Context, works func()) error {
	last, err := l.load(ctx)
	if err != nil {
		return err
	}
	works()
	l.away.Fine()
	l.once.Do(func() { close(l.loaded) })
	look := time.Now().Add(lookEvery)
	for ctx.Err() == nil {
		var fresh []entry
		if fresh, last, err = l.page(ctx, last, block); err != nil {
			return err
		}
		if len(fresh) > 0 {
			l.take(fresh)
		}
		if time.Now().After(look) {
			look = time.Now().Add(lookEvery)
			l.forget()
			if lost, err := l.lost(ctx); err != nil || lost {
				return err // without one: begin anew
			}
		}
	}
	return nil
}

// load reads the whole stream and returns where it ended. What it lacks of what is known here, Redis
// has lost: it is stored again.
func (l *List) load(ctx context.Context) (last string, err error) {
	stored := List{tokens: map[string]int64{}, users: map[string]mark{}}
	last = begin
	for {
		fresh, next, err := l.page(ctx, last, -1)
		if err != nil {
			return "", err
		}
		if next == last {
			break
		}
		last = next
		l.take(fresh)
		for _, e := range fresh {
			stored.put(e)
		}
	}
	missing := l.missing(&stored)
	if len(missing) == 0 {
		return last, nil
	}
	for batch := missing; len(batch) > 0; batch = batch[min(len(batch), pageSize):] {
		if err := l.store(ctx, batch[:min(len(batch), pageSize)]); err != nil {
			return "", err
		}
	}
	l.m.restored.Add(float64(len(missing)))
	l.o.Log.Warn("redis had lost revocations; they are stored again", "count", len(missing))
	return last, nil
}

// missing lists what is in force here and weaker or absent in the other.
func (l *List) missing(other *List) []entry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []entry
	now := time.Now().UnixMilli()
	for id, until := range l.tokens {
		if _, ok := other.tokens[id]; !ok && until > now {
			out = append(out, entry{token: id, until: until})
		}
	}
	for user, m := range l.users {
		if m.until > now && other.users[user].before < m.before {
			out = append(out, entry{user: user, before: m.before, until: m.until})
		}
	}
	return out
}

// lost reports whether the stream is shorter than it must be, as after a FLUSHALL, which breaks no
// connection.
func (l *List) lost(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	n, err := l.client.XLen(ctx, key).Result()
	l.mu.RLock()
	defer l.mu.RUnlock()
	return n < int64(len(l.tokens)+len(l.users)), err
}

// page reads what comes after last, waiting for it up to wait; negative: not at all.
func (l *List) page(ctx context.Context, last string, wait time.Duration) (out []entry, next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(wait, 0)+answerTime)
	defer cancel()
	answer, err := l.client.XRead(ctx, &redis.XReadArgs{Streams: []string{key, last}, Count: pageSize, Block: wait}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, last, nil
	}
	if err != nil || len(answer) == 0 {
		return nil, last, err
	}
	for _, message := range answer[0].Messages {
		last = message.ID
		if e, ok := parse(message.Values); ok {
			out = append(out, e)
		} else {
			l.m.malformed.Inc()
		}
	}
	return out, last, nil
}
