//go:build race

package socketio

// visits is how many clients come and go; the race detector slows each of them down.
const visits = 2_000
