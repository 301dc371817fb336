//go:build !race

package socketio

// visits is how many clients come and go.
const visits = 10_000
