package zmtp

import (
	"errors"
	"fmt"

	"eventspine/internal/fault"
)

// ErrProtocol is wrapped by every error that the bytes of the peer caused, as against a
// connection that ended or a deadline that passed. The connection is of no more use.
var ErrProtocol = errors.New("ZMTP protocol error")

// ErrRefused is wrapped by the error of a handshake in which one end said no to the other: a
// client that is not allowed, or a peer that sent ERROR.
var ErrRefused = errors.New("ZMTP peer refused")

func refused(format string, args ...any) error {
	return fault.E("zmtp", fault.Unauthorized, fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...)))
}

// Refusal is the error that a peer's ERROR command stands for.
func Refusal(cmd *Command) error { return refused("the peer says %q", errorReason(cmd)) }

func corrupt(format string, args ...any) error {
	return fault.E("zmtp", fault.Corrupt, fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...)))
}

func tooLarge(format string, args ...any) error {
	return fault.E("zmtp", fault.TooLarge, fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...)))
}
