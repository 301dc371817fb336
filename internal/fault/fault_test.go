package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestKindsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for k := Internal; k <= Corrupt; k++ {
		if s := k.String(); s == "" || seen[s] {
			t.Errorf("kind %d is called %q", k, s)
		}
		seen[k.String()] = true
	}
	if Kind(200).String() != "internal" {
		t.Errorf("an unknown kind is called %q", Kind(200))
	}
}

func TestAKindIsItsNameInJSON(t *testing.T) {
	if b, err := json.Marshal(map[string]Kind{"kind": TooLarge}); err != nil || string(b) != `{"kind":"too_large"}` {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestKindOf(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want Kind
	}{
		"nil":                        {nil, Internal},
		"unclassified":               {io.EOF, Internal},
		"classified":                 {E("op", NotFound, io.EOF), NotFound},
		"the outermost wins":         {E("op", Unavailable, E("in", Corrupt, io.EOF)), Unavailable},
		"wrapped by fmt":             {fmt.Errorf("more: %w", E("op", Conflict, io.EOF)), Conflict},
		"joined":                     {errors.Join(io.EOF, E("op", TooLarge, io.EOF)), TooLarge},
		"cancelled":                  {fmt.Errorf("x: %w", context.Canceled), Unavailable},
		"too late":                   {context.DeadlineExceeded, Unavailable},
		"classified before too late": {E("op", Invalid, context.DeadlineExceeded), Invalid},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestEOfNilIsNil(t *testing.T) {
	if err := E("op", Invalid, nil); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestErrorText(t *testing.T) {
	two := []Field{{"id", "is empty"}, {"type", "is missing"}}
	for want, err := range map[string]error{
		"op: EOF":                               E("op", Invalid, io.EOF),
		"EOF":                                   E("", Invalid, io.EOF),
		"op: 3 left":                            Errorf("op", Invalid, "%d left", 3),
		"op: id is empty; type is missing":      BadFields("op", two...),
		"id is empty; type is missing":          BadFields("", two...),
		"invalid":                               BadFields(""),
		"op: EOF: id is empty; type is missing": &Error{Op: "op", Err: io.EOF, Fields: two},
		"outer: inner: EOF":                     E("outer", Internal, E("inner", Corrupt, io.EOF)),
		"corrupt":                               &Error{Kind: Corrupt},
		"op":                                    &Error{Op: "op"},
		"wrap: op: 1 of 2: unexpected EOF (x)":  fmt.Errorf("wrap: %w", Errorf("op", Invalid, "1 of 2: %w (x)", io.ErrUnexpectedEOF)),
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}

func TestCausesAreReachable(t *testing.T) {
	err := E("op", Internal, Errorf("in", Corrupt, "more: %w", io.EOF))
	if !errors.Is(err, io.EOF) {
		t.Error("the cause is lost")
	}
	var e *Error
	if !errors.As(errors.Unwrap(err), &e) || e.Op != "in" {
		t.Errorf("unwrapped to %v", e)
	}
}

func TestFieldsOf(t *testing.T) {
	fields := BadFields("in", Field{"id", "is empty"})
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"nil": {nil, 0}, "other": {io.EOF, 0}, "none": {E("op", Invalid, io.EOF), 0}, "direct": {fields, 1},
		"below one": {E("op", Internal, fields), 1}, "below fmt": {fmt.Errorf("x: %w", E("op", Internal, fmt.Errorf("y: %w", fields))), 1},
	} {
		if got := FieldsOf(c.err); len(got) != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRetryable(t *testing.T) {
	for k := Internal; k <= Corrupt; k++ {
		if got, want := Retryable(E("op", k, io.EOF)), k == Overloaded || k == Unavailable; got != want {
			t.Errorf("%v: %v", k, got)
		}
	}
	if Retryable(nil) || !Retryable(context.DeadlineExceeded) {
		t.Error("nil or a deadline is wrong")
	}
}
