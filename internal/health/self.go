package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"eventspine/internal/keyring"
	"eventspine/internal/zmq"
)

// self is a service as its own client. It keeps one connection to each of its two sockets.
type self struct {
	keys *keyring.Ring
	web  *http.Transport

	mu   sync.Mutex
	ask  *zmq.Socket // nil: none, or one that an answer is still owed to
	done bool
}

func newSelf(keys *keyring.Ring) *self {
	return &self{keys: keys, web: &http.Transport{MaxIdleConns: 1}}
}

// Alive asks the service over its own sockets, as anybody else would: PING over REQ, and GET /healthz.
// A nil error means that it accepts, schedules and answers; a service without sockets is always
// alive. The error names the socket that is silent. Not to be called after Run has ended. Safe for concurrent use.
func (s *Server) Alive(ctx context.Context) error {
	s.self.mu.Lock()
	defer s.self.mu.Unlock()
	if s.self.done {
		return errors.New("it has ended")
	}
	if s.rep != nil {
		if err := s.self.ping(ctx, s.ping); err != nil {
			return fmt.Errorf("%s is silent: %w", s.ping, err)
		}
	}
	if s.web != nil {
		if err := s.self.visit(ctx, "http://"+s.HTTP()+"/healthz"); err != nil {
			return fmt.Errorf("/healthz is silent: %w", err)
		}
	}
	return nil
}

func (x *self) ping(ctx context.Context, endpoint string) (err error) {
	q := x.ask
	x.ask = nil
	if q == nil {
		q = zmq.New(zmq.Req, zmq.Options{Curve: x.keys.Client(), Linger: -1})
		err = q.Connect(endpoint)
	}
	if err == nil {
		err = q.Send(ctx, zmq.Msg{[]byte("PING")})
	}
	if err == nil {
		_, err = q.Recv(ctx)
	}
	if err != nil {
		return errors.Join(err, q.Close(context.WithoutCancel(ctx)))
	}
	x.ask = q
	return nil
}

func (x *self) visit(ctx context.Context, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := x.web.RoundTrip(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("it answers %s", answer.Status))
	}
	return errors.Join(err, answer.Body.Close())
}

func (x *self) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ask != nil {
		_ = x.ask.Close(context.Background()) // nothing waits in it
	}
	x.ask, x.done = nil, true
	x.web.CloseIdleConnections()
}
