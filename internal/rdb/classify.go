package rdb

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
)

// busy lists the beginnings of the answers of a server that cannot serve now but may later.
var busy = [...]string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "BUSY", "MISCONF", "NOREPLICAS", "UNBLOCKED"}

// Classify gives an error of go-redis its kind and names the operation. nil stays nil, and an
// error that has a kind keeps it. The network, a server that loads, fails over or refuses the
// credentials: Unavailable. No memory, no free connection: Overloaded. No such key:
// NotFound. A key of another type: Corrupt. Everything else: Internal.
func Classify(op string, err error) error {
	if err == nil {
		return nil
	}
	if known := (*fault.Error)(nil); errors.As(err, &known) {
		return err
	}
	if strings.HasPrefix(err.Error(), "redis: all sentinels") { // it may hold a Nil, of a master they do not know
		return fault.E(op, fault.Unavailable, err)
	}
	if errors.Is(err, redis.Nil) {
		return fault.E(op, fault.NotFound, err)
	}
	if answer := redis.Error(nil); errors.As(err, &answer) {
		return answered(op, answer)
	}
	return fault.E(op, transport(err), err)
}

// answered classifies what the server said.
func answered(op string, err redis.Error) error {
	message := strings.TrimPrefix(err.Error(), "ERR ")
	switch code, _, _ := strings.Cut(message, " "); {
	case redis.IsAuthError(err):
		return fault.Errorf(op, fault.Unavailable, "redis refuses the credentials; correct the user and password in REDIS_URL (it says: %w)", err)
	case redis.IsPermissionError(err):
		return fault.Errorf(op, fault.Unavailable, "the redis user may not do this; widen its ACL (it says: %w)", err)
	case code == "OOM":
		return fault.Errorf(op, fault.Overloaded, "redis is out of memory; raise its maxmemory (it says: %w)", err)
	case strings.HasPrefix(message, "max number of clients"):
		return fault.E(op, fault.Overloaded, err)
	case code == "WRONGTYPE":
		return fault.E(op, fault.Corrupt, err)
	case isBusy(code):
		return fault.E(op, fault.Unavailable, err)
	}
	return fault.E(op, fault.Internal, err)
}

func isBusy(code string) bool {
	for _, b := range busy {
		if code == b {
			return true
		}
	}
	return false
}

func transport(err error) fault.Kind {
	var network net.Error
	var op *net.OpError
	var record tls.RecordHeaderError
	var certificate *tls.CertificateVerificationError
	var alert tls.AlertError
	switch {
	case errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return fault.Overloaded
	case errors.As(err, &network), errors.As(err, &op),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, redis.ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &record), errors.As(err, &certificate), errors.As(err, &alert),
		strings.HasPrefix(err.Error(), "redis: cluster"): // no node known, or none for the slot
		return fault.Unavailable
	}
	return fault.Internal
}
