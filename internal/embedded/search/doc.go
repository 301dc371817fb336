// Package search is a stand-in for Elasticsearch: the few calls that package archive makes,
// served on a loopback port from a SQLite file with full-text search.
//
// Guarantees:
//   - What a bulk request was answered for is on disk and is found by the next search.
//   - A request is answered as Elasticsearch answers it, or refused with one of its errors.
//     A query that is not one of archive's is refused, never answered with something near it.
//   - Documents that archive's mapping makes Elasticsearch refuse are refused here too.
//
// It is one node for one developer: no shards, no scores, no scripts, no aggregations.
//
//	http.go   routes, answers, errors
//	bulk.go   _bulk bodies and what a document must be
//	query.go  query bodies, turned into SQL
//	store.go  the database
package search
