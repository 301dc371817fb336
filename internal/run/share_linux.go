package run

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kernelSlack = 50 * time.Microsecond // what Linux gives a process that was told nothing
	timerSlack  = time.Millisecond

	kernelNice     = 0
	backgroundNice = 10
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

// giveWay gives this process a niceness of 10 (setpriority(2)), so that others of the machine go first,
// unless somebody has chosen a niceness for it. It changes nothing where that is not allowed. Call it
// before Relax; only what is started by the same login session, or within the same container, knows a
// difference: between units of systemd CPUWeight= counts, between containers their shares.
func giveWay() {
	if now, err := niceness(0); err != nil || now != kernelNice {
		return
	}
	for changed := true; changed; { // a thread inherits it, and one may be made meanwhile by another that has it not yet
		changed = false
		threads, _ := filepath.Glob("/proc/self/task/*") // only a bad pattern is an error
		for _, path := range threads {
			id, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				continue
			}
			if now, err := niceness(id); err == nil && now == kernelNice {
				changed = unix.Setpriority(unix.PRIO_PROCESS, id, backgroundNice) == nil || changed
			}
		}
	}
}

// niceness is that of a thread; 0: of the calling one.
func niceness(thread int) (int, error) {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, thread)
	return 20 - raw, err // as the kernel gives it, so that no answer is negative
}
