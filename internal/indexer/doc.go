// Package indexer is the node that puts every event into Elasticsearch.
//
//	follower ──▶ backlog: memory ──────────────▶ collect ──▶ 2 senders ──_bulk──▶ Elasticsearch
//	 ▲  SUB + journal      └─ old or too much ─▶ spool ─┘        └─ confirmed ──▶ checkpoint
//
// Guarantees:
//   - Every event of the journal is indexed, once, or is a dead letter with the reason. The
//     checkpoint moves only over what Elasticsearch confirmed, without a gap; a start, also after a
//     kill, goes on after it and what the spool holds.
//   - While Elasticsearch is away or refuses work, it is asked again without end, with jittered
//     back-off. What has waited for INDEXER_SPOOL_AFTER goes to disk; until then the journal holds it,
//     and the live path pays for no fsync.
//   - One document an event, however often it arrives, and from however many indexers.
//   - Memory and disk are bounded. When the spool is full the node takes no more; the events stay in
//     the journal, and it goes on by itself.
//   - A batch goes off at INDEXER_BATCH_EVENTS events, or INDEXER_FLUSH_INTERVAL after its first
//     event. While Elasticsearch is slow the next batches grow by themselves.
//   - It is ready when its subscription is known to be in effect. A node that cannot keep up for
//     INDEXER_SNAIL_LIMIT ends itself (the Suicidal Snail of the ZeroMQ guide), but never because
//     of Elasticsearch or a full spool.
//   - At the end it indexes what is in hand, for at most 10 seconds; the rest goes to the spool.
package indexer
