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

	"eventspine/internal/fault"
)

type claims struct {
	jwt.RegisteredClaims
	Scope  string `json:"scope,omitempty"`
	UserID userID `json:"userId,omitempty"`
}

// identity is what the claims say, or what is wrong with them.
func (c *claims) identity() (id Identity, problem string) {
	subject := c.Subject
	if subject == "" {
		subject = string(c.UserID)
	}
	if problem := subjectProblem(subject); problem != "" {
		return Identity{}, problem
	}
	if len(c.ID) > MaxID {
		return Identity{}, fmt.Sprintf("the token's id (jti) has more than %d bytes", MaxID)
	}
	id = Identity{Subject: subject, Expires: c.ExpiresAt.Time, ID: c.ID}
	if c.IssuedAt != nil {
		id.Issued = c.IssuedAt.Time
	}
	for scope := range strings.FieldsSeq(c.Scope) {
		if id.Scopes == nil {
			id.Scopes = make(map[string]bool, 2)
		}
		id.Scopes[scope] = true
	}
	return id, ""
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

var (
	errUnknownKey = errors.New("no such key")
	errBadHeader  = errors.New("bad header")
)

// explain turns the JWT library's error into a label for the metric and a sentence that is safe to
// show: the library's own text may quote parts of the token. algorithms are those accepted here.
func explain(err error, algorithms []string) (label, sentence string) {
	for _, e := range []struct {
		is              error
		label, sentence string
	}{
		{errUnknownKey, "key", "the token's key (kid) is not known here"},
		{errBadHeader, "malformed", "the token's header is not acceptable: kid must be text, and crit must not be there"},
		{jwt.ErrTokenExpired, "expired", "the token has expired"},
		{jwt.ErrTokenNotValidYet, "early", "the token is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "early", "the token is not valid yet"},
		{jwt.ErrTokenRequiredClaimMissing, "claims", "the token lacks a required claim: exp must be there, and iss and aud where this server asks for them"},
		{jwt.ErrTokenInvalidIssuer, "issuer", "the token's issuer is not accepted here"},
		{jwt.ErrTokenInvalidAudience, "audience", "the token is meant for another audience"},
		{jwt.ErrTokenSignatureInvalid, "signature", "the token's signature is wrong, or it is not signed with " + strings.Join(algorithms, " or ")},
		{jwt.ErrTokenMalformed, "malformed", "the token is not a well-formed JSON Web Token"},
		{jwt.ErrTokenUnverifiable, "signature", "the token is not signed with " + strings.Join(algorithms, " or ")},
	} {
		if errors.Is(err, e.is) {
			return e.label, e.sentence
		}
	}
	return "claims", "the token's claims are not acceptable"
}

// Claims is what Sign puts into a token.
type Claims struct {
	Subject  string
	Scopes   []string
	TTL      time.Duration // default 1 h; may be negative, for a token that has ended
	ID       string        // the claim jti, at most 256 bytes
	Issuer   string
	Audience string
	Key      string // the name (kid) of the secret, in the header; empty: none
}

// Sign makes a compact HS256 token that a Verifier with the same secret accepts until TTL is
// over. Errors are of kind Invalid: a short secret, or claims no token can have.
func Sign(secret string, c Claims) (string, error) {
	const op = "sign token"
	if len(secret) < MinSecret {
		return "", fault.Errorf(op, fault.Invalid, "the secret has %d bytes; at least %d are needed", len(secret), MinSecret)
	}
	if problem := subjectProblem(c.Subject); problem != "" {
		return "", fault.E(op, fault.Invalid, errors.New(problem))
	}
	if i := slices.IndexFunc(c.Scopes, badScope); i >= 0 {
		return "", fault.Errorf(op, fault.Invalid, "the scope %q is empty or holds a space", c.Scopes[i])
	}
	if len(c.ID) > MaxID {
		return "", fault.Errorf(op, fault.Invalid, "the id has more than %d bytes", MaxID)
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
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, out)
	if c.Key != "" {
		t.Header["kid"] = c.Key
	}
	token, err := t.SignedString([]byte(secret))
	return token, fault.E(op, fault.Internal, err)
}

func badScope(s string) bool { return s == "" || strings.ContainsFunc(s, unicode.IsSpace) }
