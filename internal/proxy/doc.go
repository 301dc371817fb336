// Package proxy is the node between publishers and subscribers.
//
//	workers, apis ═XPUB▶ XSUB 5559 ── proxy ── XPUB 5560 ▶SUB══ indexers, bridges, workers
//
// What holds: a subscriber gets the messages of its topics in the order of each publisher; a
// subscriber that cannot keep up loses messages of its own queue only, counted, and delays
// nobody. The proxy asks every publisher for everything, so that a subscription is in effect
// as soon as it is here, whoever publishes; a subscriber can ask whether it is (fanout.Welcome).
// First subscriptions and last unsubscriptions travel up to the publishers as well, also to one
// that comes later, for those that want to know. A message that is not one frame of topic,
// space and body is counted, logged at a bounded rate, and goes no further. The proxy keeps no
// message: what is lost here is noticed by its sequence number and read from the journal.
//
// Beside them it runs the control plane (5562), a Majordomo broker where services register, and
// the live rules (5563 to 5565), a Clone server that keeps them on disk where PROXY_DATA_DIR
// names a directory.
package proxy
