// Package socketio serves Socket.IO to browsers of every age, over websocket and over polling, on
// one path: Engine.IO 3 (socket.io-client 1 and 2) by go-socket.io behind a guard, Engine.IO 4 (3
// and 4) by packages engine and v5. Both feed one hub.
//
// Every connection belongs to the user of a token. It has one queue, bounded in messages and in
// bytes. Emit never waits: a client that does not read is dropped, and nobody else notices.
//
//	request ─▶ door (origin) ─┬─ EIO=3 ─▶ token, caps ─▶ go-socket.io ─▶ session ─┐
//	                          └─ EIO=4 ─▶ caps ─▶ engine ─▶ v5 ─▶ token ─▶ peer ──┤
//	socket ◀── queue ◀── hold (what was missed first) ◀── ToUser, ToAll ◀── Hub ◀─┘
//
// Of go-socket.io the sessions, the ping, the parsing of events and the acknowledgements are used.
// What it does badly is not: its two transports (they hang, leak and crash on bad input), its rooms
// and broadcasts (one dead client stops them all), its numbered session ids, and the upgrade from
// polling to websocket (never offered: websocket stands first in the list).
package socketio
