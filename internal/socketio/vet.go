package socketio

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

// violation says which rule of the protocol a client broke. It is also the metric's label.
type violation string

func (v violation) Error() string { return "client broke the protocol: " + string(v) }

const (
	badFragment  violation = "fragmented frame"
	badBinary    violation = "binary frame"
	badReserved  violation = "compressed or reserved frame"
	badUnmasked  violation = "unmasked frame"
	badControl   violation = "bad control frame"
	badSize      violation = "too large"
	badText      violation = "not UTF-8"
	badPacket    violation = "packet kind"
	badNamespace violation = "namespace"
	badJSON      violation = "bad JSON"
	badPayload   violation = "bad payload"
	badRate      violation = "too many packets"
)

// verdict is what happens to a packet that broke no rule.
type verdict bool

const (
	pass    verdict = true
	swallow verdict = false // legal, and nothing waits for it
)

// vet decides about one packet, the text of a websocket message or a part of a POST body. What it
// passes is a close, a ping, a disconnect or an event of the main namespace, in the one form that
// go-socket.io reads without harm. A pong, a second connect and an ack (none is ever asked for)
// are swallowed. Everything else is a violation.
func vet(b []byte) (verdict, error) {
	switch {
	case len(b) == 0:
		return swallow, badPacket
	case len(b) > MaxPacket:
		return swallow, badSize
	case !utf8.Valid(b):
		return swallow, badText
	}
	switch rest := b[1:]; b[0] {
	case '1':
		return pass, when(len(rest) > 0, badPacket)
	case '2':
		return pass, when(len(rest) > maxPing, badPacket)
	case '3':
		return swallow, when(len(rest) > maxPing, badPacket)
	case '4':
		return vetMessage(rest)
	}
	return swallow, badPacket
}

func when(broken bool, v violation) error {
	if broken {
		return v
	}
	return nil
}

func vetMessage(b []byte) (verdict, error) {
	if len(b) == 0 {
		return swallow, badPacket
	}
	switch rest := b[1:]; b[0] {
	case '0':
		return swallow, when(len(rest) > 0 && string(rest) != "/", badNamespace)
	case '1':
		return pass, when(len(rest) > 0 && string(rest) != "/", badNamespace)
	case '2':
		return pass, vetArray(rest, true)
	case '3':
		return swallow, vetArray(rest, false)
	}
	return swallow, badPacket
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
		return badPacket
	case args[0] == '/':
		return badNamespace
	case args[0] != '[':
		return badPacket
	case !json.Valid(args), event && !namesEvent(args):
		return badJSON
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
