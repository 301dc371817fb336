// Package retry repeats calls to a dependency that is away, with jittered exponential
// back-off, for as long as it takes.
package retry

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"

	"eventspine/internal/fault"
)

// Policy bounds the wait between two tries. The zero Policy waits 50 ms to 5 s.
type Policy struct{ Min, Max time.Duration }

// Forever calls fn until it succeeds, fails with an error that is not fault.Retryable, or ctx
// ends, and returns that error or ctx's. failed, when not nil, is told of every failure that
// will be tried again and how long the wait is.
func (p Policy) Forever(ctx context.Context, fn func(context.Context) error, failed func(error, time.Duration)) error {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 50*time.Millisecond, 5*time.Second
	if p.Min > 0 {
		b.InitialInterval = p.Min
	}
	if p.Max > 0 {
		b.MaxInterval = p.Max
	}
	op := func() (struct{}, error) {
		err := fn(ctx)
		if err != nil && !fault.Retryable(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}
	opts := []backoff.RetryOption{backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0)}
	if failed != nil {
		opts = append(opts, backoff.WithNotify(failed))
	}
	_, err := backoff.Retry(ctx, op, opts...)
	return err
}
