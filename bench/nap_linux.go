package main

import (
	"syscall"
	"time"
)

// sleepThread puts the calling thread to sleep, without Go's timers.
func sleepThread(d time.Duration) {
	left := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&left, nil) // a signal ends it early, which counts as on time
}
