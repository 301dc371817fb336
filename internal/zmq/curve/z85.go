package curve

import (
	"encoding/binary"
	"errors"
	"strings"
)

const z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

var errZ85 = errors.New("text is no Z85")

// encodeZ85 writes b, whose length must be a multiple of four, five characters for four bytes
// (RFC 32).
func encodeZ85(b []byte) string {
	out := make([]byte, 0, len(b)/4*5)
	for ; len(b) >= 4; b = b[4:] {
		n := binary.BigEndian.Uint32(b)
		for div := uint32(85 * 85 * 85 * 85); div > 0; div /= 85 {
			out = append(out, z85[n/div%85])
		}
	}
	return string(out)
}

func decodeZ85(text string) ([]byte, error) {
	if len(text)%5 != 0 {
		return nil, errZ85
	}
	out := make([]byte, 0, len(text)/5*4)
	for ; len(text) > 0; text = text[5:] {
		var n uint64
		for _, c := range []byte(text[:5]) {
			digit := strings.IndexByte(z85, c)
			if digit < 0 {
				return nil, errZ85
			}
			n = 85*n + uint64(digit)
		}
		if n > 1<<32-1 {
			return nil, errZ85
		}
		out = binary.BigEndian.AppendUint32(out, uint32(n))
	}
	return out, nil
}
