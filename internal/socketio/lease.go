package socketio

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"eventspine/internal/event"
	"eventspine/internal/fault"
	"eventspine/internal/socketio/wire"
)

// lease is the time a connection's token is good for. Before the end the client is warned, and may
// go on with another token.
type lease struct {
	before time.Duration
	warn   func(expires time.Time)
	end    func()

	mu    sync.Mutex
	user  User
	timer *time.Timer // nil: the token does not end, or it is all over
	over  bool
}

// start begins the time of the token that the client came with, unless it has brought another one.
func (l *lease) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil {
		l.run()
	}
}

// begin takes up the user's token, for the first time or in place of the last.
func (l *lease) begin(u User) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.user = u
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.run()
}

// run begins the time of the user's token. The caller holds the lock.
func (l *lease) run() {
	if u := l.user; !u.Expires.IsZero() && !l.over {
		l.timer = time.AfterFunc(time.Until(u.Expires)-l.before, func() { l.expiring(u.Expires) })
	}
}

func (l *lease) expiring(at time.Time) {
	l.mu.Lock()
	current := !l.over && l.user.Expires.Equal(at)
	if current {
		l.timer = time.AfterFunc(time.Until(at), func() {
			if l.current(at) {
				l.end()
			}
		})
	}
	l.mu.Unlock()
	if current {
		l.warn(at)
	}
}

func (l *lease) current(at time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.over && l.user.Expires.Equal(at)
}

// stop is called when the connection has ended.
func (l *lease) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

func (l *lease) holder() User {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.user
}

func expiringPayload(at time.Time) []byte {
	return append(strconv.AppendInt([]byte(`{"expiresAt":`), at.UnixMilli(), 10), '}')
}

// refresh answers a client that brings a new token: the argument of its callback.
func (s *Server) refresh(ctx context.Context, l *lease, arg json.RawMessage) []byte {
	var token string
	if json.Unmarshal(arg, &token) != nil {
		return refreshError("the token must be a string")
	}
	u, err := s.verify(ctx, token)
	switch {
	case err != nil:
		return refreshError(err.Error())
	case u.ID != l.holder().ID:
		return refreshError("the token is of another user")
	}
	l.begin(u)
	if u.Expires.IsZero() {
		return []byte(`{"ok":true}`)
	}
	return append(strconv.AppendInt([]byte(`{"ok":true,"expiresAt":`), u.Expires.UnixMilli(), 10), '}')
}

func refreshError(text string) []byte {
	return append(wire.AppendString([]byte(`{"ok":false,"error":"`), text), `"}`...)
}

// verify says whose the token is. Its error is of a kind and with words for the client.
func (s *Server) verify(ctx context.Context, token string) (User, error) {
	if token == "" {
		return User{}, fault.Errorf("", fault.Unauthorized, "the token is missing: give it as auth.token, as the query parameter token or as Authorization: Bearer")
	}
	user, err := s.opt.Verify(ctx, token)
	switch kind := fault.KindOf(err); {
	case err == nil && (user.ID == "" || user.ID == event.Everybody):
		return User{}, fault.Errorf("", fault.Forbidden, "the token names no single user")
	case err == nil && !user.Expires.IsZero() && !time.Now().Before(user.Expires): // within what clocks may differ by
		return User{}, fault.Errorf("", fault.Unauthorized, "the token has expired")
	case err == nil, kind == fault.Forbidden, kind == fault.Unavailable, kind == fault.Overloaded:
		return user, err
	}
	return User{}, fault.E("", fault.Unauthorized, err)
}
