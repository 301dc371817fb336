package auth

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"eventspine/internal/fault"
)

// Settings say which tokens are good. Every service that checks tokens embeds them in its Config,
// so that a token is good for all of them or for none.
type Settings struct {
	JWTSecret   string        `env:"JWT_SECRET" doc:"secret that tokens are signed with (HS256), at least 16 bytes; may be empty where JWT_SECRETS or JWT_KEYS is set" kind:"secret"`
	JWTSecrets  string        `env:"JWT_SECRETS" doc:"more secrets, so that one can be changed for the next: kid=secret, separated by commas or lines; a token with a kid in its header is checked with that one only, a token without with each" kind:"secret"`
	JWTKeys     string        `env:"JWT_KEYS" doc:"public keys of those who sign tokens with RS256, ES256 or EdDSA: a file or an https:// URL that holds a JSON Web Key Set; empty: none"`
	JWTRefresh  time.Duration `env:"JWT_KEYS_REFRESH" doc:"how often JWT_KEYS is read again; a token with a kid that is not known has it read at once, every 10s at most"`
	JWTIssuer   string        `env:"JWT_ISSUER" doc:"issuer (iss) that tokens must name; empty: any or none"`
	JWTAudience string        `env:"JWT_AUDIENCE" doc:"audience (aud) that tokens must be meant for; empty: any or none"`
	JWTLeeway   time.Duration `env:"JWT_LEEWAY" doc:"how far the clocks of this machine and of those who sign tokens may differ"`
	JWTMaxLife  time.Duration `env:"JWT_MAX_LIFE" doc:"longest time from now to a token's end (exp); revocations are kept this long, so a token that ends later is refused; the same for every service"`
}

// The bounds of the settings.
const (
	maxSecrets = 16
	maxLeeway  = 5 * time.Minute
	minRefresh = 10 * time.Second
	minLife    = time.Minute
)

// DefaultSettings accept tokens that end within 366 days. At least one of JWTSecret, JWTSecrets
// and JWTKeys is to be added.
func DefaultSettings() Settings {
	return Settings{JWTRefresh: 5 * time.Minute, JWTLeeway: 5 * time.Second, JWTMaxLife: 366 * 24 * time.Hour}
}

// Validate names every setting that cannot work, and never shows a secret.
func (s *Settings) Validate() []fault.Field {
	var wrong []fault.Field
	check := func(ok bool, name, reason string) {
		if !ok {
			wrong = append(wrong, fault.Field{Name: name, Reason: reason})
		}
	}
	check(s.JWTSecret != "" || s.JWTSecrets != "" || s.JWTKeys != "", "JWT_SECRET",
		fmt.Sprintf("must have at least %d bytes; only with JWT_SECRETS or JWT_KEYS it may be empty", MinSecret))
	check(s.JWTSecret == "" || len(s.JWTSecret) >= MinSecret, "JWT_SECRET", fmt.Sprintf("must have at least %d bytes", MinSecret))
	_, problem := ParseSecrets(s.JWTSecrets)
	check(problem == "", "JWT_SECRETS", problem)
	if source, ok := webAddress(s.JWTKeys); ok {
		check(safeAddress(source), "JWT_KEYS", "must be an https:// URL: who can change the keys on their way can sign tokens (http:// is taken for this machine only)")
	}
	check(s.JWTKeys == "" || s.JWTRefresh >= minRefresh, "JWT_KEYS_REFRESH", fmt.Sprintf("must be at least %v", minRefresh))
	check(s.JWTLeeway >= 0 && s.JWTLeeway <= maxLeeway, "JWT_LEEWAY", fmt.Sprintf("must be from 0s to %v", maxLeeway))
	check(s.JWTMaxLife >= minLife, "JWT_MAX_LIFE", fmt.Sprintf("must be at least %v", minLife))
	return wrong
}

// Secret is one HS256 secret and the name (kid) that tokens know it by; an empty name: none.
type Secret struct{ ID, Value string }

// ParseSecrets reads a list of kid=secret, separated by commas, spaces or lines. problem is empty
// when all of it makes sense; it holds nothing of a secret.
func ParseSecrets(list string) (secrets []Secret, problem string) {
	for i, entry := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r <= ' ' }) {
		id, value, ok := strings.Cut(entry, "=")
		switch {
		case !ok || id == "":
			return nil, fmt.Sprintf("must be kid=secret, separated by commas or lines; entry %d is not", i+1)
		case len(id) > maxKeyID:
			return nil, fmt.Sprintf("has a kid of more than %d bytes in entry %d", maxKeyID, i+1)
		case len(value) < MinSecret:
			return nil, fmt.Sprintf("has a secret of less than %d bytes in entry %d", MinSecret, i+1)
		case i >= maxSecrets:
			return nil, fmt.Sprintf("has more than %d secrets", maxSecrets)
		}
		for _, s := range secrets {
			if s.ID == id {
				return nil, fmt.Sprintf("names the kid %q twice", id)
			}
		}
		secrets = append(secrets, Secret{id, value})
	}
	return secrets, ""
}

// webAddress tells a URL from the path of a file.
func webAddress(source string) (*url.URL, bool) {
	if !strings.Contains(source, "://") {
		return nil, false
	}
	u, err := url.Parse(source)
	if err != nil {
		return &url.URL{}, true
	}
	return u, true
}

// safeAddress reports whether nobody on the way can change what comes from there.
func safeAddress(u *url.URL) bool {
	if u.Host == "" || u.Scheme != "http" {
		return u.Host != "" && u.Scheme == "https"
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
