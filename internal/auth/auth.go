// Package auth makes and checks the JSON Web Tokens that say who a caller is and what it may
// do. It guarantees that an Identity it hands out came from a token that was signed with the
// shared secret by HMAC-SHA-256 and has not expired.
//
// The claim sub is the user id; where it is absent, the claim userId is taken in its place.
// The claim scope is a list of words separated by spaces.
package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"

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

	defaultLeeway = 5 * time.Second
	defaultTTL    = time.Hour
	remembered    = 4096 // good tokens; checking one again costs a hundredth of checking it first
)

// Identity is who a verified token speaks for. It is read-only and safe for concurrent use.
type Identity struct {
	Subject string          // user id, 1 to 128 bytes, never "*"
	Scopes  map[string]bool // what the caller may do; may be nil
	Expires time.Time       // when the token ends
	ID      string          // the claim jti; may be empty
}

// Has reports whether the token grants the scope.
func (i Identity) Has(scope string) bool { return i.Scopes[scope] }

// Options adjust a Verifier. The zero value works.
type Options struct {
	Now      func() time.Time // the clock; default time.Now
	Leeway   time.Duration    // how far clocks may differ; default 5 s, negative: not at all
	Issuer   string           // required value of the claim iss; empty: any
	Audience string           // required value in the claim aud; empty: any
}

// Verifier checks tokens against one secret. It remembers the good tokens it saw last, so that
// a caller's next request costs little; their expiry is checked every time. Safe for concurrent
// use.
type Verifier struct {
	secret []byte
	parser *jwt.Parser
	now    func() time.Time
	leeway time.Duration
	good   *lru.Cache[string, Identity]
}

// NewVerifier returns a verifier for tokens signed with secret. A secret shorter than 16
// bytes is refused with an error of kind Invalid that does not contain it.
func NewVerifier(secret string, o Options) (*Verifier, error) {
	if err := checkSecret("new verifier", secret); err != nil {
		return nil, err
	}
	if o.Leeway == 0 {
		o.Leeway = defaultLeeway
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Leeway = max(o.Leeway, 0)
	good, err := lru.New[string, Identity](remembered)
	if err != nil {
		return nil, fault.E("new verifier", fault.Internal, err)
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Name}),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(o.Leeway),
		jwt.WithTimeFunc(o.Now),
	}
	if o.Issuer != "" {
		opts = append(opts, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		opts = append(opts, jwt.WithAudience(o.Audience))
	}
	return &Verifier{[]byte(secret), jwt.NewParser(opts...), o.Now, o.Leeway, good}, nil
}

// Verify checks one compact token and returns whom it speaks for. Only HS256 is accepted,
// and the claim exp is required. Errors are of kind Unauthorized; their text says what is
// wrong in words that may be shown to the caller and hold nothing of the token or the secret.
func (v *Verifier) Verify(token string) (Identity, error) {
	if id, ok := v.good.Get(token); ok && v.now().Before(id.Expires.Add(v.leeway)) {
		return id, nil
	}
	id, err := v.check(token)
	if err != nil {
		v.good.Remove(token)
		return Identity{}, err
	}
	v.good.Add(strings.Clone(token), id) // without the request's buffer around it
	return id, nil
}

func (v *Verifier) check(token string) (Identity, error) {
	const op = "verify token"
	if len(token) > MaxToken {
		return Identity{}, fault.Errorf(op, fault.Unauthorized, "the token has more than %d bytes", MaxToken)
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.key); err != nil {
		return Identity{}, fault.E(op, fault.Unauthorized, errors.New(explain(err)))
	}
	subject := c.Subject
	if subject == "" {
		subject = string(c.UserID)
	}
	if problem := subjectProblem(subject); problem != "" {
		return Identity{}, fault.E(op, fault.Unauthorized, errors.New(problem))
	}
	id := Identity{Subject: subject, Expires: c.ExpiresAt.Time, ID: c.ID}
	for scope := range strings.FieldsSeq(c.Scope) {
		if id.Scopes == nil {
			id.Scopes = make(map[string]bool, 2)
		}
		id.Scopes[scope] = true
	}
	return id, nil
}

func (v *Verifier) key(*jwt.Token) (any, error) { return v.secret, nil }

// Claims is what Sign puts into a token.
type Claims struct {
	Subject  string
	Scopes   []string
	TTL      time.Duration // default 1 h; may be negative, for a token that has ended
	ID       string        // the claim jti
	Issuer   string
	Audience string
}

// Sign makes a compact HS256 token that a Verifier with the same secret accepts until TTL is
// over. Errors are of kind Invalid: a short secret, or a subject no user id can be.
func Sign(secret string, c Claims) (string, error) {
	const op = "sign token"
	if err := checkSecret(op, secret); err != nil {
		return "", err
	}
	if problem := subjectProblem(c.Subject); problem != "" {
		return "", fault.E(op, fault.Invalid, errors.New(problem))
	}
	if i := slices.IndexFunc(c.Scopes, badScope); i >= 0 {
		return "", fault.Errorf(op, fault.Invalid, "the scope %q is empty or holds a space", c.Scopes[i])
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	now := time.Now()
	out := claims{Scope: strings.Join(c.Scopes, " ")}
	out.Subject, out.ID, out.Issuer = c.Subject, c.ID, c.Issuer
	out.IssuedAt, out.ExpiresAt = jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(c.TTL))
	if c.Audience != "" {
		out.Audience = jwt.ClaimStrings{c.Audience}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, out).SignedString([]byte(secret))
	return token, fault.E(op, fault.Internal, err)
}

func badScope(s string) bool { return s == "" || strings.ContainsFunc(s, unicode.IsSpace) }

type claims struct {
	jwt.RegisteredClaims
	Scope  string `json:"scope,omitempty"`
	UserID userID `json:"userId,omitempty"`
}

// userID reads the claim userId, which many applications fill with a number.
type userID string

func (u *userID) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(u))
	}
	var n uint64
	if err := json.Unmarshal(b, &n); err != nil {
		return errors.New("userId must be a string or a whole number")
	}
	*u = userID(fmt.Sprint(n))
	return nil
}

func checkSecret(op, secret string) error {
	if len(secret) < MinSecret {
		return fault.Errorf(op, fault.Invalid, "the secret has %d bytes; at least %d are needed", len(secret), MinSecret)
	}
	return nil
}

func subjectProblem(s string) string {
	switch {
	case s == "":
		return "the token names no user: the claim sub is missing"
	case s == "*":
		return "the token's user must not be *, which addresses everybody"
	case len(s) > MaxSubject:
		return fmt.Sprintf("the token's user id has more than %d bytes", MaxSubject)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return "the token's user id must be UTF-8 without control characters"
	}
	return ""
}

// explain turns the JWT library's error into a sentence that is safe to show: the library's
// own text may quote parts of the token.
func explain(err error) string {
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return "the token has expired"
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return "the token is not valid yet"
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return "the token lacks a required claim: exp must be there, and iss and aud where this server asks for them"
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return "the token's issuer is not accepted here"
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return "the token is meant for another audience"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return "the token's signature is wrong, or it is not signed with HS256"
	case errors.Is(err, jwt.ErrTokenMalformed):
		return "the token is not a well-formed JSON Web Token"
	}
	return "the token's claims are not acceptable"
}
