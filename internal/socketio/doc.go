// Package socketio serves Socket.IO to browsers that speak Engine.IO 3 (socket.io-client 1 and
// 2), over websocket and over polling, on one path.
//
// Every request carries a token; a session belongs to the user who opened it. A connection has
// one queue, bounded in messages and in bytes. Emit never waits: a client that does not read is
// dropped, and nobody else notices.
//
//	request ─▶ door (origin, token, caps) ─▶ go-socket.io engine ─▶ OnConnect ─▶ Hub
//	                                          │ transport.Conn             │ ToUser, ToAll
//	socket ◀──── writer ◀── queue ◀───────────┴── session ◀────────────────┘
//	socket ────▶ guard (whole small valid packets only) ─▶ session ─▶ engine ─▶ "sync" ─▶ ack
//
// go-socket.io does the sessions, the ping, the parsing of events and the acknowledgements. What
// it does badly is not used: its two transports (they hang, leak and crash on bad input), its
// rooms and broadcasts (one dead client stops them all), its numbered session ids, and the
// upgrade from polling to websocket (never offered: websocket stands first in the list).
//
// An Engine.IO 4 server can stand beside it: it implements Conn and feeds the same Hub.
package socketio
