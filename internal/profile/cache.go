package profile

import (
	"context"
	"encoding/json"
	"hash/maphash"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Cache keeps what was read from a Store, and also that a user has no metadata, for a while.
// It is safe for concurrent use.
type Cache struct {
	store *Store
	ttl   time.Duration
	users *lru.Cache[string, cached]

	// drops counts Drop calls, spread over slots by user. A fetch whose slot moved while it
	// was under way may have read what Drop was to forget, and is not cached.
	drops [1024]atomic.Uint64
	seed  maphash.Seed

	hits, misses atomic.Uint64
}

type cached struct {
	meta    json.RawMessage // nil: the user has none
	expires time.Time
}

// NewCache makes a cache of at most size users (at least 1), each kept for ttl at most.
func NewCache(store *Store, size int, ttl time.Duration) *Cache {
	users, _ := lru.New[string, cached](max(size, 1)) // fails for a size below 1 only
	return &Cache{store: store, ttl: ttl, users: users, seed: maphash.MakeSeed()}
}

// Many is Store.LookupMany through the cache: one round trip for all that is not cached, none
// when everything is. On error the result holds what was cached. The values are shared: do
// not change them.
func (c *Cache) Many(ctx context.Context, ids []string) (map[string]json.RawMessage, error) {
	out := make(map[string]json.RawMessage, len(ids))
	now := time.Now()
	var missing []string
	before := make(map[string]uint64)
	for _, id := range ids {
		if _, twice := before[id]; twice {
			continue
		}
		if u, ok := c.users.Get(id); ok && now.Before(u.expires) {
			c.hits.Add(1)
			if u.meta != nil {
				out[id] = u.meta
			}
			continue
		}
		c.misses.Add(1)
		missing = append(missing, id)
		before[id] = c.slot(id).Load()
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := c.store.LookupMany(ctx, missing)
	if err != nil {
		return out, err
	}
	for _, id := range missing {
		meta := found[id]
		if meta != nil {
			out[id] = meta
		}
		c.keep(id, cached{meta, now.Add(c.ttl)}, before[id])
	}
	return out, nil
}

// keep caches what was fetched, unless the user was dropped since drops was read.
func (c *Cache) keep(id string, u cached, drops uint64) {
	slot := c.slot(id)
	if slot.Load() != drops {
		return
	}
	c.users.Add(id, u)
	if slot.Load() != drops { // dropped in between: Drop may have come before Add
		c.users.Remove(id)
	}
}

// Drop forgets what is cached about the user. What a fetch under way brings is not cached
// either, so that the next Many reads anew.
func (c *Cache) Drop(userID string) {
	c.slot(userID).Add(1)
	c.users.Remove(userID)
}

func (c *Cache) slot(id string) *atomic.Uint64 {
	return &c.drops[maphash.String(c.seed, id)%uint64(len(c.drops))]
}

// Stats are a cache's figures since it was made.
type Stats struct {
	Hits, Misses uint64 // users asked for
	Users        int    // cached now, those without metadata among them
}

// Stats tells how the cache does.
func (c *Cache) Stats() Stats {
	return Stats{Hits: c.hits.Load(), Misses: c.misses.Load(), Users: c.users.Len()}
}
