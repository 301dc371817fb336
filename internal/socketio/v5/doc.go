// Package v5 is protocol 5 of Socket.IO, which socket.io-client 3 and 4 speak, above sessions of
// package engine: namespaces, events, acknowledgements both ways and binary attachments both ways.
//
// A client connects to each namespace with a packet of its own and is accepted or refused by the
// namespace's Connect. Whatever breaks the protocol ends the session and is counted by its rule.
package v5
