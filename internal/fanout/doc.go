// Package fanout is the hop from worker to subscribers by way of the proxies: PUB, XSUB, XPUB,
// SUB, with both ends in one place.
//
//	worker ── Publisher ══PUB▶XSUB══ proxy 1 ══XPUB▶SUB══ Subscriber ── indexer, bridge
//	                   └══PUB▶XSUB══ proxy 2 ══XPUB▶SUB══┘
//
// A message is one frame: topic, a space, JSON. Publishing never waits: a full queue drops, is
// counted, and the subscriber notices by the gap in seq and reads the journal. With several
// proxies every message goes through each of them, and subscribers drop the repeats by seq.
package fanout
