//go:build !linux

package wal

import "os"

// syncData makes the file's bytes, and its length, survive a power cut.
func syncData(f *os.File) error { return f.Sync() }
