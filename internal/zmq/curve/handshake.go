package curve

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/box"
	"golang.org/x/crypto/nacl/secretbox"
)

// ErrProtocol is wrapped by every error that the bytes of the other end caused: a malformed
// command, a box that does not open because a key is wrong, a nonce that did not grow.
var ErrProtocol = errors.New("CURVE protocol error")

// ErrDenied is wrapped by the error of a server's handshake when Authorize said no.
var ErrDenied = errors.New("client key denied")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...))
}

// Wire exchanges commands with the other end.
type Wire interface {
	SendCommand(name string, body []byte) error
	RecvCommand() (name string, body []byte, err error)
}

// Config is one end's part. Keys must pass Pair.Check; ServerKey is the client's knowledge of
// whom it talks to. Authorize is asked by a server about a client that has proved its key, with
// the metadata it sent; nil allows everybody who knows the server's public key.
type Config struct {
	Server    bool
	Keys      Pair
	ServerKey Key
	Authorize func(client Key, metadata []byte) error
}

// Sizes in bytes (RFC 26).
const (
	tag          = box.Overhead
	shortNonce   = 8
	longNonce    = 16
	cookieSize   = longNonce + 2*KeySize + tag
	helloSize    = 2 + 72 + KeySize + shortNonce + 64 + tag
	welcomeSize  = longNonce + KeySize + cookieSize + tag
	vouchSize    = longNonce + 2*KeySize + tag
	minInitiate  = cookieSize + shortNonce + KeySize + vouchSize + tag
	deniedReason = "400" // the status of the ZeroMQ authentication protocol, RFC 27
)

// Handshake agrees on a session over w and exchanges metadata under it. It sends nothing secret
// before the other end has proved its key. The Session is nil when err is not.
func Handshake(w Wire, c Config, metadata []byte) (s *Session, peerMetadata []byte, err error) {
	public, secret, err := box.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	h := handshake{wire: w, Config: c, public: public, secret: secret, nonce: 1, s: &Session{}}
	defer clear(secret[:])
	if c.Server {
		peerMetadata, err = h.serve(metadata)
	} else {
		peerMetadata, err = h.ask(metadata)
	}
	if err != nil {
		return nil, nil, err
	}
	h.s.sent = h.nonce - 1
	return h.s, peerMetadata, nil
}

type handshake struct {
	Config
	wire           Wire
	public, secret *[KeySize]byte // of this connection only
	nonce          uint64         // of our next command
	s              *Session
}

func (h *handshake) next() uint64 { h.nonce++; return h.nonce - 1 }

// expect receives the named command of at least min bytes.
func (h *handshake) expect(name string, min int) ([]byte, error) {
	got, body, err := h.wire.RecvCommand()
	switch {
	case err != nil:
		return nil, err
	case got != name:
		return nil, corrupt("got %.20q instead of %s", got, name)
	case len(body) < min:
		return nil, corrupt("%s of %d bytes", name, len(body))
	}
	return body, nil
}

// ask is the client's part.
func (h *handshake) ask(metadata []byte) ([]byte, error) {
	server := (*[KeySize]byte)(&h.ServerKey)
	n := h.next()
	hello := make([]byte, helloSize-64-tag, helloSize)
	hello[0] = 1 // version 1.0
	copy(hello[74:], h.public[:])
	binary.BigEndian.PutUint64(hello[106:], n)
	hello = box.Seal(hello, make([]byte, 64), counted("CurveZMQHELLO---", n), server, h.secret)
	if err := h.wire.SendCommand("HELLO", hello); err != nil {
		return nil, err
	}
	welcome, err := h.expect("WELCOME", welcomeSize)
	if err != nil {
		return nil, err
	}
	if len(welcome) != welcomeSize {
		return nil, corrupt("WELCOME of %d bytes", len(welcome))
	}
	plain, ok := box.Open(nil, welcome[longNonce:], given("WELCOME-", welcome), server, h.secret)
	if !ok {
		return nil, corrupt("WELCOME does not open: this is not the server whose key we have")
	}
	their := [KeySize]byte(plain)
	h.s.agree(&their, h.secret, false)
	if err := h.initiate(&their, plain[KeySize:], metadata); err != nil {
		return nil, err
	}
	ready, err := h.expect("READY", shortNonce+tag)
	if err != nil {
		return nil, err
	}
	h.s.Peer = h.ServerKey
	return h.s.openCommand(nil, "CurveZMQREADY---", ready)
}

