package bridge

import (
	"context"
	"time"

	"eventspine/internal/socketio"
)

const (
	revokedWait  = 2 * time.Second        // of a handshake for the list of revocations, right after the start
	sweepEvery   = 500 * time.Millisecond // after a revocation, for handshakes that were under way
	sweepSpare   = 5 * time.Second        // beyond the time that a handshake may take
	closeRevoked = "token revoked"
)

// verify says whose the token of a connecting client is.
func (d *Deps) verify(ctx context.Context, token string) (socketio.User, error) {
	who, err := d.tokens.Verify(ctx, token)
	return socketio.User{ID: who.Subject, Expires: who.Expires, TokenID: who.ID, Issued: who.Issued}, err
}

// endRevoked closes the connections of tokens that were revoked, until ctx ends. A client whose
// token was looked at a moment before may still be on its way in: so it looks again for as long as a
// handshake may take.
func (d *Deps) endRevoked(ctx context.Context, handshake time.Duration) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var until time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.revoked.Changed():
			until = time.Now().Add(handshake + sweepSpare)
		case now := <-tick.C:
			if now.After(until) {
				continue
			}
		}
		n := d.sockets.Disconnect(func(u socketio.User) bool { return d.revoked.Revoked(u.ID, u.TokenID, u.Issued) }, closeRevoked)
		d.m.revoked.Add(float64(n))
	}
}
