// Package wire is what goes over the wire between an Engine.IO 3 client and the server: the
// guard that lets only harmless packets in, the payloads of polling, and JSON in ASCII.
package wire
