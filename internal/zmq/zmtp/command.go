package zmtp

import "encoding/binary"

// The names of the commands a peer may send after the handshake. Others are to be ignored.
const (
	Ping      = "PING"
	Pong      = "PONG"
	Subscribe = "SUBSCRIBE"
	Cancel    = "CANCEL"
	Error     = "ERROR"
)

const maxPingContext = 16 // bytes, RFC 37

// Command is a ZMTP command: its name and what follows the name.
type Command struct {
	Name string
	Body []byte
}

// ParseCommand splits a command frame's body. Body aliases b. An empty or cut name is an
// ErrProtocol.
func ParseCommand(b []byte) (*Command, error) {
	if len(b) == 0 || b[0] == 0 || int(b[0]) > len(b)-1 {
		return nil, corrupt("malformed command of %d bytes", len(b))
	}
	n := int(b[0])
	return &Command{Name: string(b[1 : 1+n]), Body: b[1+n:]}, nil
}

// EncodePing is a whole PING frame. The peer may take us for dead after a silence of ttl, in
// tenths of a second; 0: it shall not.
func EncodePing(ttl uint16) []byte {
	return EncodeCommand(Ping, binary.BigEndian.AppendUint16(nil, ttl))
}

// TTL is how long, in tenths of a second, the sender of a PING wants to be waited for; 0: for
// ever. The PING must be one that PongFor took.
func TTL(ping *Command) uint16 { return binary.BigEndian.Uint16(ping.Body) }

// PongFor is the encoded answer to a PING: the same context (RFC 37). A PING without the
// two bytes of its TTL or with a context over 16 bytes is an ErrProtocol.
func PongFor(ping *Command) ([]byte, error) {
	if len(ping.Body) < 2 || len(ping.Body) > 2+maxPingContext {
		return nil, corrupt("PING of %d bytes", len(ping.Body))
	}
	return EncodeCommand(Pong, ping.Body[2:]), nil
}

// errorReason is the text of an ERROR command, as far as it is there.
func errorReason(cmd *Command) string {
	if len(cmd.Body) == 0 {
		return ""
	}
	return string(cmd.Body[1:min(len(cmd.Body), 1+int(cmd.Body[0]))])
}

// EncodeCommand is the whole command frame. The name must have 1 to 255 bytes.
func EncodeCommand(name string, body []byte) []byte {
	b := appendHeader(nil, flagCommand, 1+len(name)+len(body))
	b = append(b, byte(len(name)))
	b = append(b, name...)
	return append(b, body...)
}

// EncodeSubscription is the whole message frame by which a subscriber of ZMTP 3.0 asks for a
// topic, or no longer does.
func EncodeSubscription(topic string, on bool) []byte {
	b := appendHeader(make([]byte, 0, len(topic)+10), 0, 1+len(topic))
	b = append(b, 0)
	if on {
		b[len(b)-1] = 1
	}
	return append(b, topic...)
}

func appendHeader(b []byte, flags byte, size int) []byte {
	if size <= 255 {
		return append(b, flags, byte(size))
	}
	b = append(b, flags|flagLong)
	return binary.BigEndian.AppendUint64(b, uint64(size))
}
