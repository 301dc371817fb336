package wal

import (
	"errors"
	"os"
	"syscall"
)

// syncData makes the file's bytes, and its length, survive a power cut.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
