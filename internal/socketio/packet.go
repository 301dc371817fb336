package socketio

import (
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// Packet is one event for any number of connections. It is encoded once for each protocol, when
// the first connection of that protocol needs it. Safe for concurrent use.
type Packet struct {
	name    string
	payload []byte

	v3 struct {
		once sync.Once
		text []byte // Engine.IO 3: 42["name",payload], ASCII only
		err  error
		ws   *websocket.PreparedMessage
	}
}

// NewPacket makes the event name with one argument, payload, which must be valid JSON and must
// not be changed afterwards.
func NewPacket(name string, payload []byte) *Packet {
	return &Packet{name: name, payload: payload}
}

// Size is the number of bytes of the name and the payload, before any encoding.
func (p *Packet) Size() int { return len(p.name) + len(p.payload) }

func (p *Packet) encode() {
	v := &p.v3
	v.text = make([]byte, 0, len(p.name)+len(p.payload)+8)
	v.text = append(v.text, `42["`...)
	v.text = appendString(v.text, p.name)
	v.text = append(v.text, `",`...)
	v.text = appendASCII(v.text, p.payload)
	v.text = append(v.text, ']')
	v.ws, v.err = websocket.NewPreparedMessage(websocket.TextMessage, v.text)
}

// eio3 is the packet as Engine.IO 3 writes it.
func (p *Packet) eio3() message {
	p.v3.once.Do(p.encode)
	return message{text: p.v3.text, prepared: p.v3.ws, event: true}
}

// appendString appends s as the inside of a JSON string.
func appendString(dst []byte, s string) []byte {
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

// appendASCII appends the JSON text in b with every character outside ASCII written as \uXXXX:
// they stand only inside strings, so the value is the same. Bytes that are not UTF-8 become
// U+FFFD. Engine.IO 3 clients disagree about what a length counts; in ASCII they all agree.
func appendASCII(dst, b []byte) []byte {
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
