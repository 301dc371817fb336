package hub

import "sync"

// Protocol is one that connections speak.
type Protocol uint8

// The protocols; each encodes a packet in its own way.
const (
	EIO3 Protocol = iota
	EIO4
	protocols
)

// Position is an event's place in the journal. A zero Seq means none.
type Position struct {
	Partition  int
	Seq, Epoch uint64
}

// Event is a packet that is for one connection only: one that was missed, say.
type Event struct {
	Name    string
	Payload []byte // JSON
	Position
}

// Packet is one event for any number of connections. It is encoded once for each protocol, when
// the first connection of that protocol needs it. Safe for concurrent use.
type Packet struct {
	Name    string
	Payload []byte // JSON, not changed by anybody
	Position

	encoded [protocols]struct {
		once sync.Once
		m    Message
	}
}

// NewPacket makes the event name with one argument, payload, which must be valid JSON and must
// not be changed afterwards.
func NewPacket(name string, payload []byte, at Position) *Packet {
	return &Packet{Name: name, Payload: payload, Position: at}
}

// Encoded is the packet in the protocol; encode is called for the first connection only.
func (p *Packet) Encoded(by Protocol, encode func(*Packet) Message) Message {
	e := &p.encoded[by]
	e.once.Do(func() { e.m = encode(p) })
	return e.m
}
