package bridge

import (
	"context"
	"sync"
	"time"
)

// watch is told by the hub who comes and who goes. It must not wait.
func (d *Deps) watch(user string, online bool) { d.presence.Changed(user, online) }

// attend tells Redis who is online, and closes the connections of tokens that are revoked, beyond
// the end of ctx: until the last connection is closed and stop is called, which waits for the end.
func (d *Deps) attend(ctx context.Context, handshake time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	work.Go(func() { _ = d.presence.Run(ctx) }) // the two always end well
	work.Go(func() { _ = d.revoked.Run(ctx) })
	work.Go(func() { d.endRevoked(ctx, handshake) })
	return func() {
		cancel()
		work.Wait()
	}
}
