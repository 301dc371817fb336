package main

import (
	"syscall"
	"time"
)

// nap sleeps d. The runtime's own timers wait whole milliseconds when nothing else goes on.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil)
}
