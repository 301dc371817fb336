package zmq

import (
	"errors"

	"eventspine/internal/fault"
	"eventspine/internal/zmq/zmtp"
)

// Errors of the socket calls; test them with errors.Is. ErrProtocol is wrapped by what
// Monitor reports when a peer broke the protocol.
var (
	ErrWouldBlock = fault.E("zmq", fault.Overloaded, errors.New("no peer has room in its queue"))
	ErrClosed     = fault.E("zmq", fault.Unavailable, errors.New("socket is closed"))
	ErrState      = fault.E("zmq", fault.Conflict, errors.New("REQ or REP socket used out of turn"))
	ErrProtocol   = zmtp.ErrProtocol
	ErrRefused    = zmtp.ErrRefused // wrapped by what Monitor reports when CURVE's Authorize, ours or the peer's, said no

	// ErrUnroutable: no peer of the identity that a ROUTER's message begins with is connected.
	ErrUnroutable = fault.E("zmq", fault.NotFound, errors.New("no peer has this identity"))
)

func wrongType(op string, t Type) error {
	return fault.Errorf("zmq."+op, fault.Invalid, "not for a %s socket", t)
}
