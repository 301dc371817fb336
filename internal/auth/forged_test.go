package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"eventspine/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The key pairs of the tests; making an RSA key takes a while.
var pairs = sync.OnceValue(func() (p struct {
	rsa, rsa2 *rsa.PrivateKey
	ec        *ecdsa.PrivateKey
	ed        ed25519.PrivateKey
}) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	p.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	p.rsa2, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	_, p.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return p
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

type m = map[string]any

// jwkOf is the public key as a member of a key set.
func jwkOf(t testing.TB, id string, key crypto.PublicKey, extra m) m {
	t.Helper()
	out := m{"kid": id}
	switch k := key.(type) {
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", b64(k.N.Bytes()), "AQAB"
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		out["kty"], out["crv"], out["x"], out["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
	case ed25519.PublicKey:
		out["kty"], out["crv"], out["x"] = "OKP", "Ed25519", b64(k)
	}
	maps.Copy(out, extra)
	return out
}

func keySet(t testing.TB, keys ...m) string {
	t.Helper()
	b, err := json.Marshal(m{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// everyKey is a set with a key of each kind: r, e and d.
func everyKey(t testing.TB) string {
	p := pairs()
	return keySet(t, jwkOf(t, "r", p.rsa.Public(), nil), jwkOf(t, "e", p.ec.Public(), m{"use": "sig", "alg": "ES256"}), jwkOf(t, "d", p.ed.Public(), m{"key_ops": []string{"verify"}}))
}

// inFile is the setting for a key set that stands in a file.
func inFile(t testing.TB, set string) func(*Settings) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(s *Settings) { s.JWTKeys = path }
}

// signWith signs for user 42 until an hour after noon, with this header.
func signWith(t testing.TB, method jwt.SigningMethod, key any, header m) string {
	t.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "42", "exp": at(time.Hour)})
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// raw is a token whose header and signature are as given.
func raw(header string, signature []byte) string {
	body, _ := json.Marshal(m{"sub": "42", "exp": at(time.Hour)})
	return b64([]byte(header)) + "." + b64(body) + "." + b64(signature)
}

func TestEveryAlgorithmIsAccepted(t *testing.T) {
	p, v := pairs(), verifier(t, inFile(t, everyKey(t)))
	for name, token := range map[string]string{
		"HS256":             hs256(t, jwt.MapClaims{"sub": "42", "exp": at(time.Hour)}),
		"RS256":             signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "r"}),
		"ES256":             signWith(t, jwt.SigningMethodES256, p.ec, m{"kid": "e"}),
		"EdDSA":             signWith(t, jwt.SigningMethodEdDSA, p.ed, m{"kid": "d"}),
		"RS256 without kid": signWith(t, jwt.SigningMethodRS256, p.rsa, nil),
		"ES256 without kid": signWith(t, jwt.SigningMethodES256, p.ec, nil),
		"EdDSA without kid": signWith(t, jwt.SigningMethodEdDSA, p.ed, nil),
		"HS256 with a kid beside JWT_SECRET alone": signWith(t, jwt.SigningMethodHS256, []byte(secret), m{"kid": "any"}),
	} {
		if id, err := v.Verify(t.Context(), token); err != nil || id.Subject != "42" {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

// TestForgedTokens tries what is known to have opened other doors. The public keys are known to the
// forger, as is the key set's text.
func TestForgedTokens(t *testing.T) {
	p, set := pairs(), everyKey(t)
	der, err := x509.MarshalPKIXPublicKey(p.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	pkcs1 := x509.MarshalPKCS1PublicKey(&p.rsa.PublicKey)
	hs := func(key []byte, header m) string { return signWith(t, jwt.SigningMethodHS256, key, header) }
	mine := jwkOf(t, "r", p.rsa2.Public(), nil)
	genuine := strings.Split(signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "r"}), ".")
	hmacAsRSA := strings.Split(hs([]byte(secret), nil), ".")
	for name, token := range map[string]string{
		"alg none":                                       raw(`{"alg":"none"}`, nil),
		"alg None":                                       raw(`{"alg":"None"}`, nil),
		"alg NONE with a kid":                            raw(`{"alg":"NONE","kid":"r"}`, nil),
		"alg none with a good signature":                 raw(`{"alg":"none","kid":"r"}`, []byte("x")),
		"alg empty":                                      raw(`{"alg":""}`, nil),
		"no alg":                                         raw(`{"kid":"r"}`, nil),
		"alg twice":                                      raw(`{"alg":"RS256","alg":"none","kid":"r"}`, nil),
		"alg is a list":                                  raw(`{"alg":["none"],"kid":"r"}`, nil),
		"HS256 with the RSA key as PEM":                  hs(text, m{"kid": "r"}),
		"HS256 with the RSA key as PEM, trimmed":         hs([]byte(strings.TrimSpace(string(text))), m{"kid": "r"}),
		"HS256 with the RSA key as PEM, no kid":          hs(text, nil),
		"HS256 with the RSA key as DER":                  hs(der, m{"kid": "r"}),
		"HS256 with the RSA key as PKCS 1":               hs(pkcs1, m{"kid": "r"}),
		"HS256 with the modulus":                         hs(p.rsa.N.Bytes(), m{"kid": "r"}),
		"HS256 with the key set's text":                  hs([]byte(set), m{"kid": "r"}),
		"HS256 with the Ed25519 key":                     hs(p.ed.Public().(ed25519.PublicKey), m{"kid": "d"}),
		"HS256 with nothing":                             hs([]byte{}, m{"kid": "r"}),
		"HS256 with the kid as a path":                   hs([]byte{}, m{"kid": "../../../dev/null"}),
		"RS256 by HMAC":                                  raw(`{"alg":"RS256","kid":"r"}`, []byte(hmacAsRSA[2])),
		"RS256 by another key":                           signWith(t, jwt.SigningMethodRS256, p.rsa2, m{"kid": "r"}),
		"RS256 by another key it carries along":          signWith(t, jwt.SigningMethodRS256, p.rsa2, m{"kid": "r", "jwk": mine}),
		"RS256 by another key and unknown kid":           signWith(t, jwt.SigningMethodRS256, p.rsa2, m{"kid": "mine", "jwk": mine}),
		"RS256 by a key to be fetched":                   signWith(t, jwt.SigningMethodRS256, p.rsa2, m{"kid": "r", "jku": "https://127.0.0.1:1/keys", "x5u": "https://127.0.0.1:1/cert"}),
		"right key, wrong kid":                           signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "e"}),
		"right key, unknown kid":                         signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "R"}),
		"right key, empty kid":                           signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": ""}),
		"right key, kid is a number":                     signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": 1}),
		"right key, kid is null":                         signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": nil}),
		"right key, critical extension":                  signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "r", "crit": []string{"b64"}, "b64": false}),
		"right key, RS512":                               signWith(t, jwt.SigningMethodRS512, p.rsa, m{"kid": "r"}),
		"right key, PS256":                               signWith(t, jwt.SigningMethodPS256, p.rsa, m{"kid": "r"}),
		"ES256 of zeros":                                 raw(`{"alg":"ES256","kid":"e"}`, make([]byte, 64)),
		"ES256 without signature":                        raw(`{"alg":"ES256","kid":"e"}`, nil),
		"EdDSA of zeros":                                 raw(`{"alg":"EdDSA","kid":"d"}`, make([]byte, 64)),
		"RS256 of zeros":                                 raw(`{"alg":"RS256","kid":"r"}`, make([]byte, 256)),
		"claims changed under a genuine signature":       genuine[0] + "." + strings.Split(raw("{}", nil), ".")[1] + "x." + genuine[2],
		"header changed under a genuine signature":       b64([]byte(`{"alg":"RS256","kid":"r","typ":"x"}`)) + "." + genuine[1] + "." + genuine[2],
		"ES256 kid with RS256":                           raw(`{"alg":"RS256","kid":"e"}`, make([]byte, 256)),
		"right secret, but the token names a public key": "",
	} {
		v := verifier(t, inFile(t, set), func(s *Settings) { s.JWTSecrets = "old=an-old-secret-of-enough-bytes" })
		if token == "" {
			token = hs([]byte(secret), m{"kid": "r"})
		}
		id, err := v.Verify(t.Context(), token)
		if err == nil {
			t.Errorf("%s: accepted as %+v", name, id)
			continue
		}
		if fault.KindOf(err) != fault.Unauthorized || id.Subject != "" {
			t.Errorf("%s: %v, identity %+v", name, err, id)
		}
		for _, hidden := range []string{secret, "an-old-secret", token, "dev/null", "127.0.0.1", "42"} {
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("%s: the text %q shows %q", name, err, hidden)
			}
		}
		if v.good.Len() != 0 {
			t.Errorf("%s is remembered", name)
		}
	}
}

