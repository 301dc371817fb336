package auth

import (
	"context"
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

const secret = "a secret of more than sixteen bytes"

var noon = time.Date(2015, 11, 20, 12, 0, 0, 0, time.UTC)

// settings are those that tokens of the secret above are good for, with changes.
func settings(change ...func(*Settings)) Settings {
	s := DefaultSettings()
	s.JWTSecret = secret
	for _, c := range change {
		c(&s)
	}
	return s
}

func issuer(s *Settings)   { s.JWTIssuer = "shop" }
func audience(s *Settings) { s.JWTAudience = "spine" }
func noLeeway(s *Settings) { s.JWTLeeway = 0 }

// verifier has the clock stand at noon.
func verifier(t testing.TB, change ...func(*Settings)) *Verifier {
	t.Helper()
	return open(t, settings(change...), Options{Now: func() time.Time { return noon }})
}

func open(t testing.TB, s Settings, o Options) *Verifier {
	t.Helper()
	v, err := NewVerifier(s, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func sign(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hs256(t testing.TB, claims jwt.MapClaims) string {
	return sign(t, jwt.SigningMethodHS256, []byte(secret), claims)
}

func at(d time.Duration) int64 { return noon.Add(d).Unix() }

func TestVerifyAccepts(t *testing.T) {
	hour := at(time.Hour)
	for name, c := range map[string]struct {
		claims jwt.MapClaims
		o      []func(*Settings)
		want   Identity
	}{
		"subject":                    {jwt.MapClaims{"sub": "42", "exp": hour}, nil, Identity{Subject: "42"}},
		"userId without sub":         {jwt.MapClaims{"userId": "ana", "exp": hour}, nil, Identity{Subject: "ana"}},
		"numeric userId":             {jwt.MapClaims{"userId": 42, "exp": hour}, nil, Identity{Subject: "42"}},
		"sub wins over userId":       {jwt.MapClaims{"sub": "a", "userId": "b", "exp": hour}, nil, Identity{Subject: "a"}},
		"scopes":                     {jwt.MapClaims{"sub": "42", "scope": " emit  admin ", "exp": hour}, nil, Identity{Subject: "42", Scopes: map[string]bool{"emit": true, "admin": true}}},
		"id":                         {jwt.MapClaims{"sub": "42", "jti": "t1", "exp": hour}, nil, Identity{Subject: "42", ID: "t1"}},
		"non-ASCII subject":          {jwt.MapClaims{"sub": "añà 日本.x", "exp": hour}, nil, Identity{Subject: "añà 日本.x"}},
		"longest subject":            {jwt.MapClaims{"sub": strings.Repeat("u", 128), "exp": hour}, nil, Identity{Subject: strings.Repeat("u", 128)}},
		"expired within leeway":      {jwt.MapClaims{"sub": "42", "exp": at(-4 * time.Second)}, nil, Identity{Subject: "42"}},
		"not yet, but within leeway": {jwt.MapClaims{"sub": "42", "nbf": at(4 * time.Second), "exp": hour}, nil, Identity{Subject: "42"}},
		"issuer asked for":           {jwt.MapClaims{"sub": "42", "iss": "shop", "exp": hour}, []func(*Settings){issuer}, Identity{Subject: "42"}},
		"audience asked for":         {jwt.MapClaims{"sub": "42", "aud": []string{"x", "spine"}, "exp": hour}, []func(*Settings){audience}, Identity{Subject: "42"}},
		"unknown claims":             {jwt.MapClaims{"sub": "42", "role": []int{1}, "exp": hour}, nil, Identity{Subject: "42"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := verifier(t, c.o...).Verify(t.Context(), hs256(t, c.claims))
			if err != nil {
				t.Fatal(err)
			}
			if got.Subject != c.want.Subject || got.ID != c.want.ID || len(got.Scopes) != len(c.want.Scopes) {
				t.Errorf("identity is %+v, want %+v", got, c.want)
			}
			for scope := range c.want.Scopes {
				if !got.Has(scope) {
					t.Errorf("scope %q is missing", scope)
				}
			}
			if got.Has("other") {
				t.Error("has a scope nobody granted")
			}
			if exp := c.claims["exp"].(int64); got.Expires.Unix() != exp {
				t.Errorf("expires at %v, want %v", got.Expires.Unix(), exp)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	hour := at(time.Hour)
	ok := jwt.MapClaims{"sub": "42", "exp": hour}
	good := hs256(t, ok)
	parts := strings.Split(good, ".")
	for name, c := range map[string]struct {
		token string
		o     []func(*Settings)
		says  string
	}{
		"empty":                  {"", nil, "well-formed"},
		"not a token":            {"secret-looking-thing", nil, "well-formed"},
		"two parts":              {parts[0] + "." + parts[1], nil, "well-formed"},
		"bad base64":             {parts[0] + ".%%%." + parts[2], nil, "well-formed"},
		"claims are not JSON":    {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("no")) + "." + parts[2], nil, "well-formed"},
		"algorithm none":         {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, ok), nil, "HS256"},
		"algorithm HS512":        {sign(t, jwt.SigningMethodHS512, []byte(secret), ok), nil, "HS256"},
		"another secret":         {sign(t, jwt.SigningMethodHS256, []byte("another secret, long enough"), ok), nil, "signature"},
		"claims changed":         {parts[0] + "." + strings.Split(hs256(t, jwt.MapClaims{"sub": "1", "exp": hour}), ".")[1] + "." + parts[2], nil, "signature"},
		"signature cut off":      {parts[0] + "." + parts[1] + ".", nil, "signature"},
		"no expiry":              {hs256(t, jwt.MapClaims{"sub": "42"}), nil, "exp"},
		"expired":                {hs256(t, jwt.MapClaims{"sub": "42", "exp": at(-time.Minute)}), nil, "expired"},
		"expired, no leeway":     {hs256(t, jwt.MapClaims{"sub": "42", "exp": at(-2 * time.Second)}), []func(*Settings){noLeeway}, "expired"},
		"expiry is text":         {hs256(t, jwt.MapClaims{"sub": "42", "exp": "tomorrow"}), nil, "well-formed"},
		"not valid yet":          {hs256(t, jwt.MapClaims{"sub": "42", "nbf": at(time.Minute), "exp": hour}), nil, "not valid yet"},
		"no subject":             {hs256(t, jwt.MapClaims{"exp": hour}), nil, "sub"},
		"subject is everybody":   {hs256(t, jwt.MapClaims{"sub": "*", "exp": hour}), nil, "everybody"},
		"subject too long":       {hs256(t, jwt.MapClaims{"sub": strings.Repeat("u", 129), "exp": hour}), nil, "128"},
		"subject with a newline": {hs256(t, jwt.MapClaims{"sub": "a\nb", "exp": hour}), nil, "control"},
		"userId is negative":     {hs256(t, jwt.MapClaims{"userId": -1, "exp": hour}), nil, "well-formed"},
		"userId is an object":    {hs256(t, jwt.MapClaims{"userId": map[string]int{}, "exp": hour}), nil, "well-formed"},
		"scope is a list":        {hs256(t, jwt.MapClaims{"sub": "42", "scope": []string{"admin"}, "exp": hour}), nil, "well-formed"},
		"wrong issuer":           {hs256(t, jwt.MapClaims{"sub": "42", "iss": "evil", "exp": hour}), []func(*Settings){issuer}, "issuer"},
		"no issuer":              {good, []func(*Settings){issuer}, "iss"},
		"wrong audience":         {hs256(t, jwt.MapClaims{"sub": "42", "aud": "x", "exp": hour}), []func(*Settings){audience}, "audience"},
		"no audience":            {good, []func(*Settings){audience}, "aud"},
		"too long":               {good + strings.Repeat("A", MaxToken), nil, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := verifier(t, c.o...).Verify(t.Context(), c.token)
			if err == nil {
				t.Fatalf("accepted as %+v", id)
			}
			if fault.KindOf(err) != fault.Unauthorized {
				t.Errorf("kind is %v", fault.KindOf(err))
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("message %q does not say %q", err, c.says)
			}
			if len(c.token) > 10 && strings.Contains(err.Error(), c.token) || strings.Contains(err.Error(), secret) {
				t.Errorf("message %q holds the token or the secret", err)
			}
			if id.Subject != "" || id.Scopes != nil {
				t.Errorf("an identity came with the error: %+v", id)
			}
		})
	}
}

func TestNewVerifierRefusesShortSecrets(t *testing.T) {
	for _, s := range []string{"", "short", "fifteen bytes!!"} {
		_, err := NewVerifier(settings(func(c *Settings) { c.JWTSecret = s }), Options{})
		if fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%q: %v", s, err)
		}
		if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
	if _, err := NewVerifier(settings(func(c *Settings) { c.JWTSecret = "sixteen bytes!!!" }), Options{}); err != nil {
		t.Error(err)
	}
}

func TestSignRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		secret string
		claims Claims
	}{
		"short secret":       {"short", Claims{Subject: "42"}},
		"no subject":         {secret, Claims{}},
		"everybody":          {secret, Claims{Subject: "*"}},
		"invalid UTF-8":      {secret, Claims{Subject: "\xff"}},
		"scope with a space": {secret, Claims{Subject: "42", Scopes: []string{"emit admin"}}},
		"empty scope":        {secret, Claims{Subject: "42", Scopes: []string{""}}},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := Sign(c.secret, c.claims); fault.KindOf(err) != fault.Invalid || err == nil || s != "" {
				t.Errorf("got %q, %v", s, err)
			}
		})
	}
}

func TestSignThenVerify(t *testing.T) {
	v := open(t, settings(issuer, audience), Options{})
	rapid.Check(t, func(t *rapid.T) {
		c := Claims{
			Subject: rapid.StringN(1, 32, 128).Filter(func(s string) bool { return subjectProblem(s) == "" }).Draw(t, "subject"),
			Scopes:  rapid.SliceOfDistinct(rapid.StringMatching(`[a-z:]{1,8}`), rapid.ID[string]).Draw(t, "scopes"),
			TTL:     time.Duration(rapid.IntRange(1, 3600).Draw(t, "ttl")) * time.Second,
			ID:      rapid.StringMatching(`[a-z0-9]{0,8}`).Draw(t, "id"),
			Issuer:  "shop", Audience: "spine",
		}
		token, err := Sign(secret, c)
		if err != nil {
			t.Fatal(err)
		}
		id, err := v.Verify(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if id.Subject != c.Subject || id.ID != c.ID || len(id.Scopes) != len(c.Scopes) {
			t.Fatalf("signed %+v, verified %+v", c, id)
		}
		for _, s := range c.Scopes {
			if !id.Has(s) {
				t.Fatalf("scope %q was lost", s)
			}
		}
	})
}

func TestSignDefaultsToAnHour(t *testing.T) {
	token, err := Sign(secret, Claims{Subject: "42"})
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, settings(), Options{})
	id, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(id.Expires); left < 59*time.Minute || left > time.Hour {
		t.Errorf("valid for %v", left)
	}
	ended, err := Sign(secret, Claims{Subject: "42", TTL: -time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), ended); err == nil {
		t.Error("a token that has ended was accepted")
	}
}

func TestARememberedTokenStillExpires(t *testing.T) {
	now := noon
	v := open(t, settings(), Options{Now: func() time.Time { return now }})
	token := hs256(t, jwt.MapClaims{"sub": "42", "scope": "emit", "exp": at(time.Minute)})
	for range 2 {
		if id, err := v.Verify(t.Context(), token); err != nil || !id.Has(ScopeEmit) {
			t.Fatalf("%+v, %v", id, err)
		}
	}
	now = noon.Add(time.Minute + 4*time.Second)
	if err := failure(v, token); err != nil {
		t.Errorf("within the leeway: %v", err)
	}
	now = noon.Add(time.Minute + 5*time.Second)
	for range 2 {
		if err := failure(v, token); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("after its end: %v", err)
		}
	}
	if v.good.Len() != 0 {
		t.Error("a token that has ended is remembered")
	}
}

