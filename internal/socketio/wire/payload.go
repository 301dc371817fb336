package wire

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxPackets bounds the packets of one POST.
const maxPackets = 256

// SplitPayload cuts the body of a POST, <length>:<packet> again and again, into its packets.
// A length counts UTF-16 code units, as browsers do.
func SplitPayload(b []byte) ([][]byte, error) {
	if !utf8.Valid(b) {
		return nil, BadText
	}
	var packets [][]byte
	for len(b) > 0 {
		n, rest, ok := cutLength(b)
		if !ok || len(packets) == maxPackets {
			return nil, BadPayload
		}
		size := unitsPrefix(rest, n)
		if size < 0 {
			return nil, BadPayload
		}
		packets = append(packets, rest[:size:size])
		b = rest[size:]
	}
	if len(packets) == 0 {
		return nil, BadPayload
	}
	return packets, nil
}

func cutLength(b []byte) (n int, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i < 6 && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + int(b[i]-'0')
		i++
	}
	if i == 0 || i == len(b) || b[i] != ':' || n == 0 {
		return 0, nil, false
	}
	return n, b[i+1:], true
}

// unitsPrefix is the number of bytes at the beginning of b that are n UTF-16 code units, or -1.
func unitsPrefix(b []byte, n int) int {
	i := 0
	for n > 0 && i < len(b) {
		r, size := utf8.DecodeRune(b[i:])
		n -= utf16.RuneLen(r)
		i += size
	}
	if n != 0 {
		return -1
	}
	return i
}

// AppendPayload appends one packet, which is ASCII, to the answer to a GET.
func AppendPayload(dst, packet []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(packet)), 10)
	dst = append(dst, ':')
	return append(dst, packet...)
}