func TestOnlyWhatIsConfiguredIsAccepted(t *testing.T) {
	p := pairs()
	secretOnly := verifier(t)
	keysOnly := verifier(t, inFile(t, everyKey(t)), func(s *Settings) { s.JWTSecret = "" })
	if err := failure(secretOnly, signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "r"})); err == nil || !strings.Contains(err.Error(), "not signed with HS256") {
		t.Errorf("RS256 without a key set: %v", err)
	}
	for _, key := range []string{secret, ""} {
		err := failure(keysOnly, signWith(t, jwt.SigningMethodHS256, []byte(key), m{"kid": "r"}))
		if err == nil || !strings.Contains(err.Error(), "RS256 or ES256 or EdDSA") || strings.Contains(err.Error(), "HS256") {
			t.Errorf("HS256 without a secret: %v", err)
		}
	}
	if err := failure(keysOnly, signWith(t, jwt.SigningMethodES256, p.ec, m{"kid": "e"})); err != nil {
		t.Error(err)
	}
}

// TestSecretsAreRotated: while the apps go from one secret to the next both are good; then the old
// one is not, and JWT_SECRET is one of them without a name.
func TestSecretsAreRotated(t *testing.T) {
	const older, newer = "the-older-secret-0123456789", "the-newer-secret-0123456789="
	by := func(key, kid string) string {
		if kid == "" {
			return signWith(t, jwt.SigningMethodHS256, []byte(key), nil)
		}
		return signWith(t, jwt.SigningMethodHS256, []byte(key), m{"kid": kid})
	}
	both := func(s *Settings) { s.JWTSecrets = "2026a=" + older + ",\n 2026b=" + newer + "\n" }
	one := func(s *Settings) { s.JWTSecret, s.JWTSecrets = "", "2026b="+newer }
	for _, c := range []struct {
		name, token string
		both, one   bool
	}{
		{"older by name", by(older, "2026a"), true, false},
		{"newer by name", by(newer, "2026b"), true, true},
		{"older without name", by(older, ""), true, false},
		{"newer without name", by(newer, ""), true, true},
		{"the unnamed one", by(secret, ""), true, false},
		{"the unnamed one with a name", by(secret, "2026a"), false, false},
		{"names mixed up", by(older, "2026b"), false, false},
		{"unknown name", by(newer, "2026c"), false, false},
		{"none of them", by("quite-another-secret-0123", ""), false, false},
	} {
		if err := failure(verifier(t, both), c.token); (err == nil) != c.both {
			t.Errorf("%s, with both: %v", c.name, err)
		}
		if err := failure(verifier(t, one), c.token); (err == nil) != c.one {
			t.Errorf("%s, with the newer: %v", c.name, err)
		}
	}
}

