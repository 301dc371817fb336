// Package wal keeps records on disk, in order, until they are no longer needed: the api's
// write-ahead log and the indexer's spool.
//
//	Append ─┐                      ┌─▶ 00000000000000000001.wal
//	Append ─┼─▶ one group ─▶ write ┼─▶ 00000000000000183220.wal ─▶ Reader
//	Append ─┘                  │   └─▶ …
//	   ▲                       ▼
//	   └──────────────────── fsync
//
// What it guarantees:
//
//   - A record that Append answered for is on the disk. All that was written while one fsync ran
//     share the next (group commit); nobody waits for a timer.
//   - Indexes are consecutive from 1. A Reader gives records in order, each as it was written or not
//     at all: a CRC32C covers every record, its index and its place. It gives them before they are
//     on the disk: after a power cut, indexes that were read may be given to other records.
//   - A tail that a crash tore off is cut at Open. Damage before it is reported with file and
//     offset, and the whole records after it are still given.
//   - A full log, or a disk with too little room, refuses records and takes them again when there
//     is room. What was refused leaves no trace.
//   - One process at a time uses a directory, and nothing in it that is not this log's is touched.
//
// A log lives in a directory of its own, in segments named for the first index they hold. A
// segment begins with a header (version, generation, first index, time, and a note of the
// owner's), written twice; records follow on 8-byte boundaries:
//
//	CRC32C (4) | length (4) | index (8) | body | zeroes up to the boundary      (little endian)
package wal
