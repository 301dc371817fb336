package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"eventspine/internal/fault"
)

// Bounds of a key set.
const (
	maxKeySet  = 1 << 20 // bytes
	maxKeys    = 64
	maxKeyID   = 128 // bytes of a kid
	minRSABits = 2048
	maxRSABits = 8192
)

// publicKey is one key that verifies signatures of one algorithm and of no other.
type publicKey struct {
	id  string // kid; may be empty
	alg string // RS256, ES256 or EdDSA
	key crypto.PublicKey
}

// jwk is one member of a JSON Web Key Set (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
type jwk struct {
	Type string   `json:"kty"`
	ID   string   `json:"kid"`
	Use  string   `json:"use"`
	Ops  []string `json:"key_ops"`
	Alg  string   `json:"alg"`
	N    string   `json:"n"`
	E    string   `json:"e"`
	Crv  string   `json:"crv"`
	X    string   `json:"x"`
	Y    string   `json:"y"`
	D    string   `json:"d"` // a private key, which has no business here
}

// parseKeySet reads the keys of a JSON Web Key Set that can verify signatures. Keys of other kinds,
// for other uses, too weak or broken ones, private and symmetric ones are left out; skipped says how
// many. The error is of kind Invalid: no key set, or one without a key that can be used.
func parseKeySet(b []byte) (keys []publicKey, skipped int, err error) {
	const op = "read key set"
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, 0, fault.Errorf(op, fault.Invalid, "it is no JSON Web Key Set, an object with a list called keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, 0, fault.Errorf(op, fault.Invalid, "it has more than %d keys", maxKeys)
	}
	for _, raw := range set.Keys {
		var k jwk
		if json.Unmarshal(raw, &k) != nil {
			skipped++
			continue
		}
		if alg, key := k.public(); key != nil {
			keys = append(keys, publicKey{k.ID, alg, key})
		} else {
			skipped++
		}
	}
	if len(keys) == 0 {
		return nil, skipped, fault.Errorf(op, fault.Invalid, "none of its %d keys is a public one for RS256, ES256 or EdDSA", len(set.Keys))
	}
	return keys, skipped, nil
}

// public gives the key and its one algorithm; a nil key: it cannot be used.
func (k *jwk) public() (alg string, key crypto.PublicKey) {
	if k.D != "" || k.Use != "" && k.Use != "sig" || k.Ops != nil && !slices.Contains(k.Ops, "verify") || len(k.ID) > maxKeyID {
		return "", nil
	}
	switch {
	case k.Type == "RSA":
		alg, key = jwt.SigningMethodRS256.Name, rsaKey(k.N, k.E)
	case k.Type == "EC" && k.Crv == "P-256":
		alg, key = jwt.SigningMethodES256.Name, ecKey(k.X, k.Y)
	case k.Type == "OKP" && k.Crv == "Ed25519":
		alg, key = jwt.SigningMethodEdDSA.Alg(), edKey(k.X)
	}
	if k.Alg != "" && k.Alg != alg && (alg != jwt.SigningMethodEdDSA.Alg() || k.Alg != "Ed25519") { // RFC 9864 renames it
		return "", nil
	}
	return alg, key
}

// The three return an untyped nil for what is no good key.

func rsaKey(modulus, exponent string) crypto.PublicKey {
	n, e := number(modulus), number(exponent)
	if n == nil || e == nil || n.BitLen() < minRSABits || n.BitLen() > maxRSABits || e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
}

func ecKey(x, y string) crypto.PublicKey {
	xs, ys := bytesOf(x), bytesOf(y)
	if len(xs) != 32 || len(ys) != 32 {
		return nil
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, xs, ys))
	if err != nil { // no point of the curve
		return nil
	}
	return key
}

func edKey(x string) crypto.PublicKey {
	key := bytesOf(x)
	if len(key) != ed25519.PublicKeySize {
		return nil
	}
	return ed25519.PublicKey(key)
}

func number(s string) *big.Int {
	b := bytesOf(s)
	if len(b) == 0 {
		return nil
	}
	return new(big.Int).SetBytes(b)
}

// bytesOf decodes base64url, with padding too; nil when it is none.
func bytesOf(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil
	}
	return b
}
