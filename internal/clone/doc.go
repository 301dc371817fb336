// Package clone keeps one small map of keys and values the same in many processes: the Clone
// pattern of the ZeroMQ guide, with the frames of RFC 12/CHP.
//
//	Client ◀──snapshot, DEALER/ROUTER── Server      ICANHAZ? subtree … KTHXBAI
//	Client ◀──updates,  SUB/PUB──────── Server      numbered changes, HUGZ
//	Client ───changes,  PUSH/PULL─────▶ Server      what a client wants to be set or deleted
//
// What holds: the server puts all changes in one order and gives each a sequence number. A
// client asks for a snapshot of its subtree, keeps the updates that come meanwhile, and then
// follows the updates, so that its copy is always a state that the server's subtree has had.
// An update that was lost is noticed (at the next one, or at the next heartbeat) and heals by
// a new snapshot. A change is confirmed to the client that made it when it comes back as an
// update. A value with a time to live is deleted by the server when it is over.
//
// With a file, the server writes the whole state to disk and syncs it before anybody hears of
// a change, and numbers go on after a restart. Without one, a restart begins an empty map of a
// new epoch, and the clients take that over.
//
// Beyond CHP, in the properties frame, which other clients ignore: epoch names the life of the
// state; prev holds, for each subtree around the key from the outermost on, the number of the
// change before; the closing KTHXBAI says how many values there were; HUGZ carries the number
// of the last change of each first-level subtree ("*" stands for the others).
package clone
