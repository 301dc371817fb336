// Package replay gives browsers what they missed: to a sync, and by itself when a client that
// connects says where it was.
//
//	sync(position, cb) ──┐                 ┌─▶ journal.Replay, page by page
//	connect with a cursor ├─▶ line ─▶ budget ┤
//	connect with pid, offset ┘               └─▶ events, oldest first, and the position they go up to
//
// What a client says is never trusted further than that it gets its own events: a position that
// nobody knows, or that belongs to somebody else, is answered with complete false and the position
// to go on from. Replays wait in a bounded line for the budget, so that a thousand clients that come
// back at once take no more of Redis and of this process than it allows.
package replay
