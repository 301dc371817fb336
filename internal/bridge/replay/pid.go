package replay

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// A pid names a session to Socket.IO's connection state recovery, and holds where the session
// began, so that nothing is kept here and any bridge can recover it, also when it never got an
// event. It is not signed: who makes one up gets his own events and nobody else's.
//
//	version 1 byte · user 8 bytes of a hash · user, all and their epochs, 8 bytes each · random 8 bytes
const (
	pidVersion = 1
	pidUser    = 8
	pidBytes   = 1 + pidUser + 4*8 + 8
)

func newPID(user string, at Position) string {
	b := make([]byte, 0, pidBytes)
	b = append(b, pidVersion)
	b = append(b, hashOf(user)...)
	for _, n := range []uint64{at.User, at.All, at.Epoch.User, at.Epoch.All} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	var unlike [8]byte // any other: a client takes a pid that it has for a recovery
	_, _ = rand.Read(unlike[:])
	return base64.RawURLEncoding.EncodeToString(append(b, unlike[:]...))
}

// readPID gives where the session began; false when it is none of this user's.
func readPID(pid, user string) (at Position, ok bool) {
	if len(pid) != base64.RawURLEncoding.EncodedLen(pidBytes) {
		return at, false
	}
	b, err := base64.RawURLEncoding.DecodeString(pid)
	if err != nil || b[0] != pidVersion || string(b[1:1+pidUser]) != string(hashOf(user)) {
		return at, false
	}
	b = b[1+pidUser:]
	for _, to := range []*uint64{&at.User, &at.All, &at.Epoch.User, &at.Epoch.All} {
		if *to = binary.BigEndian.Uint64(b); *to >= 1<<53 {
			return Position{}, false
		}
		b = b[8:]
	}
	return at, true
}

func hashOf(user string) []byte {
	sum := sha256.Sum256([]byte(user))
	return sum[:pidUser]
}
