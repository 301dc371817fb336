// Package ingest is the hop from api to worker: PUSH to PULL, with both ends in one place.
//
//	api ── Sender ══PUSH══▶ PULL ── Receiver ── worker
//
// A message is either one frame with one JSON event, which any ZeroMQ client can push, or a
// batch: a first frame
//
//	B1 <source> <write-ahead log generation> <first index>
//
// and then one frame per event, or a batch out of a write-ahead log that wants to be answered:
//
//	B2 <source> <generation> <partition> <round> <number of the first event> <flags> [<numbers before it that were never used>]
//
// and then the events of one partition, 512 at most; without events it is a question. The answers (Ack)
// are published on topic _ack.<source>. Everything else is bad: counted, logged at a bounded rate,
// and skipped, without harm to the connection or to what follows.
//
// All events of a partition go to one worker, chosen by a rendezvous hash of the partition
// over the endpoints, so that a user's events stay in order. A Sender never waits: what does
// not fit a worker's queue is refused, and the caller is told for each event.
package ingest
