package socketio

import (
	"github.com/gorilla/websocket"

	"eventspine/internal/socketio/hub"
	"eventspine/internal/socketio/wire"
)

// encode writes the packet as Engine.IO 3 does, in ASCII, and makes the websocket frame that
// all connections share.
func encode(p *hub.Packet) hub.Message {
	text := make([]byte, 0, len(p.Name)+len(p.Payload)+8)
	text = append(text, `42["`...)
	text = wire.AppendString(text, p.Name)
	text = append(text, `",`...)
	text = wire.AppendASCII(text, p.Payload)
	text = append(text, ']')
	m := hub.Message{Text: text, Event: true}
	if frame, err := websocket.NewPreparedMessage(websocket.TextMessage, text); err == nil {
		m.Frame = frame // without one the text is sent
	}
	return m
}
