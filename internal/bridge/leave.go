package bridge

import (
	"context"
	"time"
)

const (
	quietTime = time.Second           // at most, for what was sent before the end
	spacing   = 10 * time.Millisecond // between connections, when there are few
)

// leave sends the clients away, one after the other, while events go on coming: they are to be
// elsewhere before this bridge ends. What the proxies sent before goes out first.
func (d *Deps) leave(ctx context.Context, over time.Duration) {
	d.awaitQuiet(ctx)
	over = min(over, time.Duration(d.hub.Len())*spacing)
	ctx, cancel := context.WithTimeout(ctx, over+spacing)
	defer cancel()
	d.sockets.Drain(ctx, over)
}

// awaitQuiet waits until no event has come for a moment.
func (d *Deps) awaitQuiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quietTime)
	defer cancel()
	tick := time.NewTicker(idleTime)
	defer tick.Stop()
	for last := d.deliverer.taken.Load(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := d.deliverer.taken.Load()
		if now == last {
			return
		}
		last = now
	}
}
