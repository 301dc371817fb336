package mdp

import (
	"context"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/pirate"
	"eventspine/internal/zmq"
)

// ClientOptions are a client's settings. Only Endpoints has no default.
type ClientOptions struct {
	Endpoints []string          // of brokers, asked one after another until one answers
	Timeout   time.Duration     // how long one try may take; default 2.5 s
	Retries   int               // tries after the first; default 2, negative: none
	Curve     *zmq.CurveOptions // of a client; nil: plain connections
}

// Client asks services through a broker. Safe for concurrent use, one request at a time.
type Client struct{ asker *pirate.Client }

// NewClient makes a client that connects at its first request. Errors are of kind Invalid.
func NewClient(o ClientOptions) (*Client, error) {
	p, err := pirate.New(pirate.Options{Endpoints: o.Endpoints, Timeout: o.Timeout, Retries: o.Retries,
		ZMQ: zmq.Options{MaxFrames: maxFrames, Curve: o.Curve}})
	if err != nil {
		return nil, err
	}
	return &Client{p}, nil
}

// Request asks a service and gives the body of the answer. The service may be asked more than
// once. Errors are of kind Invalid for a name that is none, Unavailable when no answer came,
// Corrupt when what came is no answer.
func (c *Client) Request(ctx context.Context, service string, body ...[]byte) (zmq.Msg, error) {
	m, err := question(service, body)
	if err != nil {
		return nil, err
	}
	got, err := c.asker.Ask(ctx, m)
	if err != nil {
		return nil, err
	}
	answer, err := readAnswer(got, service)
	if err != nil {
		return nil, fault.Errorf("mdp", fault.Corrupt, "the broker broke the Majordomo protocol: %w", err)
	}
	return answer, nil
}

// Close ends the client once the request under way has ended.
func (c *Client) Close() { c.asker.Close() }
