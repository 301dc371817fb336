package v5

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"

	"eventspine/internal/socketio/wire"
)

// Kind is what a packet is for.
type Kind byte

// The kinds of protocol 5, as they stand on the wire.
const (
	Connect      Kind = '0'
	Disconnect   Kind = '1'
	Event        Kind = '2'
	Ack          Kind = '3'
	ConnectError Kind = '4'
	BinaryEvent  Kind = '5'
	BinaryAck    Kind = '6'
)

const (
	maxAttachments = 32
	maxIDDigits    = 15
	mainNamespace  = "/"
)

// Packet is one packet of the protocol, without the bytes of its attachments.
type Packet struct {
	Kind        Kind
	Namespace   string // begins with a slash
	HasID       bool
	ID          uint64 // of an event that wants an ack, or of an ack
	Attachments int    // binary messages that follow
	Data        json.RawMessage
}

// Parse reads a packet. Its data is valid JSON of the form its kind demands; the bytes are not
// copied. The error is a Violation.
func Parse(b []byte) (Packet, error) {
	p := Packet{Namespace: mainNamespace}
	if len(b) == 0 || b[0] < '0' || b[0] > '6' {
		return p, wire.BadPacket
	}
	p.Kind, b = Kind(b[0]), b[1:]
	if p.Kind == BinaryEvent || p.Kind == BinaryAck {
		n, rest, ok := cutNumber(b)
		if !ok || n > maxAttachments || len(rest) == 0 || rest[0] != '-' {
			return p, wire.BadBinary
		}
		p.Attachments, b = int(n), rest[1:]
	}
	if len(b) > 0 && b[0] == '/' {
		name, rest, _ := bytes.Cut(b, []byte(","))
		p.Namespace, b = string(name), rest
	}
	if n, rest, ok := cutNumber(b); ok {
		p.HasID, p.ID, b = true, n, rest
	} else if len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
		return p, wire.BadPacket
	}
	p.Data = b
	return p, p.check()
}

// cutNumber reads a number of few digits.
func cutNumber(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i <= maxIDDigits && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + uint64(b[i]-'0')
		i++
	}
	return n, b[i:], i > 0 && i <= maxIDDigits
}

// check holds the data against the kind.
func (p *Packet) check() error {
	first := byte(0)
	if len(p.Data) > 0 {
		if !json.Valid(p.Data) {
			return wire.BadJSON
		}
		first = p.Data[0]
	}
	isAck := p.Kind == Ack || p.Kind == BinaryAck
	switch p.Kind {
	case Connect:
		return when(p.HasID || first != 0 && first != '{')
	case Disconnect:
		return when(p.HasID || first != 0)
	case Event, BinaryEvent, Ack, BinaryAck:
		if first != '[' || isAck && !p.HasID || !isAck && !namesEvent(p.Data) {
			return wire.BadJSON
		}
		return p.checkPlaceholders()
	}
	return wire.BadPacket // a client has no business with a connect error
}

func when(broken bool) error {
	if broken {
		return wire.BadJSON
	}
	return nil
}

// reserved names belong to the client itself.
func reserved(name string) bool {
	switch name {
	case "", "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener":
		return true
	}
	return false
}

func namesEvent(data []byte) bool {
	var name string
	return json.Unmarshal(data, &[]any{&name}) == nil && !reserved(name)
}

// checkPlaceholders makes sure that every attachment the data speaks of is announced.
func (p *Packet) checkPlaceholders() error {
	if !bytes.Contains(p.Data, []byte("_placeholder")) {
		return nil
	}
	var v any
	if err := json.Unmarshal(p.Data, &v); err != nil {
		return wire.BadJSON
	}
	if p.Attachments == 0 {
		return nil // in a plain event it is data like any other
	}
	return when(!placed(v, p.Attachments))
}

func placed(v any, n int) bool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if !placed(e, n) {
				return false
			}
		}
	case map[string]any:
		if v["_placeholder"] == true {
			num, ok := v["num"].(float64)
			return ok && num >= 0 && num < float64(n) && num == math.Trunc(num)
		}
		for _, e := range v {
			if !placed(e, n) {
				return false
			}
		}
	}
	return true
}

// Append writes the packet as the data of an Engine.IO message, with the 4 before it.
func (p *Packet) Append(dst []byte) []byte {
	dst = append(dst, '4', byte(p.Kind))
	if p.Kind == BinaryEvent || p.Kind == BinaryAck {
		dst = append(strconv.AppendInt(dst, int64(p.Attachments), 10), '-')
	}
	if p.Namespace != mainNamespace {
		dst = append(append(dst, p.Namespace...), ',')
	}
	if p.HasID {
		dst = strconv.AppendUint(dst, p.ID, 10)
	}
	return append(dst, p.Data...)
}

// AppendEvent writes the event name with one argument, payload, and, when it is not empty, the
// string offset as a second, as the data of an Engine.IO message for the main namespace.
func AppendEvent(dst []byte, name string, payload, offset []byte) []byte {
	dst = append(dst, `42["`...)
	dst = wire.AppendString(dst, name)
	dst = append(dst, `",`...)
	dst = append(dst, payload...)
	if len(offset) > 0 {
		dst = append(append(append(dst, `,"`...), offset...), '"')
	}
	return append(dst, ']')
}
