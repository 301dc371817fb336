//go:build !linux

package wal

import "os"

// syncData makes the file's bytes, and its length, survive a power cut.
func syncData(f *os.File) error { return f.Sync() }

// flusher syncs files for one goroutine.
type flusher struct{}

func newFlusher() *flusher { return &flusher{} }

func (*flusher) sync(f *os.File) error { return syncData(f) }

func (*flusher) close() error { return nil }
