package search

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

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
	store    *store
	done     chan struct{}
}

// Start opens the database in Dir and listens. ctx bounds only the start. Errors are of kind
// Invalid for a directory or an address that cannot be used, and Corrupt for a database that
// cannot be read.
func Start(ctx context.Context, o Options) (*Server, error) {
	const op = "start embedded search"
	if o.Dir == "" {
		return nil, fault.Errorf(op, fault.Invalid, "no directory is given")
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, fault.E(op, fault.Invalid, err)
	}
	st, err := openStore(ctx, filepath.Join(o.Dir, "search.sqlite"))
	if err != nil {
		return nil, fault.E(op, fault.Corrupt, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, errors.Join(fault.E(op, fault.Invalid, err), st.close())
	}
	s := &Server{listener: l, store: st, done: make(chan struct{})}
	s.http = &http.Server{
		Handler:           newHandler(st, o.Log),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("embedded search stopped", "error", err)
		}
	}()
	return s, nil
}

// URL is the server's address as a client needs it.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close lets requests under way end, for 5 seconds at most, and closes the database. Call it once.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.done
	return errors.Join(err, s.store.close())
}
