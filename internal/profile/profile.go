// Package profile keeps the metadata of users, which enrichment adds to their events.
package profile

import (
	"context"
	"encoding/json"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
)

// MaxBytes bounds one user's metadata, as JSON.
const MaxBytes = 16 << 10

// Store keeps user metadata in Redis. It is safe for concurrent use.
type Store struct{ client redis.UniversalClient }

// New makes a Store over client, which stays the caller's to close.
func New(client redis.UniversalClient) *Store { return &Store{client} }

var errLater = fault.Errorf("profile", fault.Unavailable, "not ready")

// Put replaces the user's metadata.
func (s *Store) Put(ctx context.Context, userID string, meta json.RawMessage) error { return errLater }

// Lookup gives the user's metadata.
func (s *Store) Lookup(ctx context.Context, userID string) (json.RawMessage, error) {
	return nil, errLater
}

// Delete forgets the user.
func (s *Store) Delete(ctx context.Context, userID string) error { return errLater }

// LookupMany gives the metadata of those of the users that have some.
func (s *Store) LookupMany(ctx context.Context, ids []string) (map[string]json.RawMessage, error) {
	return nil, errLater
}

// Cache keeps what was read from a Store for a while.
type Cache struct{ store *Store }

// NewCache makes a cache of at most size users, each for ttl.
func NewCache(store *Store, size int, ttl time.Duration) *Cache { return &Cache{store} }

// Many is LookupMany through the cache.
func (c *Cache) Many(ctx context.Context, ids []string) (map[string]json.RawMessage, error) {
	return c.store.LookupMany(ctx, ids)
}

// Drop forgets what is cached about the user.
func (c *Cache) Drop(userID string) {}

// Stats are the cache's figures.
type Stats struct {
	Hits, Misses uint64
	Users        int
}

// Stats tells how the cache did so far.
func (c *Cache) Stats() Stats { return Stats{} }
