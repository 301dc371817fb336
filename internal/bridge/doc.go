// Package bridge brings events to browsers: from the proxies to the Socket.IO connections of
// the users they are for, and from the journal to those who were away.
//
//	proxy ══SUB══▶ receive ─▶ parse, drop repeats ─▶ socketio.Hub ─▶ browsers
//	Redis ◀── journal.Replay ◀── sync(lastSeq, cb) ◀──────────────── browsers
//
// A connected browser gets each of its events as they come, and may get one twice around a
// sync, never less. After a reconnect sync closes the hole, or says that it could not. It is
// ready when its subscriptions are known to be in effect. A bridge that cannot keep up for
// BRIDGE_SNAIL_LIMIT ends itself (the Suicidal Snail of the ZeroMQ guide): its browsers come
// back to the next one, and sync.
package bridge
