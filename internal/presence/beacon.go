package presence

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"eventspine/internal/quiet"
	"eventspine/internal/rdb"
)

const (
	beatsPerTimeout = 3
	batchSize       = 500             // users of one pipeline
	callTime        = 2 * time.Second // for Redis to answer one
	manyBridges     = 4               // of one user: beyond, those that live no more are taken away
)

// Hub is where a bridge's connections are; hub.Hub.
type Hub interface {
	Users() iter.Seq2[string, int]
	Connections(user string) int
}

// Options of a Beacon.
type Options struct {
	Instance string                // of the bridge; two with one name do no harm
	Timeout  time.Duration         // after the last beat the bridge counts as dead; default 10 s
	Registry prometheus.Registerer // nil: metrics are kept but not exported
	Log      *slog.Logger          // nil: nothing is logged
}

// Beacon tells Redis which users a bridge has. Safe for concurrent use.
type Beacon struct {
	client rdb.Client
	hub    Hub
	name   string // unique to this process
	o      Options
	away   *quiet.Dependency
	m      *metrics
	wake   chan struct{} // holds a token: somebody changed

	mu    sync.Mutex
	dirty map[string]struct{} // users to be written
	since map[string]int64    // of users that are online, ms

	// For the goroutine of Run:
	written map[string]entry // what Redis holds, as far as it said
	beats   uint64           // the number of the last beat that Redis took
}

type entry struct {
	record
	at time.Time
}

// NewBeacon makes a beacon over client, which stays the caller's to close. Run does the work.
func NewBeacon(client rdb.Client, h Hub, o Options) *Beacon {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	return &Beacon{client: client, hub: h, name: o.Instance + "." + rand.Text()[:12], o: o, away: quiet.NewDependency("presence", o.Log), m: newMetrics(o.Registry),
		wake: make(chan struct{}, 1), dirty: map[string]struct{}{}, since: map[string]int64{}, written: map[string]entry{}}
}

// Changed takes note that a user's first connection came or the last one went. It never waits, and
// does not call the hub.
func (b *Beacon) Changed(user string, online bool) {
	b.mu.Lock()
	b.dirty[user] = struct{}{}
	if online {
		b.since[user] = time.Now().UnixMilli()
	} else {
		delete(b.since, user)
	}
	b.m.users.Set(float64(len(b.since)))
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default: // a token is there
	}
}

// Run beats and writes until ctx ends, and then takes back what it wrote, within a second. It
// returns nil. While Redis is away the changes are kept, one a user.
func (b *Beacon) Run(ctx context.Context) error {
	tick := time.NewTicker(b.o.Timeout / beatsPerTimeout)
	defer tick.Stop()
	b.note(b.beat(ctx))
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = b.client.Del(last, bridgeKey(b.name)).Err() // else it expires
			return nil
		case <-b.wake:
			b.note(b.flush(ctx))
		case <-tick.C:
			b.note(b.beat(ctx))
		}
	}
}

func (b *Beacon) note(err error) {
	if err == nil {
		b.away.Fine()
		return
	}
	b.m.failed.Inc()
	b.away.Failed(rdb.Classify("write presence", err))
}

// beat renews the proof of life, and writes what differs from what Redis is known to hold. Where
// Redis does not remember the last beat it has lost data, or took this bridge for dead: then all is
// written again.
func (b *Beacon) beat(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var old *redis.StringCmd
	_, err := b.client.Pipelined(call, func(p redis.Pipeliner) error {
		old = p.Get(call, bridgeKey(b.name))
		p.Set(call, bridgeKey(b.name), strconv.FormatUint(b.beats+1, 10), b.o.Timeout)
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	switch {
	case b.beats == 0:
		clear(b.written)
	case old.Val() != strconv.FormatUint(b.beats, 10):
		b.m.rewrites.Inc()
		clear(b.written)
	}
	b.beats++
	b.compare()
	return b.flush(ctx)
}

// compare marks the users whose entry is wrong or old.
func (b *Beacon) compare() {
	now, wrong := time.Now(), []string{}
	for user, n := range b.hub.Users() {
		if e, ok := b.written[user]; !ok || e.connections != n || now.Sub(e.at) > keyLife/2 {
			wrong = append(wrong, user)
		}
	}
	for user := range b.written {
		if b.hub.Connections(user) == 0 {
			wrong = append(wrong, user)
		}
	}
	b.mark(wrong)
}

func (b *Beacon) mark(users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, user := range users {
		b.dirty[user] = struct{}{}
	}
}

// flush writes the users that are marked. Those it could not write stay so, until the next beat.
func (b *Beacon) flush(ctx context.Context) error {
	b.mu.Lock()
	marked := b.dirty
	b.dirty = make(map[string]struct{})
	b.mu.Unlock()
	batch := make([]string, 0, min(len(marked), batchSize))
	for user := range marked {
		batch = append(batch, user)
		delete(marked, user)
		if len(batch) < batchSize && len(marked) > 0 {
			continue
		}
		if err := b.write(ctx, batch); err != nil {
			for user := range marked {
				batch = append(batch, user)
			}
			b.mark(batch)
			return err
		}
		batch = batch[:0]
	}
	return nil
}

// write tells Redis how it stands with these users now.
func (b *Beacon) write(ctx context.Context, batch []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	now := make(map[string]entry, len(batch))
	sizes := make(map[string]*redis.IntCmd, len(batch))
	_, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, user := range batch {
			e := entry{record{b.hub.Connections(user), b.onlineSince(user)}, time.Now()}
			now[user] = e
			if e.connections == 0 {
				p.HDel(ctx, userKey(user), b.name)
				continue
			}
			p.HSet(ctx, userKey(user), b.name, e.String())
			p.PExpire(ctx, userKey(user), keyLife)
			sizes[user] = p.HLen(ctx, userKey(user))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for user, e := range now {
		if e.connections == 0 {
			delete(b.written, user)
		} else {
			b.written[user] = e
		}
	}
	b.m.writes.Add(float64(len(batch)))
	for user, n := range sizes {
		if n.Val() > manyBridges {
			if _, err := sweep(ctx, b.client, user); err != nil {
				return err
			}
		}
	}
	return nil
}

// onlineSince is when the user came, or now when nobody said so.
func (b *Beacon) onlineSince(user string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, ok := b.since[user]; ok {
		return at
	}
	return time.Now().UnixMilli()
}