// initiate proves our long-term key by a vouch that is good for this connection only.
func (h *handshake) initiate(their *[KeySize]byte, cookie, metadata []byte) error {
	nonce, err := random("VOUCH---")
	if err != nil {
		return err
	}
	secret := [KeySize]byte(h.Keys.Secret)
	vouched := append(append(make([]byte, 0, 2*KeySize), h.public[:]...), h.ServerKey[:]...)
	plain := append(append([]byte(nil), h.Keys.Public[:]...), nonce[8:]...)
	plain = box.Seal(plain, vouched, nonce, their, &secret)
	plain = append(plain, metadata...)
	n := h.next()
	body := binary.BigEndian.AppendUint64(append([]byte(nil), cookie...), n)
	body = box.SealAfterPrecomputation(body, plain, counted("CurveZMQINITIATE", n), &h.s.shared)
	return h.wire.SendCommand("INITIATE", body)
}

// serve is the server's part.
func (h *handshake) serve(metadata []byte) ([]byte, error) {
	hello, err := h.expect("HELLO", helloSize)
	if err != nil {
		return nil, err
	}
	if len(hello) != helloSize || hello[0] != 1 {
		return nil, corrupt("HELLO of %d bytes and version %d", len(hello), hello[0])
	}
	their := [KeySize]byte(hello[74:])
	h.s.received = binary.BigEndian.Uint64(hello[106:])
	long := [KeySize]byte(h.Keys.Secret)
	if _, ok := box.Open(nil, hello[114:], counted("CurveZMQHELLO---", h.s.received), &their, &long); !ok {
		return nil, corrupt("HELLO does not open: the client has another server's key")
	}
	cookie, err := h.welcome(&their, &long)
	if err != nil {
		return nil, err
	}
	initiate, err := h.expect("INITIATE", minInitiate)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(initiate[:cookieSize], cookie) != 1 {
		return nil, corrupt("INITIATE with another cookie")
	}
	h.s.agree(&their, h.secret, true)
	plain, err := h.s.openCommand(nil, "CurveZMQINITIATE", initiate[cookieSize:])
	if err != nil {
		return nil, err
	}
	if err := h.vouched(plain, &their); err != nil {
		return nil, err
	}
	theirMetadata := plain[KeySize+vouchSize:]
	if err := h.authorize(theirMetadata); err != nil {
		return nil, err
	}
	n := h.next()
	ready := binary.BigEndian.AppendUint64(nil, n)
	ready = box.SealAfterPrecomputation(ready, metadata, counted("CurveZMQREADY---", n), &h.s.shared)
	return theirMetadata, h.wire.SendCommand("READY", ready)
}

func (h *handshake) welcome(their, long *[KeySize]byte) (cookie []byte, err error) {
	var key [KeySize]byte // known to this connection alone, which ends with its handshake
	_, _ = rand.Read(key[:])
	cookieNonce, err := random("COOKIE--")
	if err != nil {
		return nil, err
	}
	state := append(append(make([]byte, 0, 2*KeySize), their[:]...), h.secret[:]...)
	cookie = secretbox.Seal(append([]byte(nil), cookieNonce[8:]...), state, cookieNonce, &key)
	nonce, err := random("WELCOME-")
	if err != nil {
		return nil, err
	}
	body := append([]byte(nil), nonce[8:]...)
	body = box.Seal(body, append(append([]byte(nil), h.public[:]...), cookie...), nonce, their, long)
	return cookie, h.wire.SendCommand("WELCOME", body)
}

// vouched checks that the client's long-term key stands behind its key of this connection and
// meant us.
func (h *handshake) vouched(plain []byte, their *[KeySize]byte) error {
	h.s.Peer = Key(plain)
	key := [KeySize]byte(h.s.Peer)
	vouch := plain[KeySize : KeySize+vouchSize]
	v, ok := box.Open(nil, vouch[longNonce:], given("VOUCH---", vouch), &key, h.secret)
	if !ok || subtle.ConstantTimeCompare(v[:KeySize], their[:]) != 1 || subtle.ConstantTimeCompare(v[KeySize:], h.Keys.Public[:]) != 1 {
		return corrupt("the client did not prove its key")
	}
	return nil
}

// authorize tells a client that is denied no more than that.
func (h *handshake) authorize(metadata []byte) error {
	if h.Authorize == nil {
		return nil
	}
	reason := h.Authorize(h.s.Peer, metadata)
	if reason == nil {
		return nil
	}
	denied := fmt.Errorf("%w: %w", ErrDenied, reason)
	if err := h.wire.SendCommand("ERROR", append([]byte{byte(len(deniedReason))}, deniedReason...)); err != nil {
		return errors.Join(denied, err)
	}
	return denied
}

// counted is a nonce of a 16-byte prefix and a counter.
func counted(prefix string, n uint64) *[24]byte {
	var b [24]byte
	copy(b[:], prefix)
	binary.BigEndian.PutUint64(b[16:], n)
	return &b
}

// given is a nonce of an 8-byte prefix and the 16 bytes that b begins with.
func given(prefix string, b []byte) *[24]byte {
	var n [24]byte
	copy(n[:], prefix)
	copy(n[8:], b[:longNonce])
	return &n
}

func random(prefix string) (*[24]byte, error) {
	var b [longNonce]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	return given(prefix, b[:]), nil
}
