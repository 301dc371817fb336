// Package libzmq holds the tests of internal/zmq against real libzmq sockets, through pyzmq.
package libzmq
