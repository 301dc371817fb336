// Package engine is an Engine.IO 4 server: sessions over websocket and over HTTP long-polling, the
// upgrade from one to the other, and the heartbeat.
//
// A session has one queue, bounded in messages and in bytes, and one goroutine, which reads. Send
// never waits: it writes to an idle socket at once, without blocking, and leaves what the socket
// does not take to a goroutine that lives as long as there is something to write. Whatever a
// client sends wrong ends its session with the protocol's own error and is told to the Observer;
// nobody else notices.
//
//	GET, POST ─▶ poll ──┐                      ┌─▶ Handler.Text, Handler.Binary
//	                    ├─▶ Session ─▶ receive ┤
//	websocket ─▶ read ──┘        │             └─▶ pong, close
//	     ▲                       │
//	     └── try, write ◀── queue ◀── Send, beat
//
// It knows nothing of Socket.IO, of users or of tokens: whoever embeds it says by Options.Begin who
// may open a session and by Options.Owns whose it is.
package engine
