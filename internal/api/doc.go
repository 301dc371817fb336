// Package api is the node that takes events in over HTTP and hands them to the workers.
//
// It guarantees that an answer never waits for a worker: an event is either on this machine's
// disk (202), from where it is sent until the workers have stored it, or refused with a reason (an
// application/problem+json answer), and nothing is done by halves: a body that is too large or not
// JSON leaves no trace. Who asks for it (?ack=stored) is answered when the event is stored (201).
//
//	application ──POST /api/events──▶ check token ▶ check event ▶ complete ──fsync──▶ log ══▶ worker
//	            ──PUT /api/users────▶ Redis ▶ tell every worker's cache (through the proxy)
//	            ──GET /api/search───▶ Elasticsearch
//
// Events are checked once and never re-encoded: what the API adds (id, timestamp, source, and
// the userId of an ordinary caller) is spliced into the bytes that came.
package api
