package curve

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"

	"eventspine/internal/fault"
)

// KeySize is the size of a key in bytes.
const KeySize = 32

// Key is a Curve25519 key, public or secret. The zero Key means none. Printed it shows nothing,
// so that no secret gets into a log by mistake.
type Key [KeySize]byte

// Pair is a public key and its secret one.
type Pair struct{ Public, Secret Key }

// GenerateKeys makes a new pair from the system's random source.
func GenerateKeys() (Pair, error) {
	public, secret, err := box.GenerateKey(rand.Reader)
	if err != nil {
		return Pair{}, fault.E("curve.GenerateKeys", fault.Internal, err)
	}
	return Pair{Public: *public, Secret: *secret}, nil
}

// ParseKey reads the 40 characters of Z85 that Key.Z85 gives; else the error is Invalid and does
// not repeat the text.
func ParseKey(text string) (Key, error) {
	b, err := decodeZ85(text)
	if err == nil && len(b) != KeySize {
		err = fmt.Errorf("want 40 characters of Z85, not %d", len(text))
	}
	if err != nil {
		return Key{}, fault.E("curve.ParseKey", fault.Invalid, err)
	}
	return Key(b), nil
}

// Z85 is the key's text of 40 characters.
func (k Key) Z85() string { return encodeZ85(k[:]) }

// String hides the key.
func (Key) String() string { return "[key]" }

// GoString hides the key.
func (Key) GoString() string { return "[key]" }

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k == Key{} }

// Check says whether both keys are there and belong together; the error is Invalid.
func (p Pair) Check() error {
	if p.Public.IsZero() || p.Secret.IsZero() {
		return fault.Errorf("curve", fault.Invalid, "public or secret key is missing")
	}
	public, err := curve25519.X25519(p.Secret[:], curve25519.Basepoint)
	if err != nil || subtle.ConstantTimeCompare(public, p.Public[:]) != 1 {
		return fault.Errorf("curve", fault.Invalid, "secret key does not belong to the public one")
	}
	return nil
}

// Ext is the extension of the files of secret keys, PublicExt of those of public ones.
const (
	Ext       = ".key"
	PublicExt = ".pub"
)

// Certificate is the pair as the text of a file: ZPL as czmq and pyzmq have it. It holds the
// secret key unless that is zero.
func (p Pair) Certificate() string {
	public := "metadata\ncurve\n    public-key = \"" + p.Public.Z85() + "\"\n"
	if p.Secret.IsZero() {
		return "# ZeroMQ CURVE certificate. Public: may be given away.\n" + public
	}
	return "# ZeroMQ CURVE certificate. SECRET: give it to nobody.\n" + public + "    secret-key = \"" + p.Secret.Z85() + "\"\n"
}

// WriteFiles writes the pair to the new file path, which only its owner may read, and the
// public key alone to the new file beside it that ends in .pub instead of .key. When one of them is
// there already the error is Conflict and nothing was written.
func (p Pair) WriteFiles(path string) error {
	if err := writeNew(path, p.Certificate(), 0o600); err != nil {
		return err
	}
	err := writeNew(strings.TrimSuffix(path, Ext)+PublicExt, Pair{Public: p.Public}.Certificate(), 0o644)
	if err != nil {
		err = errors.Join(err, os.Remove(path)) // it is the one that we just made
	}
	return err
}

func writeNew(path, text string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fault.E("curve.WriteFiles", fault.Conflict, err)
	}
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	return fault.E("curve.WriteFiles", fault.Internal, err)
}

// ReadFile reads a certificate file; of a public one Secret stays zero. A file that is missing is
// NotFound, one without a good public key or with a secret that does not belong to it Invalid.
func ReadFile(path string) (Pair, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		kind := fault.Internal
		if errors.Is(err, os.ErrNotExist) {
			kind = fault.NotFound
		}
		return Pair{}, fault.E("curve.ReadFile", kind, err)
	}
	p, err := Parse(b)
	if err != nil {
		return Pair{}, fault.Errorf("curve.ReadFile", fault.Invalid, "%s: %w", path, err)
	}
	return p, nil
}

// Parse reads the text of a certificate file; of a public one Secret stays zero. The error is
// Invalid and repeats nothing of the text.
func Parse(text []byte) (Pair, error) {
	p, err := parse(text)
	if err != nil {
		return Pair{}, fault.E("", fault.Invalid, err)
	}
	return p, nil
}

func parse(b []byte) (p Pair, err error) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch strings.TrimSpace(name) {
		case "public-key":
			p.Public, err = ParseKey(value)
		case "secret-key":
			p.Secret, err = ParseKey(value)
		}
		if err != nil {
			return Pair{}, err
		}
	}
	switch {
	case lines.Err() != nil:
		return Pair{}, lines.Err()
	case p.Public.IsZero():
		return Pair{}, errors.New("no public-key in it")
	case !p.Secret.IsZero():
		return p, p.Check()
	}
	return p, nil
}
