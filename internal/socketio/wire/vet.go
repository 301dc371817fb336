package wire

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// MaxPacket is the largest packet a client may send, in bytes; the same for one POST body.
const MaxPacket = 64 << 10

const (
	maxPing  = 125 // bytes of data in a ping, which comes back in the pong
	maxAckID = 15  // digits
)

// Violation says which rule of the protocol a client broke. It is also the metric's label.
type Violation string

func (v Violation) Error() string { return "client broke the protocol: " + string(v) }

// The rules a client can break.
const (
	BadFragment  Violation = "fragmented frame"
	BadBinary    Violation = "binary frame"
	BadReserved  Violation = "compressed or reserved frame"
	BadUnmasked  Violation = "unmasked frame"
	BadControl   Violation = "bad control frame"
	BadSize      Violation = "too large"
	BadText      Violation = "not UTF-8"
	BadPacket    Violation = "packet kind"
	BadNamespace Violation = "namespace"
	BadJSON      Violation = "bad JSON"
	BadPayload   Violation = "bad payload"
	BadRate      Violation = "too many packets"
)

// Verdict is what happens to a packet that broke no rule.
type Verdict bool

// The two verdicts.
const (
	Pass    Verdict = true
	Swallow Verdict = false // legal, and nothing waits for it
)

// Vet decides about one packet, the text of a websocket message or a part of a POST body. What it
// passes is a close, a ping, a disconnect or an event of the main namespace, in the one form that
// go-socket.io reads without harm. A pong, a second connect and an ack (none is ever asked for)
// are swallowed. Everything else is a violation.
func Vet(b []byte) (Verdict, error) {
	switch {
	case len(b) == 0:
		return Swallow, BadPacket
	case len(b) > MaxPacket:
		return Swallow, BadSize
	case !utf8.Valid(b):
		return Swallow, BadText
	}
	switch rest := b[1:]; b[0] {
	case '1':
		return Pass, when(len(rest) > 0, BadPacket)
	case '2':
		return Pass, when(len(rest) > maxPing, BadPacket)
	case '3':
		return Swallow, when(len(rest) > maxPing, BadPacket)
	case '4':
		return vetMessage(rest)
	}
	return Swallow, BadPacket
}

func when(broken bool, v Violation) error {
	if broken {
		return v
	}
	return nil
}

func vetMessage(b []byte) (Verdict, error) {
	if len(b) == 0 {
		return Swallow, BadPacket
	}
	switch rest := b[1:]; b[0] {
	case '0':
		return Swallow, when(len(rest) > 0 && string(rest) != "/", BadNamespace)
	case '1':
		return Pass, when(len(rest) > 0 && string(rest) != "/", BadNamespace)
	case '2':
		return Pass, vetArray(rest, true)
	case '3':
		return Swallow, vetArray(rest, false)
	}
	return Swallow, BadPacket
}

// vetArray checks the id and the arguments of an event or an ack.
func vetArray(b []byte, event bool) error {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	args := b[n:]
	switch {
	case n > maxAckID, len(args) == 0:
		return BadPacket
	case args[0] == '/':
		return BadNamespace
	case args[0] != '[':
		return BadPacket
	case !json.Valid(args), event && !namesEvent(args):
		return BadJSON
	}
	return nil
}

// namesEvent reports whether the array begins with a non-empty string that go-socket.io can cut
// out: it looks for the first comma or bracket.
func namesEvent(args []byte) bool {
	head := bytes.TrimLeft(args[1:], " \t\r\n")
	if len(head) < 3 || head[0] != '"' || head[1] == '"' {
		return false
	}
	for i := 1; i < len(head); i++ {
		switch head[i] {
		case '"':
			return true
		case ',', ']':
			return false
		case '\\':
			i++
		}
	}
	return false
}
