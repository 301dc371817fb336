// Package fanout is the hop from worker to subscribers by way of the proxies: XPUB, XSUB,
// XPUB, SUB, with both ends in one place.
//
//	worker ── Publisher ══XPUB▶XSUB══ proxy 1 ══XPUB▶SUB══ Subscriber ── Follower ── indexer, bridge
//	                   └══XPUB▶XSUB══ proxy 2 ══XPUB▶SUB══┘    journal ───┘
//
// A message is one frame: topic, a space, JSON. Publishing never waits: a full queue drops, is
// counted, and the follower notices by the gap in seq and reads the journal. With several proxies
// every message goes through each of them, and the follower drops the repeats by seq.
//
// Late joiners: a PUB drops what nobody has asked it for yet, and a SUB is never told whether it
// was heard. So the proxy asks every publisher for everything, and the publisher, an XPUB, sees
// when that arrived (Publisher.Ready); and a subscriber asks each proxy, after all its
// subscriptions, on a topic of its own (Welcome), whether they are in effect (Subscriber.Ready).
// What is published when both ends are ready is not missed.
//
// Snails: a subscriber that cannot keep up is told so by Subscriber.Watch, and ends its process.
package fanout
