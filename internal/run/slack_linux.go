package run

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kernelSlack = 50 * time.Microsecond // what Linux gives a process that was told nothing
	timerSlack  = time.Millisecond
)

// Relax lets the timers of this process be late by up to 1 ms (prctl(2), PR_SET_TIMERSLACK), unless
// somebody has set another slack than the kernel's 50 µs, as TimerSlackNSec= of systemd does. Go's
// own monitor thread asks to be woken every 20 µs while there is anything to do: with eight processes
// on two processors a tenth of all their time went there (decision 31).
//
// A thread inherits its slack, and the monitor runs before main does, so the program is started once
// more in its place: same process, arguments, and environment. Call it first in main. It returns when
// nothing is to be done, or it cannot be done.
func Relax() {
	runtime.LockOSThread() // the slack is the thread's, and exec keeps that of the thread that calls it
	defer runtime.UnlockOSThread()
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(now) != kernelSlack {
		return
	}
	program, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, os.Environ()) // it returns when that failed: then all is as it was
}
