package socketio

import (
	"encoding/json"
	"time"

	"eventspine/internal/socketio/hub"
)

// User is whom a token belongs to.
type User struct {
	ID      string
	Expires time.Time // the connection is closed then; zero: never
	TokenID string    // the token's own name (jti); may be empty
	Issued  time.Time // when the token was made (iat); may be zero
}

// Synced is the answer to a client's sync: its callback is called with the events and the info.
type Synced struct {
	Events [][]byte // JSON, oldest first
	Info   []byte   // a JSON object: complete, last, …
}

// Recovery is what a connecting client says about an earlier connection of its own.
type Recovery struct {
	PID, Offset string          // connection state recovery of socket.io-client 4; empty: a new session
	Cursor      json.RawMessage // the position it was at, in the form sync takes, valid JSON; nil: not told
}

// Recovered is what a connecting client gets before anything live.
type Recovered struct {
	PID    string                   // of the CONNECT packet (Engine.IO 4); the same as asked for: the client takes itself for recovered
	Ok     bool                     // recovery was asked for, and nothing is missing
	Events []hub.Event              // oldest first, sent as ordinary events
	Skip   func(p *hub.Packet) bool // live packets that came meanwhile and that the client has by Events already; nil: none
	Info   []byte                   // a JSON object, sent as the event "synced" after Events; nil: no such event
	At     hub.Position             // of "synced": its offset, as with every event
}
