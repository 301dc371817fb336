// Package proxy is the node between publishers and subscribers.
//
//	workers, apis ══PUB▶ XSUB 5559 ── proxy ── XPUB 5560 ▶SUB══ indexers, bridges, workers
//
// What holds: a subscriber gets the messages of its topics in the order of each publisher; a
// subscriber that cannot keep up loses messages of its own queue only, counted, and delays
// nobody; subscriptions travel up to every publisher, also to one that comes later, so that
// nobody sends what no one wants. A message that is not one frame of topic, space and body is
// counted, logged at a bounded rate, and goes no further. Beside them it runs the control
// plane (5562), a Majordomo broker where services register. The proxy keeps nothing: what is
// lost here is noticed by its sequence number and read from the journal.
package proxy
