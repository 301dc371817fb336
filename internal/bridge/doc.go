// Package bridge brings events to browsers: from the proxies to the Socket.IO connections of
// the users they are for, and from the journal to those who were away.
//
//	proxy ══SUB══▶ fanout.Follower ─▶ receive ─▶ socketio.Hub ─▶ browsers
//	Redis ─ what was lost ─┘
//	      ◀── journal.Replay ◀── sync(lastSeq, cb) ◀──────────────── browsers
//
// A connected browser gets each of its events, in order, and may get one twice around a sync,
// never less: what a proxy loses is read from the journal. After a reconnect sync closes the
// hole, or says that it could not. It is ready when its subscriptions are known to be in effect,
// and where the journal ended. A bridge that cannot keep up for
// BRIDGE_SNAIL_LIMIT ends itself (the Suicidal Snail of the ZeroMQ guide): its browsers come
// back to the next one, and sync.
package bridge
