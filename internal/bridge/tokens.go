package bridge

import (
	"context"

	"eventspine/internal/socketio"
)

// verify says whose the token of a connecting client is.
func (d *Deps) verify(ctx context.Context, token string) (socketio.User, error) {
	who, err := d.tokens.Verify(ctx, token)
	return socketio.User{ID: who.Subject, Expires: who.Expires, TokenID: who.ID, Issued: who.Issued}, err
}
