// Package pirate is the Lazy Pirate: a REQ client that does not wait for ever. A request that
// gets no answer in time is asked again on a fresh socket, at the next endpoint if there are
// several, a bounded number of times.
package pirate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

// Options are a Client's settings. Only Endpoints has no default.
type Options struct {
	Endpoints []string      // servers that answer alike; at least one
	Timeout   time.Duration // how long one try may take, connecting included; default 2.5 s
	Retries   int           // tries after the first; default 2, negative: none
	ZMQ       zmq.Options   // of each socket
}

const (
	defaultTimeout = 2500 * time.Millisecond
	defaultRetries = 2
)

// link is a connected REQ socket, or its stand-in in tests.
type link interface {
	Send(context.Context, zmq.Msg) error
	Recv(context.Context) (zmq.Msg, error)
	Close(context.Context) error
}

// Client asks servers that may be away. One request is under way at a time; further calls
// wait for their turn. The socket is kept from one request to the next while all goes well.
type Client struct {
	o    Options
	dial func(endpoint string) (link, error)

	turn chan struct{} // held by the call that is under way
	at   int           // the endpoint in use; guarded by turn
	link link          // nil: none is open; guarded by turn

	mu     sync.Mutex
	resent uint64
}

// New makes a client that connects at its first request. Errors are of kind Invalid.
func New(o Options) (*Client, error) {
	if len(o.Endpoints) == 0 {
		return nil, fault.Errorf("pirate", fault.Invalid, "no endpoint to ask")
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Retries == 0 {
		o.Retries = defaultRetries
	}
	o.Retries = max(o.Retries, 0)
	o.ZMQ.Linger = -1 // an unsent request is asked again, never later
	c := &Client{o: o, turn: make(chan struct{}, 1)}
	c.dial = func(endpoint string) (link, error) {
		s := zmq.New(zmq.Req, c.o.ZMQ)
		if err := s.Connect(endpoint); err != nil {
			return nil, errors.Join(err, s.Close(context.Background()))
		}
		return s, nil
	}
	return c, nil
}

// Ask sends m and gives the answer. The server may see the request more than once. It waits at
// most (Retries+1) × Timeout after its turn has come; the error is then of kind Unavailable and
// says why the last try failed. When ctx ends first, its error is returned.
func (c *Client) Ask(ctx context.Context, m zmq.Msg) (zmq.Msg, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	tries := c.o.Retries + 1
	var last error
	for i := range tries {
		if i > 0 {
			c.mu.Lock()
			c.resent++
			c.mu.Unlock()
		}
		answer, err := c.try(ctx, m)
		if err == nil {
			return answer, nil
		}
		c.drop(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if k := fault.KindOf(err); k == fault.Invalid || k == fault.TooLarge {
			return nil, err // no server would ever see it
		}
		last = err
		c.at = (c.at + 1) % len(c.o.Endpoints)
	}
	return nil, fault.E("", fault.Unavailable, fmt.Errorf("no answer from %s in %d tries of %v: %w",
		strings.Join(c.o.Endpoints, ", "), tries, c.o.Timeout, last))
}

func (c *Client) try(ctx context.Context, m zmq.Msg) (zmq.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	if c.link == nil {
		l, err := c.dial(c.o.Endpoints[c.at])
		if err != nil {
			return nil, err
		}
		c.link = l
	}
	if err := c.link.Send(ctx, m); err != nil {
		return nil, err
	}
	return c.link.Recv(ctx)
}

// drop closes the socket, so that a late answer to its request cannot be taken for another's.
func (c *Client) drop(ctx context.Context) {
	if c.link == nil {
		return
	}
	_ = c.link.Close(context.WithoutCancel(ctx)) // what it says it dropped is asked again
	c.link = nil
}

// Resent is how many requests were sent again so far.
func (c *Client) Resent() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resent
}

// Close ends the client once the request under way has ended. Later requests connect anew.
func (c *Client) Close() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.drop(context.Background())
}
