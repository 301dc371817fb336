// Package archive keeps every event in Elasticsearch, one document an event, and finds them
// again.
//
// Guarantees:
//   - The document's _id is the event's id and its index is named for the event's own day, so
//     indexing an event again changes nothing and makes no second document.
//   - No payload changes the mapping, and none is refused that can be stored at all.
//   - Search gives back the bytes that were indexed.
//   - Index accounts for every event it was given: indexed, already there, refused for good
//     with the reason, or to be tried again.
//
// The document is the event itself with one member added, spine, that holds what eventspine
// needs beside it (see document.go).
package archive
