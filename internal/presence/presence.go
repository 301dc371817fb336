// Package presence knows who is online: which users have connections, on whatever bridge. Each
// bridge writes its own users to Redis when they come and go, and beats; what a bridge wrote counts
// only while its last beat is not older than the time-out. So the answer is right at once after a
// change, and within the time-out after a bridge was killed.
//
//	hub ── Changed ──▶ Beacon ── spine:presence:user:<id>  hash: bridge → connections, since
//	                          ── spine:presence:bridge:<…> beat, expires with the time-out
//	Reader (api) ◀── both
//
// A beat costs the same however many users a bridge has.
package presence

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/rdb"
)

// keyLife is how long a user's hash outlives its last change; a bridge renews it in half that time.
const keyLife = time.Hour

func userKey(user string) string     { return "spine:presence:user:" + user }
func bridgeKey(bridge string) string { return "spine:presence:bridge:" + bridge }

// State is one user's presence on all bridges together.
type State struct {
	Connections int       // 0: offline
	Since       time.Time // when the first of them, or one before it without a gap on its bridge, was opened; zero: offline
}

// Online reports whether there is a connection.
func (s State) Online() bool { return s.Connections > 0 }

// Reader reads what bridges write. Safe for concurrent use.
type Reader struct{ client rdb.Client }

// NewReader makes a Reader over client, which stays the caller's to close.
func NewReader(client rdb.Client) *Reader { return &Reader{client} }

// Of is the presence of the user. Errors are those of rdb.Classify. What bridges left behind that
// live no more is taken away.
func (r *Reader) Of(ctx context.Context, user string) (State, error) {
	alive, err := sweep(ctx, r.client, user)
	if err != nil {
		return State{}, rdb.Classify("read presence", err)
	}
	var s State
	for _, e := range alive {
		s.Connections += e.connections
		if at := time.UnixMilli(e.since); e.connections > 0 && (s.Since.IsZero() || at.Before(s.Since)) {
			s.Since = at
		}
	}
	return s, nil
}

// sweep reads a user's entries of the bridges that are alive, and deletes the others. A bridge that
// comes back to life writes all of its users anew.
func sweep(ctx context.Context, client rdb.Client, user string) (map[string]record, error) {
	all, err := client.HGetAll(ctx, userKey(user)).Result()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	beats := make(map[string]*redis.IntCmd, len(all))
	_, err = client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for bridge := range all {
			beats[bridge] = p.Exists(ctx, bridgeKey(bridge))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	alive := make(map[string]record, len(all))
	var dead []string
	for bridge, text := range all {
		if e, ok := parse(text); ok && beats[bridge].Val() > 0 {
			alive[bridge] = e
		} else {
			dead = append(dead, bridge)
		}
	}
	if len(dead) == 0 {
		return alive, nil
	}
	return alive, client.HDel(ctx, userKey(user), dead...).Err()
}

// record is what one bridge says of one user.
type record struct {
	connections int
	since       int64 // ms
}

func (e record) String() string { return fmt.Sprint(e.connections, " ", e.since) }

func parse(text string) (e record, ok bool) {
	n, since, _ := strings.Cut(text, " ")
	var err error
	if e.connections, err = strconv.Atoi(n); err != nil || e.connections < 0 {
		return record{}, false
	}
	e.since, err = strconv.ParseInt(since, 10, 64)
	return e, err == nil
}
