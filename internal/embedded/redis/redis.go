// Package redis is a stand-in Redis inside this process (miniredis on a loopback port), so
// that the whole pipeline runs where no redis-server is at hand. It keeps nothing on disk:
// a restart is a wiped Redis, which the journal answers with a new epoch.
package redis

import (
	"context"
	"sync"

	"github.com/alicebob/miniredis/v2"

	"eventspine/internal/fault"
)

// Server is a running stand-in. Its methods are safe for concurrent use.
type Server struct {
	mini  *miniredis.Miniredis
	url   string
	close sync.Once
}

// Start runs a server on a free loopback port until Close. Keys expire as the clock goes.
// Errors are of kind Unavailable.
func Start(ctx context.Context) (*Server, error) {
	const op = "start embedded redis"
	if err := ctx.Err(); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	mini := miniredis.NewMiniRedis()
	mini.ClockTTL(true)
	if err := mini.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fault.E(op, fault.Unavailable, err)
	}
	return &Server{mini: mini, url: "redis://" + mini.Addr()}, nil
}

// URL is where the server listens, in the form that REDIS_URL takes.
func (s *Server) URL() string { return s.url }

// Close ends the server and its connections; all data is gone. It may be called again.
func (s *Server) Close() { s.close.Do(s.mini.Close) }
