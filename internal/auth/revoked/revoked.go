// Package revoked keeps the tokens that were taken back before their end: single ones by their id
// (jti), or all that a user was given until now. It guarantees that what Token or User returned
// without an error is refused by every process that follows the list, within milliseconds while
// Redis answers, and until the tokens have ended by themselves.
//
//	api ── XADD ──▶ spine:revoked (stream, trimmed by age) ── XREAD BLOCK ──▶ every api and bridge
//
// The list is small and each process holds all of it, so a check asks nobody. While Redis is away a
// process goes on with what it knows, and nothing can be revoked. What Redis lost it gets back from
// any process that still knows it.
package revoked

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/rdb"
)

const (
	key       = "spine:revoked"
	maxListed = 1_000_000 // revocations in force; more are refused
	spare     = time.Minute
)

// Options of a List.
type Options struct {
	// Keep is how long a token may be good: so long is a revocation remembered. The same as the
	// Verifier's JWTMaxLife and JWTLeeway together, at least.
	Keep time.Duration
	// Wait is how long a check waits for the list to be read the first time. After it, a check has an
	// error of kind Unavailable. 0: before the first reading every token passes.
	Wait     time.Duration
	Registry prometheus.Registerer // nil: metrics are kept but not exported
	Log      *slog.Logger          // nil: nothing is logged
}

// List knows which tokens were revoked. Safe for concurrent use.
type List struct {
	client  rdb.Client
	o       Options
	away    *quiet.Dependency
	m       *metrics
	changed chan struct{} // holds a token after something was added

	loaded chan struct{} // closed after the first complete reading
	once   sync.Once
	some   atomic.Bool // there is something in the list

	mu     sync.RWMutex
	tokens map[string]int64 // jti → when it may be forgotten, in ms
	users  map[string]mark
}

// mark revokes a user's tokens that were issued in the second before, or earlier.
type mark struct {
	before int64 // unix seconds
	until  int64 // ms
}

// New makes an empty list over client, which stays the caller's to close. Run fills it.
func New(client rdb.Client, o Options) *List {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &List{client: client, o: o, away: quiet.NewDependency("revocations", o.Log), m: newMetrics(o.Registry), changed: make(chan struct{}, 1),
		loaded: make(chan struct{}), tokens: map[string]int64{}, users: map[string]mark{}}
}

// Changed has a value after revocations were added. It is for one reader.
func (l *List) Changed() <-chan struct{} { return l.changed }

// Check is of kind Unauthorized when the token was revoked, and Unavailable when the list is not
// known yet. A user's token that does not say when it was issued counts as an old one.
func (l *List) Check(ctx context.Context, id auth.Identity) error {
	if err := l.known(ctx); err != nil {
		return err
	}
	if l.Revoked(id.Subject, id.ID, id.Issued) {
		return fault.Errorf("", fault.Unauthorized, "the token was revoked")
	}
	return nil
}

// known waits for the first reading where the options say so.
func (l *List) known(ctx context.Context) error {
	select {
	case <-l.loaded:
		return nil
	default:
	}
	if l.o.Wait <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.Wait)
	defer cancel()
	select {
	case <-l.loaded:
		return nil
	case <-ctx.Done():
		return fault.Errorf("", fault.Unavailable, "the list of revoked tokens cannot be read now; try again later")
	}
}

// Ready is nil once the list was read.
func (l *List) Ready(context.Context) error {
	select {
	case <-l.loaded:
		return nil
	default:
		return l.away.State()
	}
}

