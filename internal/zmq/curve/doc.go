// Package curve is CurveZMQ (RFC 26): the handshake by which two ends prove to each other that
// they hold the secret keys of their public ones and agree on keys for this connection only, and
// the sealing and opening of what follows.
//
// It guarantees that nothing of the application leaves before the other end has proved its key,
// that a changed, repeated or reordered message ends the connection, and that what was
// recorded stays secret when a long-term key becomes known later. The primitives are those of
// golang.org/x/crypto/nacl; there is no cryptography of our own.
//
// Handshake runs over a Wire of commands and knows no sockets. Keys are written as Z85 (RFC 32),
// in the certificate files that czmq and pyzmq read too.
package curve
