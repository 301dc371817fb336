// Package auth makes and checks the JSON Web Tokens that say who a caller is and what it may
// do. It guarantees that an Identity it hands out came from a token that has not expired, was not
// revoked, and was signed with one of the secrets (HS256) or with the private half of one of the
// public keys (RS256, ES256, EdDSA) of the settings. Each key verifies the one algorithm it is
// for, whatever a token says of itself.
//
// The claim sub is the user id; where it is absent, the claim userId is taken in its place.
// The claim scope is a list of words separated by spaces.
package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/fault"
)

// The scopes eventspine knows. Others are kept and mean nothing.
const (
	ScopeEmit  = "emit"  // emit events for other users
	ScopeAdmin = "admin" // read and change what belongs to other users
)

// Limits of a token and of what it holds.
const (
	MinSecret  = 16      // bytes in a signing secret, at least
	MaxToken   = 8 << 10 // bytes in a token, at most
	MaxSubject = 128     // bytes in a user id, at most
	MaxID      = 256     // bytes in a token's id (jti), at most

	defaultTTL = time.Hour
	remembered = 4096 // good tokens; checking one again costs a hundredth of checking it first
)

// Identity is who a verified token speaks for. It is read-only and safe for concurrent use.
type Identity struct {
	Subject string          // user id, 1 to 128 bytes, never "*"
	Scopes  map[string]bool // what the caller may do; may be nil
	Expires time.Time       // when the token ends
	Issued  time.Time       // when it was made (the claim iat), to the second; zero: it does not say
	ID      string          // the claim jti; may be empty
}

// Has reports whether the token grants the scope.
func (i Identity) Has(scope string) bool { return i.Scopes[scope] }

// Options adjust a Verifier. The zero value works.
type Options struct {
	Now func() time.Time // the clock; default time.Now
	// Revoked says whether a token that is good otherwise was taken back: an error of kind
	// Unauthorized. One of kind Unavailable means that it cannot say now. nil: none ever is.
	Revoked  func(context.Context, Identity) error
	TLS      *tls.Config           // to fetch JWT_KEYS with; nil: the system's certificates
	Registry prometheus.Registerer // nil: metrics are kept but not exported
	Log      *slog.Logger          // nil: nothing is logged
}

// Verifier checks tokens. It remembers the good tokens it saw last, so that a caller's next request
// costs little; their expiry and whether they were revoked is checked every time. Safe for
// concurrent use.
type Verifier struct {
	keys       *ring
	algorithms []string
	parser     *jwt.Parser
	now        func() time.Time
	leeway     time.Duration
	life       time.Duration
	revoked    func(context.Context, Identity) error
	good       *lru.Cache[string, known]
	m          *metrics
}

// known is a token that was good with the keys of that time.
type known struct {
	Identity
	changes uint64
}

// NewVerifier returns a verifier of these settings. A key set at a URL is read by Run, and need not
// be there yet; one in a file must be. Errors are of kind Invalid and hold no secret.
func NewVerifier(s Settings, o Options) (*Verifier, error) {
	if wrong := s.Validate(); len(wrong) > 0 {
		return nil, fault.BadFields("new verifier", wrong...)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Revoked == nil {
		o.Revoked = func(context.Context, Identity) error { return nil }
	}
	m := newMetrics(o.Registry)
	k, err := newRing(s, o, m)
	if err != nil {
		return nil, err
	}
	good, err := lru.New[string, known](remembered)
	if err != nil {
		return nil, fault.E("new verifier", fault.Internal, err)
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods(k.algorithms()),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(s.JWTLeeway),
		jwt.WithTimeFunc(o.Now),
	}
	if s.JWTIssuer != "" {
		opts = append(opts, jwt.WithIssuer(s.JWTIssuer))
	}
	if s.JWTAudience != "" {
		opts = append(opts, jwt.WithAudience(s.JWTAudience))
	}
	return &Verifier{keys: k, algorithms: k.algorithms(), parser: jwt.NewParser(opts...), now: o.Now, leeway: s.JWTLeeway, life: s.JWTMaxLife,
		revoked: o.Revoked, good: good, m: m}, nil
}

// Run keeps the public keys fresh until ctx ends, and returns nil then.
func (v *Verifier) Run(ctx context.Context) error {
	v.keys.run(ctx)
	return nil
}

// Ready is nil once the keys were read; a source that goes away afterwards does no harm.
func (v *Verifier) Ready(context.Context) error { return v.keys.ready() }

// Verify checks one compact token and returns whom it speaks for. The claim exp is required. A
// token whose key is not known waits for the key set to be read anew, at most 5 s. Errors are of
// kind Unauthorized; their text says what is wrong in words that may be shown to the caller and
// hold nothing of the token or the keys. One of kind Unavailable says that this cannot be told now.
func (v *Verifier) Verify(ctx context.Context, token string) (Identity, error) {
	id, label, err := v.recall(ctx, token)
	if err == nil {
		if err = v.revoked(ctx, id); err == nil {
			return id, nil
		}
		label = "revoked"
	}
	if fault.KindOf(err) == fault.Unavailable {
		label = "unavailable"
	} else {
		err = fault.E("", fault.Unauthorized, err)
	}
	v.m.refused.WithLabelValues(label).Inc()
	return Identity{}, err
}

// recall is check for a token that may be known already.
func (v *Verifier) recall(ctx context.Context, token string) (id Identity, label string, err error) {
	changes := v.keys.changes.Load()
	if k, ok := v.good.Get(token); ok && k.changes == changes && v.now().Before(k.Expires.Add(v.leeway)) {
		return k.Identity, "", nil
	}
	id, label, err = v.check(token)
	if errors.Is(err, errUnknownKey) {
		v.keys.ask(ctx)
		changes = v.keys.changes.Load()
		if id, label, err = v.check(token); errors.Is(err, errUnknownKey) && v.keys.ready() != nil {
			err = fault.Errorf("", fault.Unavailable, "the keys that tokens are checked with cannot be read now; try again later")
		}
	}
	if err != nil {
		v.good.Remove(token)
		return Identity{}, label, err
	}
	v.good.Add(strings.Clone(token), known{id, changes}) // without the request's buffer around it
	return id, "", nil
}

// refusal is a sentence that may be shown, with its cause for errors.Is.
type refusal struct {
	sentence string
	cause    error
}

func (r *refusal) Error() string { return r.sentence }
func (r *refusal) Unwrap() error { return r.cause }

func (v *Verifier) check(token string) (id Identity, label string, err error) {
	if len(token) > MaxToken {
		return Identity{}, "malformed", fault.Errorf("", fault.Unauthorized, "the token has more than %d bytes", MaxToken)
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.keys.find); err != nil {
		label, sentence := explain(err, v.algorithms)
		return Identity{}, label, &refusal{sentence, err}
	}
	id, problem := c.identity()
	switch {
	case problem != "":
		return Identity{}, "subject", &refusal{problem, nil}
	case id.Expires.After(v.now().Add(v.life + v.leeway)):
		return Identity{}, "life", fault.Errorf("", fault.Unauthorized, "the token ends too late: at most %v from now are accepted here", v.life)
	}
	return id, "", nil
}
