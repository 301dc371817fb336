// Package indexer is the node that puts every event into Elasticsearch.
//
//	proxies ══SUB, all topics══▶ receive ──▶ queue ──▶ collect ──▶ 2 senders ──_bulk──▶ Elasticsearch
//
// Guarantees, for events that reached the node:
//   - Each is indexed, or refused by Elasticsearch for good, which is logged with its id and the
//     reason and counted. While Elasticsearch is away it is asked again without end.
//   - One document an event, however often it arrives.
//   - A batch goes off at INDEXER_BATCH_EVENTS events, or INDEXER_FLUSH_INTERVAL after its first
//     event. While Elasticsearch is slow the next batches grow by themselves.
//   - The queue is bounded by events and by bytes. When it is full the node stops reading; then
//     the proxy's queue for this node fills, and what it drops is counted there.
//   - It is ready when its subscription is known to be in effect. A node that cannot keep up for
//     INDEXER_SNAIL_LIMIT ends itself (the Suicidal Snail of the ZeroMQ guide), but never because
//     of Elasticsearch: while that is slow or away, starting again would only lose the queue.
//   - At the end it indexes what is in hand, for at most 10 seconds; events that are left over
//     then are counted, and Run says how many.
package indexer
