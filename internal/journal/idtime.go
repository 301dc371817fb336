package journal

import (
	"encoding/hex"
	"strings"
)

// idTime reads the time out of an id that holds one, in milliseconds since the Unix epoch:
// a UUIDv7 in its usual form (RFC 9562 §5.7), or a ULID. Every process finds the same time,
// whatever its own clock says, so repeats of such an id always meet in the same bucket.
func idTime(id string) (ms int64, ok bool) {
	switch len(id) {
	case 36:
		return uuidTime(id)
	case 26:
		return ulidTime(id)
	}
	return 0, false
}

func uuidTime(id string) (int64, bool) {
	if id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' || id[14] != '7' || !strings.ContainsRune("89abAB", rune(id[19])) {
		return 0, false
	}
	digits := id[0:8] + id[9:13] + id[14:18] + id[19:23] + id[24:36]
	b, err := hex.DecodeString(digits)
	if err != nil {
		return 0, false
	}
	var ms int64
	for _, c := range b[:6] {
		ms = ms<<8 | int64(c)
	}
	return ms, true
}

// crockford is the alphabet of a ULID, in the order of its digits.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func ulidTime(id string) (int64, bool) {
	if id[0] > '7' { // more than 48 bits of time
		return 0, false
	}
	var ms int64
	for i := range len(id) {
		digit := strings.IndexByte(crockford, id[i])
		if digit < 0 {
			return 0, false
		}
		if i < 10 {
			ms = ms<<5 | int64(digit)
		}
	}
	return ms, true
}
