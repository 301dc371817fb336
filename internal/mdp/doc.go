// Package mdp is the Majordomo protocol (RFC 7/MDP 0.1, RFC 8/MMI): clients ask a service by
// its name, a broker hands each request to one of the workers that registered for it.
//
//	Client ──REQ──▶ Broker (ROUTER) ◀──DEALER── Worker
//
// What holds: a request waits in its service's queue, which is bounded in number and time, and
// goes to the worker that has been idle longest. A request whose worker ends or falls silent
// goes to another worker, so that a handler must bear to be asked twice. Broker and worker
// send each other heartbeats (the Paranoid Pirate pattern) and each notices within Liveness
// intervals that the other one is gone; a worker then registers anew by itself. A peer that
// breaks the protocol is told DISCONNECT once and counted, and costs the others nothing. The
// broker keeps nothing: after its restart the workers come back within a heartbeat.
//
// MDP 0.1 has no refusals: a request that is dropped gets no answer, and its client asks again
// (the Lazy Pirate pattern, package pirate).
package mdp
