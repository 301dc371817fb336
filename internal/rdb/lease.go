package rdb

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"eventspine/internal/fault"
)

// Lease is a lock in Redis by which one process of several is elected. Whoever holds it renews it;
// a holder that died loses it after the lease's time. Make one for each holder. Hold and Check may
// be called by several goroutines, but Hold is not to be called while it runs.
type Lease struct {
	client     Client
	key, owner string
	ttl        time.Duration
}

// NewLease makes a holder of the lease spine:lease:name, which lasts for ttl after it was renewed
// last; at least 30 ms. It does not connect.
func NewLease(client Client, name string, ttl time.Duration) *Lease {
	return &Lease{client: client, key: "spine:lease:" + name, owner: rand.Text(), ttl: max(ttl, 30*time.Millisecond)}
}

// The owner is compared and the lease changed in one step.
const (
	renewLease  = `return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0`
	returnLease = `return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0`
)

// Hold takes the lease and runs fn while it holds it, then gives it back. It returns false at once
// when another holder has it. fn's context ends when the lease is lost, or could not be renewed for
// three quarters of its time: before another holder can have it, by this machine's clock. The error
// is fn's; one of Redis means that the lease was not taken.
func (l *Lease) Hold(ctx context.Context, fn func(context.Context) error) (held bool, err error) {
	asked := time.Now()
	held, err = l.client.SetNX(ctx, l.key, l.owner, l.ttl).Result()
	if err != nil || !held {
		return false, Classify("take lease", err)
	}
	inner, stop := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		defer stop()
		l.renew(inner, asked)
	})
	err = fn(inner)
	stop()
	renewing.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.client.Eval(last, returnLease, []string{l.key}, l.owner).Err() // else it ends by its time
	return true, err
}

// renew returns when the lease, taken at since, is lost or ctx ends.
func (l *Lease) renew(ctx context.Context, since time.Time) {
	tick := time.NewTicker(l.ttl / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		bound, cancel := context.WithDeadline(ctx, since.Add(l.ttl*3/4))
		err := l.Check(bound)
		cancel()
		switch {
		case err == nil:
			since = asked
		case fault.KindOf(err) == fault.Conflict || time.Since(since) >= l.ttl*3/4:
			return
		}
	}
}

// Check renews the lease, and is of kind Conflict when it is no longer this holder's: to be asked
// right before what only one process may do.
func (l *Lease) Check(ctx context.Context) error {
	const op = "renew lease"
	ok, err := l.client.Eval(ctx, renewLease, []string{l.key}, l.owner, l.ttl.Milliseconds()).Bool()
	if err != nil {
		return Classify(op, err)
	}
	if !ok {
		return fault.Errorf(op, fault.Conflict, "another process holds %s", l.key)
	}
	return nil
}
