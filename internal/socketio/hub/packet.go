package hub

import (
	"strconv"
	"sync"
)

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
	// How far a client has come with this event: in its user's events and in those for everybody.
	// 0: not known.
	User, All uint64
}

// AppendOffset writes what a client passes back to go on after this event: "user.all", where a
// number that is not known is left out, or Seq alone. It writes nothing when there is no Seq.
func (p Position) AppendOffset(dst []byte) []byte {
	if p.Seq == 0 {
		return dst
	}
	if p.User == 0 && p.All == 0 {
		return strconv.AppendUint(dst, p.Seq, 10)
	}
	if p.User != 0 {
		dst = strconv.AppendUint(dst, p.User, 10)
	}
	dst = append(dst, '.')
	if p.All != 0 {
		dst = strconv.AppendUint(dst, p.All, 10)
	}
	return dst
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
