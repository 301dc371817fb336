// Package fault gives every error a kind, so that each boundary decides in one
// place what an error means there: an HTTP status in api, a retry or a dead
// letter in indexer, a disconnect reason in bridge, an exit code in run.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind says what went wrong in terms of what the caller can do about it.
type Kind uint8

// The kinds. The zero Kind is Internal: an error nobody classified is a bug of ours.
const (
	Internal     Kind = iota // our mistake
	Invalid                  // the input breaks a rule; sending it again will not help
	Unauthorized             // no credentials, or wrong ones
	Forbidden                // good credentials that do not allow this
	NotFound                 // no such thing
	Conflict                 // it is there already, or changed in between
	TooLarge                 // over a documented limit
	Overloaded               // a queue or a quota is full; try again later
	Unavailable              // a dependency is away; try again later
	Corrupt                  // stored or received bytes are not what was written
)

var names = [...]string{"internal", "invalid", "unauthorized", "forbidden", "not_found", "conflict",
	"too_large", "overloaded", "unavailable", "corrupt"}

// String is the kind's name as it appears in logs and metric labels.
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return "internal"
}

// MarshalText gives encoders, a JSON log among them, the kind's name and not its number.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Field names one wrong field of an input and says what to change.
type Field struct {
	Name   string `json:"field"`
	Reason string `json:"reason"`
}

// Error is an error with an operation and a kind. Fields is filled for Invalid input only.
type Error struct {
	Op     string
	Kind   Kind
	Err    error
	Fields []Field
}

// E wraps err with the operation that failed and its kind. A nil err gives a nil error.
func E(op string, kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Kind: kind, Err: err}
}

// Errorf is E with a formatted cause.
func Errorf(op string, kind Kind, format string, args ...any) error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// BadFields is the Invalid error that names every wrong field.
func BadFields(op string, fields ...Field) error {
	return &Error{Op: op, Kind: Invalid, Fields: fields}
}

func (e *Error) Error() string {
	var parts []string
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	if len(e.Fields) > 0 {
		named := make([]string, len(e.Fields))
		for i, f := range e.Fields {
			named[i] = f.Name + " " + f.Reason
		}
		parts = append(parts, strings.Join(named, "; "))
	}
	if len(parts) == 0 {
		return e.Kind.String()
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost classified error in err's chain. A context that ended
// counts as Unavailable; anything unclassified is Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// FieldsOf lists the wrong fields named anywhere in err's chain.
func FieldsOf(err error) []Field {
	for e := (*Error)(nil); errors.As(err, &e); err = e.Err {
		if len(e.Fields) > 0 {
			return e.Fields
		}
	}
	return nil
}

// Retryable reports whether the same call may succeed later without any change.
func Retryable(err error) bool {
	k := KindOf(err)
	return k == Overloaded || k == Unavailable
}
