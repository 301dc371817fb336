// Package zmtp is the ZeroMQ wire protocol on one connection: the handshake, frames and
// commands of ZMTP 3.0 (RFC 23), and the commands of ZMTP 3.1 (RFC 37) that a peer may send.
//
// It guarantees that no byte a peer sends can panic the process, hold more memory than was
// received (twice that while a long frame grows, and 64 KiB), or keep a handshake open past
// its deadline. The greeting and the handshake's commands are those of go-zeromq/zmq4, driven
// over a guarded connection; metadata and the frames after it are read and written here.
//
// With Config.Curve the handshake is that of package curve, in the place where zmq4 has its
// mechanisms, and every frame after it is sealed. There is no way back to plain frames.
package zmtp
