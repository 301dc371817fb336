package zmq

import (
	"errors"
	"net"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/curve"
	"eventspine/internal/zmq/zmtp"
)

// CurveOptions make every connection of a socket a CURVE one (RFC 26): encrypted, with both ends
// proved. A peer without CURVE or with a wrong key is refused, and so is every peer of a socket
// without CurveOptions that speaks CURVE; nothing falls back to plain text.
type CurveOptions struct {
	Server         bool                                     // which part we play, whoever binds; the peers play the other one
	Public, Secret curve.Key                                // our own pair
	ServerKey      curve.Key                                // of the server that we will talk to; a client's only
	FindServer     func(endpoint string) (curve.Key, error) // gives the key of the server behind each endpoint that we connect to; for a client without ServerKey. Called from many goroutines at once
	Domain         string                                   // handed to Authorize
	Authorize      func(Peer) error                         // says why a client may not; nil: whoever knows our public key may. Called from many goroutines at once
}

// Peer is a client that has proved its key and waits to be let in.
type Peer struct {
	Remote   string // its address
	Domain   string // CurveOptions.Domain
	Key      curve.Key
	Identity string // as it says itself
}

var errNotListed = fault.E("zmq", fault.Forbidden, errors.New("key is not on the list"))

// AllowKeys is an Authorize that lets the holders of these keys in and nobody else.
func AllowKeys(keys ...curve.Key) func(Peer) error {
	listed := make(map[curve.Key]bool, len(keys))
	for _, k := range keys {
		listed[k] = true
	}
	return func(p Peer) error {
		if !listed[p.Key] {
			return errNotListed
		}
		return nil
	}
}

// check says whether the keys are good for endpoint, which we bind or, with dial, connect to.
func (c *CurveOptions) check(endpoint string, dial bool) error {
	if c == nil {
		return nil
	}
	if _, err := c.server(endpoint, dial); err != nil {
		return err
	}
	return curve.Pair{Public: c.Public, Secret: c.Secret}.Check()
}

// server is the key of the server at the other end; zero when that is us.
func (c *CurveOptions) server(endpoint string, dial bool) (curve.Key, error) {
	switch {
	case c.Server:
		return curve.Key{}, nil
	case !c.ServerKey.IsZero():
		return c.ServerKey, nil
	case !dial || c.FindServer == nil:
		return curve.Key{}, fault.Errorf("zmq", fault.Invalid, "a CURVE client needs the server's public key")
	}
	key, err := c.FindServer(endpoint)
	if err == nil && key.IsZero() {
		err = errors.New("the server's public key is not known")
	}
	return key, fault.E("zmq", fault.Invalid, err)
}

// secure is what the handshake on conn needs to know.
func (c *CurveOptions) secure(conn net.Conn, endpoint string, dial bool) (*zmtp.Curve, error) {
	if c == nil {
		return nil, nil
	}
	server, err := c.server(endpoint, dial)
	if err != nil {
		return nil, err
	}
	z := &zmtp.Curve{Server: c.Server, Keys: curve.Pair{Public: c.Public, Secret: c.Secret}, ServerKey: server}
	if c.Authorize != nil {
		z.Authorize = func(client curve.Key, identity string) error {
			return c.Authorize(Peer{Remote: conn.RemoteAddr().String(), Domain: c.Domain, Key: client, Identity: identity})
		}
	}
	return z, nil
}
