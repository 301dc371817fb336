package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/clone"
	"eventspine/internal/fault"
	"eventspine/internal/keyring"
	"eventspine/internal/rules"
	"eventspine/internal/rules/live"
)

// firstRules is how long a worker that starts waits for the live rules before it takes in
// events under the rules of its own.
const firstRules = 3 * time.Second

// liveRules puts the rules of the clone in force. As long as the clone has any, they alone
// are; when it has none, or was never reached, those of WORKER_RULES or the built-in ones are.
// When one of them does not compile, the set that was in force before stays.
type liveRules struct {
	client *clone.Client
	own    *rules.Set
	use    func(*rules.Set)
	m      *metrics
	log    *slog.Logger
}

// openClone makes the client of the live rules, where ZMQ_CLONE names a server.
func (d *Deps) openClone(c *Config, own *rules.Set, keys *keyring.Ring, reg prometheus.Registerer) error {
	if len(c.Clone) == 0 {
		return nil
	}
	l := &liveRules{own: own, use: d.processor.rules.Store, m: d.m, log: c.Log}
	at, err := clone.ParseEndpoints(c.Clone)
	if err == nil {
		l.client, err = clone.Dial(clone.ClientOptions{Endpoints: at, Subtree: live.Subtree, Changed: l.changed, Curve: keys.Client(), Metrics: reg, Log: c.Log})
	}
	if err != nil {
		return fault.E("ZMQ_CLONE", fault.KindOf(err), err)
	}
	d.live = l
	d.closers = append(d.closers, func(context.Context) error { return l.client.Close() })
	return nil
}

// changed swaps the whole set, between two batches.
func (l *liveRules) changed(values map[string][]byte) {
	if len(values) == 0 {
		l.use(l.own)
		l.m.ruleSets.Inc()
		l.log.Info("no live rules; the worker's own are in force", "rules", len(l.own.Names()))
		return
	}
	set, err := live.Compile(values)
	if err != nil {
		l.m.refusedRuleSets.Inc()
		l.log.Warn("live rules do not compile; those in force stay", "error", err.Error())
		return
	}
	l.use(set)
	l.m.ruleSets.Inc()
	l.log.Info("live rules are in force", "rules", len(set.Names()))
}

// follow keeps the live rules in force until ctx ends. Without a clone it does nothing.
func (l *liveRules) follow(ctx context.Context) error {
	if l == nil {
		return nil
	}
	return l.client.Run(ctx)
}

// wait gives the live rules a moment to come before the first event is looked at.
func (l *liveRules) wait(ctx context.Context) {
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstRules)
	defer cancel()
	if err := l.client.Wait(ctx); err != nil {
		l.log.Warn("live rules cannot be reached; the worker's own are in force until they can", "error", err.Error())
	}
}
