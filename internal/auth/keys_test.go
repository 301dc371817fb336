package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"eventspine/internal/fault"
	"eventspine/internal/testkit"
)

func TestKeySetsLeaveOutWhatIsNoGood(t *testing.T) {
	p := pairs()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := p384.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]m{
		"symmetric":              {"kty": "oct", "kid": "r", "k": b64([]byte(secret))},
		"private RSA":            jwkOf(t, "r", p.rsa.Public(), m{"d": b64(p.rsa.D.Bytes())}),
		"for encryption":         jwkOf(t, "r", p.rsa.Public(), m{"use": "enc"}),
		"for other operations":   jwkOf(t, "r", p.rsa.Public(), m{"key_ops": []string{"encrypt"}}),
		"for another algorithm":  jwkOf(t, "r", p.rsa.Public(), m{"alg": "RS512"}),
		"for HS256":              jwkOf(t, "r", p.rsa.Public(), m{"alg": "HS256"}),
		"for none":               jwkOf(t, "r", p.rsa.Public(), m{"alg": "none"}),
		"1024 bits":              jwkOf(t, "r", small.Public(), nil),
		"exponent one":           jwkOf(t, "r", p.rsa.Public(), m{"e": "AQ"}),
		"even exponent":          jwkOf(t, "r", p.rsa.Public(), m{"e": "BA"}),
		"huge exponent":          jwkOf(t, "r", p.rsa.Public(), m{"e": b64(p.rsa.N.Bytes())}),
		"no modulus":             jwkOf(t, "r", p.rsa.Public(), m{"n": ""}),
		"modulus is no base64":   jwkOf(t, "r", p.rsa.Public(), m{"n": "%%"}),
		"P-384":                  {"kty": "EC", "crv": "P-384", "x": b64(point[1:49]), "y": b64(point[49:])},
		"point off the curve":    jwkOf(t, "e", p.ec.Public(), m{"y": b64(make([]byte, 32))}),
		"point at infinity":      jwkOf(t, "e", p.ec.Public(), m{"x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}),
		"short coordinate":       jwkOf(t, "e", p.ec.Public(), m{"x": "AA"}),
		"short Ed25519":          jwkOf(t, "d", p.ed.Public(), m{"x": "AA"}),
		"X25519":                 jwkOf(t, "d", p.ed.Public(), m{"crv": "X25519"}),
		"unknown type":           {"kty": "AKP", "kid": "q"},
		"kid is a number":        jwkOf(t, "", p.ec.Public(), m{"kid": 7}),
		"kid longer than it may": jwkOf(t, strings.Repeat("k", 129), p.ec.Public(), nil),
	} {
		if keys, _, err := parseKeySet([]byte(keySet(t, key))); fault.KindOf(err) != fault.Invalid || len(keys) != 0 {
			t.Errorf("%s alone: %v, %v", name, keys, err)
		}
		keys, skipped, err := parseKeySet([]byte(keySet(t, key, jwkOf(t, "good", p.ed.Public(), nil))))
		if err != nil || len(keys) != 1 || keys[0].id != "good" || skipped != 1 {
			t.Errorf("%s beside a good one: %v, %d skipped, %v", name, keys, skipped, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "no JSON": "keys", "a list": "[]", "no keys": "{}", "empty list": `{"keys":[]}`, "keys is text": `{"keys":"x"}`, "keys are numbers": `{"keys":[1]}`,
		"too many": `{"keys":[` + strings.Repeat("{},", maxKeys) + `{}]}`,
	} {
		if _, _, err := parseKeySet([]byte(text)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAKeyFileMustBeThere(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte(`{"keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxKeySet+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "absent"), broken, large, dir} {
		_, err := NewVerifier(settings(func(s *Settings) { s.JWTKeys = path }), Options{})
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "JWT_KEYS") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// publisher serves a key set over HTTP and counts who asks.
type publisher struct {
	*httptest.Server
	asked  atomic.Int32
	answer atomic.Pointer[func(http.ResponseWriter)]
}

func publish(t *testing.T) *publisher {
	p := &publisher{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		(*p.answer.Load())(w)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) says(set string) {
	f := func(w http.ResponseWriter) { _, _ = io.WriteString(w, set) }
	p.answer.Store(&f)
}

func (p *publisher) fails(w func(http.ResponseWriter)) { p.answer.Store(&w) }

func (p *publisher) use(s *Settings) { s.JWTSecret, s.JWTKeys = "", p.URL }

// pauseOver is as if the last read of the key set were long ago.
func pauseOver(v *Verifier) {
	v.keys.turn <- struct{}{}
	v.keys.read = time.Time{}
	<-v.keys.turn
}

// TestKeySetOverHTTP tells the life of a key set: not there yet, there, a key added and one taken
// away, gone, and there again.
func TestKeySetOverHTTP(t *testing.T) {
	p, pub := pairs(), publish(t)
	v := verifier(t, pub.use)
	old := signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "r"})
	next := signWith(t, jwt.SigningMethodES256, p.ec, m{"kid": "e"})

	pub.fails(func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) })
	if err := failure(v, old); fault.KindOf(err) != fault.Unavailable || strings.Contains(err.Error(), pub.URL) {
		t.Errorf("before the keys were read: %v", err)
	}
	if v.Ready(t.Context()) == nil {
		t.Error("ready without keys")
	}

	pub.says(keySet(t, jwkOf(t, "r", p.rsa.Public(), nil)))
	pauseOver(v)
	if err := failure(v, old); err != nil {
		t.Errorf("once they are there: %v", err)
	}
	if err := v.Ready(t.Context()); err != nil {
		t.Error(err)
	}

	asked := pub.asked.Load()
	pub.says(keySet(t, jwkOf(t, "r", p.rsa.Public(), nil), jwkOf(t, "e", p.ec.Public(), nil)))
	for range 50 { // unknown keys do not make a flood of reads
		if err := failure(v, next); fault.KindOf(err) != fault.Unauthorized {
			t.Fatalf("a moment after the last read: %v", err)
		}
	}
	if n := pub.asked.Load() - asked; n != 0 {
		t.Errorf("the key set was asked for %d times within the pause", n)
	}
	pauseOver(v)
	if err := failure(v, next); err != nil {
		t.Errorf("after the pause: %v", err)
	}

	pub.says(keySet(t, jwkOf(t, "e", p.ec.Public(), nil)))
	if err := v.keys.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := failure(v, old); fault.KindOf(err) != fault.Unauthorized {
		t.Errorf("a remembered token whose key was taken away: %v", err)
	}

	for name, answer := range map[string]func(http.ResponseWriter){
		"an error": func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"no keys":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"keys":[]}`) },
		"not JSON": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `<html>`) },
		"too much": func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxKeySet+1)) },
		"no way": func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://example.org/keys")
			w.WriteHeader(http.StatusFound)
		},
		"in circles": func(w http.ResponseWriter) { w.Header().Set("Location", pub.URL); w.WriteHeader(http.StatusFound) },
		"hang up":    func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		pub.fails(answer)
		if err := v.keys.refresh(t.Context()); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		if err := failure(v, next); err != nil {
			t.Errorf("with %s the keys that were known are gone: %v", name, err)
		}
	}
	if testutil.ToFloat64(v.m.reads.WithLabelValues("failed")) < 8 || testutil.ToFloat64(v.m.keys) != 1 {
		t.Error("the reads are not counted")
	}
}

