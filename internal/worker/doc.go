// Package worker is the node that makes an accepted event a stored one.
//
//	producers ══PUSH▶ PULL 5557 ── intake ── process ── commit ── publish ══PUB▶ proxies
//	                  validate      │         enrich     Redis:
//	                                │         filter     dedupe, number,
//	                                │         transform  journal, replay
//	                                └ takes whatever came in while the last commit was under way,
//	                                  512 events at most; a lone event waits for nobody
//
// What holds: every valid event that was taken in is stored once within the dedupe window and
// published after it is stored, in the order of its partition. While Redis is away the batch in
// hand is tried again until it comes back; the intake fills, then the receive high-water
// mark, and producers are held back. When the answer of a commit was lost, events that turn
// out to be stored are read back and published, so that none stays unseen. At the end (SIGTERM)
// nothing more is taken in, what is in hand is committed and published, within 10 s.
//
// At the start nothing is taken in before the proxies ask for what is published, for
// WORKER_PROXY_WAIT at most, and before the live rules are known, for 3 s at most. Live rules
// (ZMQ_CLONE) take the place of WORKER_RULES between two batches, all at once, whenever they
// change (package clone); while there are none, or the proxy that keeps them was never reached,
// the worker's own are in force.
//
// One goroutine commits, because order within a partition is the order of its commits.
package worker