func failure(v *Verifier, token string) error {
	_, err := v.Verify(context.Background(), token)
	return err
}

func TestOnlyGoodTokensAreRemembered(t *testing.T) {
	v := verifier(t)
	good := hs256(t, jwt.MapClaims{"sub": "42", "exp": at(time.Hour)})
	for _, token := range []string{"x", good[:len(good)-1], good + "A"} {
		if _, err := v.Verify(t.Context(), token); err == nil {
			t.Errorf("%q was accepted", token)
		}
	}
	if v.good.Len() != 0 {
		t.Error("a bad token is remembered")
	}
	if _, err := v.Verify(t.Context(), good); err != nil || v.good.Len() != 1 {
		t.Errorf("%d remembered, %v", v.good.Len(), err)
	}
	if _, err := v.Verify(t.Context(), good[:len(good)-1]); err == nil {
		t.Error("a part of a good token was accepted")
	}
}

func TestVerifyIsSafeForConcurrentUse(t *testing.T) {
	v := verifier(t)
	token := hs256(t, jwt.MapClaims{"sub": "42", "scope": "emit", "exp": at(time.Hour)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if id, err := v.Verify(t.Context(), token); err != nil || !id.Has(ScopeEmit) {
					t.Errorf("%+v, %v", id, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzVerify(f *testing.F) {
	f.Add(hs256(f, jwt.MapClaims{"sub": "42", "exp": at(time.Hour)}))
	f.Add(sign(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "42", "exp": at(time.Hour)}))
	f.Add("..")
	f.Add("eyJhbGciOiJIUzI1NiJ9.e30.")
	v := verifier(f)
	f.Fuzz(func(t *testing.T, token string) {
		id, err := v.Verify(t.Context(), token)
		if (err == nil) == (subjectProblem(id.Subject) != "") {
			t.Errorf("identity %+v, error %v", id, err)
		}
		if err != nil && fault.KindOf(err) != fault.Unauthorized {
			t.Errorf("kind of %v is %v", err, fault.KindOf(err))
		}
	})
}

func BenchmarkVerifyFirst(b *testing.B) {
	v := verifier(b)
	token := hs256(b, jwt.MapClaims{"sub": "42", "scope": "emit", "exp": at(time.Hour)})
	b.ReportAllocs()
	for b.Loop() {
		v.good.Purge()
		if _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyAgain(b *testing.B) {
	v := verifier(b)
	token := hs256(b, jwt.MapClaims{"sub": "42", "scope": "emit", "exp": at(time.Hour)})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
