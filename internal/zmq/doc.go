// Package zmq gives ZeroMQ sockets with ZeroMQ's semantics: PUSH, PULL, PUB, SUB, XPUB, XSUB,
// REQ, REP, DEALER, ROUTER and PAIR over tcp://, ipc:// and inproc://, which talk to libzmq peers in both
// directions.
//
// What holds for every socket:
//
//   - Each peer has its own send queue and its own receive queue, both bounded by messages and
//     by bytes (the high-water marks). A full receive queue stops reading that connection, so
//     TCP holds the peer back; a full send queue waits (PUSH, DEALER, PAIR, REQ, ROUTER), is
//     skipped (PUSH and DEALER with other peers), or drops and counts (PUB, XPUB). No peer costs another one anything.
//   - A message is sent whole or not at all, and a message the kernel has not taken when its
//     connection ends goes to another PUSH or DEALER peer. What the kernel has taken may be lost: the
//     layers above number their messages and ask again.
//   - Whatever bytes a peer sends, only its own connection ends, and the cause is reported to
//     Options.Monitor and counted in Stats.
//
// With Options.Curve every connection is encrypted and both its ends are proved.
//
// The layers: a transport gives net.Conns; zmtp speaks the wire protocol on one;
// a peer (peer.go) is a connection with its queues and its two goroutines; a pattern
// (push.go, pub.go, sub.go, reqrep.go, router.go) decides which peer a message goes to and which
// messages the application sees; Socket holds them together.
package zmq
