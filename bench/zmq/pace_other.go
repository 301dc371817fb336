//go:build !linux

package main

import "time"

// nap sleeps d.
func nap(d time.Duration) { time.Sleep(d) }