func TestTokensThatEndTooLate(t *testing.T) {
	v := verifier(t, func(s *Settings) { s.JWTMaxLife = time.Hour })
	if err := failure(v, hs256(t, jwt.MapClaims{"sub": "42", "exp": at(time.Hour)})); err != nil {
		t.Error(err)
	}
	if err := failure(v, hs256(t, jwt.MapClaims{"sub": "42", "exp": at(61 * time.Minute)})); err == nil || !strings.Contains(err.Error(), "too late") {
		t.Errorf("a token past the longest life: %v", err)
	}
}

func TestTokenIDsAreBounded(t *testing.T) {
	v, long := verifier(t), strings.Repeat("i", MaxID)
	if id, err := v.Verify(t.Context(), hs256(t, jwt.MapClaims{"sub": "42", "jti": long, "iat": at(-time.Hour), "exp": at(time.Hour)})); err != nil || id.ID != long || id.Issued.Unix() != at(-time.Hour) {
		t.Errorf("%+v, %v", id, err)
	}
	if err := failure(v, hs256(t, jwt.MapClaims{"sub": "42", "jti": long + "i", "exp": at(time.Hour)})); err == nil || !strings.Contains(err.Error(), "256") {
		t.Errorf("an id of 257 bytes: %v", err)
	}
	if _, err := Sign(secret, Claims{Subject: "42", ID: long + "i"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("signed: %v", err)
	}
}
