//go:build race

package zmq

const raceOn = true // the race detector makes everything slow