// TestManyUnknownKeysAtOnce: one read, few that wait, and all get an answer.
func TestManyUnknownKeysAtOnce(t *testing.T) {
	p, pub := pairs(), publish(t)
	hold := make(chan struct{})
	pub.fails(func(w http.ResponseWriter) {
		<-hold
		_, _ = io.WriteString(w, everyKey(t))
	})
	v := verifier(t, pub.use)
	token := signWith(t, jwt.SigningMethodRS256, p.rsa, m{"kid": "r"})
	var all sync.WaitGroup
	var good, later atomic.Int32
	for range 500 {
		all.Go(func() {
			switch err := failure(v, token); {
			case err == nil:
				good.Add(1)
			case fault.KindOf(err) == fault.Unavailable:
				later.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	testkit.Eventually(t, 10*time.Second, func() bool { return later.Load() >= 500-fetchWaiters }, "those who may not wait have their answer")
	close(hold)
	all.Wait()
	if pub.asked.Load() != 1 || good.Load() != fetchWaiters {
		t.Errorf("%d reads, %d waited and were let in", pub.asked.Load(), good.Load())
	}
}

func TestRunReadsTheKeysAndEnds(t *testing.T) {
	p, pub := pairs(), publish(t)
	pub.says(keySet(t, jwkOf(t, "r", p.rsa.Public(), nil)))
	v := verifier(t, pub.use)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	testkit.Eventually(t, 10*time.Second, func() bool { return v.Ready(ctx) == nil }, "the keys were read without any token")
	pub.fails(func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Settings)
		field  string
	}{
		"nothing to check with":    {func(s *Settings) { s.JWTSecret = "" }, "JWT_SECRET"},
		"short secret":             {func(s *Settings) { s.JWTSecret = "hush-hush" }, "JWT_SECRET"},
		"secret without a name":    {func(s *Settings) { s.JWTSecrets = "hush-hush-hush-hush" }, "JWT_SECRETS"},
		"empty name":               {func(s *Settings) { s.JWTSecrets = "=hush-hush-hush-hush" }, "JWT_SECRETS"},
		"short one among them":     {func(s *Settings) { s.JWTSecrets = "a=hush-hush-hush-hush,b=hush-hush" }, "JWT_SECRETS"},
		"a name twice":             {func(s *Settings) { s.JWTSecrets = "a=hush-hush-hush-hush,a=hush-hush-hush-hash" }, "JWT_SECRETS"},
		"long name":                {func(s *Settings) { s.JWTSecrets = strings.Repeat("a", 129) + "=hush-hush-hush-hush" }, "JWT_SECRETS"},
		"too many":                 {func(s *Settings) { s.JWTSecrets = strings.Repeat("a=hush-hush-hush-hush,", 17) }, "JWT_SECRETS"},
		"keys over plain HTTP":     {func(s *Settings) { s.JWTKeys = "http://idp.example.org/keys" }, "JWT_KEYS"},
		"keys over something else": {func(s *Settings) { s.JWTKeys = "ftp://idp.example.org/keys" }, "JWT_KEYS"},
		"keys at no host":          {func(s *Settings) { s.JWTKeys = "https:///keys" }, "JWT_KEYS"},
		"keys at a broken URL":     {func(s *Settings) { s.JWTKeys = "https://%zz" }, "JWT_KEYS"},
		"refresh too often":        {func(s *Settings) { s.JWTKeys, s.JWTRefresh = "/keys", time.Second }, "JWT_KEYS_REFRESH"},
		"negative leeway":          {func(s *Settings) { s.JWTLeeway = -time.Second }, "JWT_LEEWAY"},
		"endless leeway":           {func(s *Settings) { s.JWTLeeway = time.Hour }, "JWT_LEEWAY"},
		"no life":                  {func(s *Settings) { s.JWTMaxLife = 0 }, "JWT_MAX_LIFE"},
	} {
		_, err := NewVerifier(settings(c.change), Options{})
		if fields := fault.FieldsOf(err); len(fields) != 1 || fields[0].Name != c.field || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"https://idp.example.org/keys", "http://localhost:1/keys", "http://127.0.0.1:1/keys", "http://[::1]:1/keys"} {
		if _, err := NewVerifier(settings(func(s *Settings) { s.JWTKeys = url }), Options{}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func FuzzKeySet(f *testing.F) {
	f.Add(everyKey(f))
	f.Add(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`)
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		keys, _, err := parseKeySet([]byte(text))
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		token := &jwt.Token{Header: map[string]any{"kid": "r"}, Method: jwt.SigningMethodHS256}
		k := &ring{}
		k.public.Store(&keys)
		if got, err := k.find(token); err == nil {
			t.Errorf("a public key would verify HS256: %v", got)
		}
	})
}