// Revoked reports whether the token with this user, id (may be empty) and time of issue (may be
// zero) is in the list, as far as it is known here.
func (l *List) Revoked(user, id string, issued time.Time) bool {
	if !l.some.Load() {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if _, ok := l.tokens[id]; ok && id != "" {
		return true
	}
	m, ok := l.users[user]
	return ok && (issued.IsZero() || issued.Unix() <= m.before)
}

// Token revokes the token with this id until it has ended, at until at the latest. Errors: Invalid
// for an id no token has, Overloaded when the list is full, else those of rdb.Classify, mostly
// Unavailable: then the call is to be repeated.
func (l *List) Token(ctx context.Context, id string) (until time.Time, err error) {
	if id == "" || len(id) > auth.MaxID {
		return time.Time{}, fault.Errorf("revoke token", fault.Invalid, "a token's id has 1 to %d bytes", auth.MaxID)
	}
	return l.add(ctx, entry{token: id})
}

// User revokes every token of the user that was issued until now, the current second included.
// Errors are those of Token.
func (l *List) User(ctx context.Context, user string) (until time.Time, err error) {
	if user == "" || len(user) > auth.MaxSubject {
		return time.Time{}, fault.Errorf("revoke tokens", fault.Invalid, "a user id has 1 to %d bytes", auth.MaxSubject)
	}
	return l.add(ctx, entry{user: user, before: time.Now().Unix()})
}

func (l *List) add(ctx context.Context, e entry) (time.Time, error) {
	const op = "revoke tokens"
	n, err := l.client.XLen(ctx, key).Result()
	if err != nil {
		return time.Time{}, rdb.Classify(op, err)
	}
	if n >= maxListed {
		return time.Time{}, fault.Errorf(op, fault.Overloaded, "%d revocations are in force, and that is as many as are kept", n)
	}
	until := time.Now().Add(l.o.Keep + spare)
	e.until = until.UnixMilli()
	if err := l.store(ctx, []entry{e}); err != nil {
		return time.Time{}, rdb.Classify(op, err)
	}
	l.take([]entry{e})
	return until, nil
}

// store writes the entries behind the others, and drops what is older than any token can be.
func (l *List) store(ctx context.Context, all []entry) error {
	life := l.o.Keep + 2*spare
	_, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, e := range all {
			p.XAdd(ctx, &redis.XAddArgs{Stream: key, MinID: strconv.FormatInt(time.Now().Add(-life).UnixMilli(), 10), Approx: true, Values: e.fields()})
		}
		p.PExpire(ctx, key, life)
		return nil
	})
	return err
}

// take puts entries into the list, and tells of those that were new.
func (l *List) take(all []entry) {
	now, added := time.Now().UnixMilli(), false
	l.mu.Lock()
	for _, e := range all {
		added = e.until > now && l.put(e) || added
	}
	tokens, users := len(l.tokens), len(l.users)
	l.mu.Unlock()
	l.some.Store(tokens+users > 0)
	l.m.size(tokens, users)
	if added {
		select {
		case l.changed <- struct{}{}:
		default: // a value is there
		}
	}
}

// put reports whether the entry says anything new. The caller holds mu.
func (l *List) put(e entry) bool {
	if e.token != "" {
		old, there := l.tokens[e.token]
		l.tokens[e.token] = max(old, e.until)
		return !there
	}
	old := l.users[e.user]
	l.users[e.user] = mark{max(old.before, e.before), max(old.until, e.until)}
	return e.before > old.before
}

// forget drops what has had its time.
func (l *List) forget() {
	now := time.Now().UnixMilli()
	l.mu.Lock()
	for id, until := range l.tokens {
		if until <= now {
			delete(l.tokens, id)
		}
	}
	for user, m := range l.users {
		if m.until <= now {
			delete(l.users, user)
		}
	}
	tokens, users := len(l.tokens), len(l.users)
	l.mu.Unlock()
	l.some.Store(tokens+users > 0)
	l.m.size(tokens, users)
}

// entry is one member of the stream.
type entry struct {
	token  string // either
	user   string // or
	before int64  // of a user: unix seconds
	until  int64  // ms
}

func (e entry) fields() []string {
	until := strconv.FormatInt(e.until, 10)
	if e.token != "" {
		return []string{"jti", e.token, "until", until}
	}
	return []string{"user", e.user, "before", strconv.FormatInt(e.before, 10), "until", until}
}

// parse reads a member of the stream; ok is false for what is none of ours.
func parse(fields map[string]any) (e entry, ok bool) {
	text := func(name string) string { s, _ := fields[name].(string); return s }
	number := func(name string) int64 { n, _ := strconv.ParseInt(text(name), 10, 64); return n }
	e = entry{token: text("jti"), user: text("user"), before: number("before"), until: number("until")}
	return e, e.until > 0 && (e.token != "") != (e.user != "") && (e.user == "" || e.before > 0)
}

// String is for logs: no id of a token is in it.
func (l *List) String() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return fmt.Sprintf("%d tokens and %d users", len(l.tokens), len(l.users))
}
