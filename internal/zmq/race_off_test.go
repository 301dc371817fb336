//go:build !race

package zmq

const raceOn = false
