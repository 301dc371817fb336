package zmtp

import (
	"encoding/binary"
	"net/textproto"
)

const maxProperties = 64 // of one READY; libzmq sends two and what the application adds

// parseMetadata reads the properties of a READY (RFC 23) into meta. Names do not depend on case:
// they come out as Socket-Type does. Everything malformed is an ErrProtocol.
func parseMetadata(meta map[string]string, b []byte) error {
	for n := 0; len(b) > 0; n++ {
		if n == maxProperties {
			return tooLarge("more than %d properties in the metadata", n)
		}
		name, rest, ok := cut(b[1:], uint64(b[0]))
		if !ok || len(name) == 0 || len(rest) < 4 {
			return corrupt("malformed metadata")
		}
		value, rest, ok := cut(rest[4:], uint64(binary.BigEndian.Uint32(rest)))
		if !ok {
			return corrupt("metadata value longer than the command")
		}
		meta[textproto.CanonicalMIMEHeaderKey(string(name))] = string(value)
		b = rest
	}
	return nil
}

func cut(b []byte, n uint64) (head, rest []byte, ok bool) {
	if n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
