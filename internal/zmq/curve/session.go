package curve

import (
	"encoding/binary"

	"golang.org/x/crypto/nacl/box"
)

// Flags of a sealed frame, inside its box.
const (
	More    = 1
	Command = 2
)

const (
	messageName = "\x07MESSAGE"

	// Overhead is what a sealed frame takes besides its body, in bytes.
	Overhead = len(messageName) + shortNonce + tag + 1
)

// Session seals what goes out and opens what comes in. One goroutine may seal while another
// opens.
type Session struct {
	Peer Key // the other end's long-term public key, proved

	shared         [KeySize]byte
	sealAs, openAs string
	sent, received uint64 // the last nonces
	scratch        []byte // Seal's
}

func (s *Session) agree(their, secret *[KeySize]byte, server bool) {
	box.Precompute(&s.shared, their, secret)
	s.sealAs, s.openAs = "CurveZMQMESSAGEC", "CurveZMQMESSAGES"
	if server {
		s.sealAs, s.openAs = s.openAs, s.sealAs
	}
}

// Seal appends to dst the body of a frame that holds flags and body: Overhead + len(body) bytes.
func (s *Session) Seal(dst []byte, flags byte, body []byte) []byte {
	s.sent++
	dst = append(dst, messageName...)
	dst = binary.BigEndian.AppendUint64(dst, s.sent)
	s.scratch = append(append(s.scratch[:0], flags), body...)
	dst = box.SealAfterPrecomputation(dst, s.scratch, counted(s.sealAs, s.sent), &s.shared)
	if cap(s.scratch) > 1<<20 {
		s.scratch = nil
	}
	return dst
}

// Open gives back what Seal was given. The body is a copy of its own. A frame that was
// changed, or that is not newer than the one before, is an ErrProtocol, after which the
// connection is of no more use.
func (s *Session) Open(frame []byte) (flags byte, body []byte, err error) {
	return s.OpenInto(nil, frame)
}

// OpenInto is Open that puts the body into mem if that has len(frame) - Overhead + 1 bytes.
func (s *Session) OpenInto(mem, frame []byte) (flags byte, body []byte, err error) {
	if len(frame) < Overhead || string(frame[:len(messageName)]) != messageName {
		return 0, nil, corrupt("frame of %d bytes that is no MESSAGE", len(frame))
	}
	plain, err := s.openCommand(mem, s.openAs, frame[len(messageName):])
	if err != nil {
		return 0, nil, err
	}
	if plain[0]&^(More|Command) != 0 {
		return 0, nil, corrupt("reserved bits in flags %#02x", plain[0])
	}
	return plain[0], plain[1:], nil
}

// openCommand opens a counter and a box. Counters must grow, so that nothing comes twice.
func (s *Session) openCommand(mem []byte, prefix string, b []byte) ([]byte, error) {
	n := binary.BigEndian.Uint64(b)
	if n <= s.received {
		return nil, corrupt("nonce %d after %d", n, s.received)
	}
	if size := len(b) - shortNonce - tag; cap(mem) < size {
		mem = make([]byte, 0, size)
	}
	plain, ok := box.OpenAfterPrecomputation(mem[:0], b[shortNonce:], counted(prefix, n), &s.shared)
	if !ok {
		return nil, corrupt("box does not open")
	}
	s.received = n
	return plain, nil
}
