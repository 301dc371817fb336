// Package maintain keeps the archive true and small: it compares the index with the journal and
// puts back what is missing, rebuilds indices under a new mapping, and deletes those that are too
// old.
//
// Guarantees:
//   - Verify finds every event that the journal holds, the index should have and has not, and every
//     number that has two documents, without reading what agrees: it counts, block by block.
//   - An event that is on its way, was refused for good, or is there under the number of an earlier
//     epoch is not called missing.
//   - Repair only adds: what the index has stays as it is.
//   - Of all indexers, one at a time does what is done for all: a Keeper holds a lease for it.
package maintain
