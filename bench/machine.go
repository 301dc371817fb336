package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// machine is what the machine itself did during a part: how late it wakes a thread that asks for
// nothing but to sleep, and how much of its processors was used, by us and by others. An event
// passes eight processes, and is at least as late as each of their wake-ups.
type machine struct {
	LateP50 float64 `json:"lateP50"` // milliseconds
	LateP99 float64 `json:"lateP99"`
	Busy    float64 `json:"busy"`   // share of all processors
	Stolen  float64 `json:"stolen"` // share that the host gave to others while something wanted to run
}

const nap = time.Millisecond

// watchMachine measures until the function it returns is called, or ctx ends.
func watchMachine(ctx context.Context) func() machine {
	ctx, stop := context.WithCancel(ctx)
	late := make(chan []int64, 1)
	before := readTicks()
	go func() {
		runtime.LockOSThread() // the kernel's delay alone, not that of our own goroutines
		defer runtime.UnlockOSThread()
		var all []int64
		for ctx.Err() == nil {
			began := time.Now()
			sleepThread(nap)
			all = append(all, int64(time.Since(began)-nap))
		}
		late <- all
	}()
	return func() machine {
		stop()
		all, after := <-late, readTicks()
		slices.Sort(all)
		m := machine{LateP50: quantile(all, 0.5), LateP99: quantile(all, 0.99)}
		if total := after.total - before.total; total > 0 {
			m.Busy = 1 - (after.idle-before.idle)/total
			m.Stolen = (after.stolen - before.stolen) / total
		}
		return m
	}
}

// ticks are the times of all processors since the machine was started, in clock ticks.
type ticks struct{ total, idle, stolen float64 }

// readTicks is zero where there is no /proc/stat.
func readTicks() (t ticks) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return ticks{}
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line) {
		n, _ := strconv.ParseFloat(field, 64) // the first one is a name
		switch i {                            // 1 user, 2 nice, 3 system, 4 idle, 5 iowait, 6 irq, 7 softirq, 8 steal; the others are in these
		case 4, 5:
			t.idle += n
		case 8:
			t.stolen += n
		}
		if i <= 8 {
			t.total += n
		}
	}
	return t
}

func (m machine) String() string {
	return fmt.Sprintf("a thread that slept 1 ms woke late by %.2f ms (p50), %.2f ms (p99); processors %.0f %% busy, %.0f %% stolen by the host",
		m.LateP50, m.LateP99, 100*m.Busy, 100*m.Stolen)
}
