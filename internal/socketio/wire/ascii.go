package wire

import (
	"unicode/utf16"
	"unicode/utf8"
)

// AppendString appends s as the inside of a JSON string.
func AppendString(dst []byte, s string) []byte {
	for _, r := range s {
		switch {
		case r == '"', r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20:
			dst = appendUnit(dst, uint16(r))
		case r < utf8.RuneSelf:
			dst = append(dst, byte(r))
		default:
			dst = appendRune(dst, r)
		}
	}
	return dst
}

// AppendASCII appends the JSON text in b with every character outside ASCII written as \uXXXX:
// they stand only inside strings, so the value is the same. Bytes that are not UTF-8 become
// U+FFFD. Engine.IO 3 clients disagree about what a length counts; in ASCII they all agree.
func AppendASCII(dst, b []byte) []byte {
	for len(b) > 0 {
		n := 0
		for n < len(b) && b[n] < utf8.RuneSelf {
			n++
		}
		dst = append(dst, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			break
		}
		r, size := utf8.DecodeRune(b)
		dst = appendRune(dst, r)
		b = b[size:]
	}
	return dst
}

func appendRune(dst []byte, r rune) []byte {
	if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
		return appendUnit(appendUnit(dst, uint16(r1)), uint16(r2))
	}
	return appendUnit(dst, uint16(r))
}

func appendUnit(dst []byte, u uint16) []byte {
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'u', hex[u>>12], hex[u>>8&15], hex[u>>4&15], hex[u&15])
}
