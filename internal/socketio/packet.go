package socketio

import (
	"eventspine/internal/socketio/engine"
	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// tokenExpiring is the event that warns a client before its token ends.
const tokenExpiring = "token_expiring"

// missed is what a connecting client gets at once: what it missed, the answer about that, and what
// was held meanwhile.
func missed(got Recovered, by hub.Protocol, encode func(*hub.Packet) hub.Message, held []*hub.Packet) []hub.Message {
	all := make([]hub.Message, 0, len(got.Events)+len(held)+1)
	for _, e := range got.Events {
		all = append(all, encode(hub.NewPacket(e.Name, e.Payload, e.Position)))
	}
	if got.Info != nil {
		all = append(all, encode(hub.NewPacket("synced", got.Info, got.At)))
	}
	for _, p := range held {
		all = append(all, p.Encoded(by, encode))
	}
	return all
}

// encode writes the packet as Engine.IO 3 does, in ASCII, and makes the websocket frame that
// all connections share.
func encode(p *hub.Packet) hub.Message {
	text := make([]byte, 0, len(p.Name)+len(p.Payload)+8)
	text = append(text, `42["`...)
	text = wire.AppendString(text, p.Name)
	text = append(text, `",`...)
	text = wire.AppendASCII(text, p.Payload)
	text = append(text, ']')
	frame := engine.AppendFrame(make([]byte, 0, len(text)+10), text, false)
	return hub.Message{Text: frame[len(frame)-len(text):], Wire: frame, Event: true}
}
