// Package byuser follows the events of some users, who come and go, and of everybody, in order and
// without gaps, where fanout.Follower follows all there are.
//
//	proxy ══SUB _to.42, _to.*══▶ lane a user ──▶ in order
//	Redis ─ what a lane lacks ────┘
//
// Each event names the user's event before it (prev.user), so a hole shows with the next event.
// That nothing follows a lost one shows when the newest numbers of the users are read, for a whole
// partition at once, as soon as a mark says that something was stored in it: within about a second.
// What is missing is read from the users' replay sets. So a user's events are whole as long as the
// replay window holds them.
package byuser
