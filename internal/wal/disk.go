package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"eventspine/internal/fault"
)

// diskError gives an error of the file system its kind: a full disk passes by itself.
func diskError(op string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.E(op, fault.Overloaded, err)
	}
	return fault.E(op, fault.Unavailable, err)
}

// freeBytes is what the file system of dir has left for this process.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // its type differs between systems
}

// syncDir makes the names in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const (
	// Not synced: after a power cut the clock alone has to be ahead of what it was before.
	lockText = "pid %010d opened %016d\n" // of one length, so that it is written in place
	counted  = 1735689600                 // 2025-01-01: seconds since then, so that a lost file does no harm
)

// lockDir keeps other processes off the directory until the file is closed. opened is what
// Log.Opened gives.
func lockDir(dir string) (f *os.File, opened uint64, err error) {
	path := filepath.Join(dir, lockFile)
	f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fault.E("open log", fault.Invalid, err)
	}
	b := make([]byte, 64)
	n, _ := f.ReadAt(b, 0) // what cannot be read counts as nothing
	var pid int
	_, _ = fmt.Sscanf(string(b[:n]), lockText, &pid, &opened)
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, 0, fault.Errorf("open log", fault.Invalid, "%s cannot be locked: %w", path, err)
		}
		return nil, 0, fault.Errorf("open log", fault.Invalid,
			"%s is in use by another process (pid %d); end that one, or give each process a directory of its own", dir, pid)
	}
	opened = max(opened+1, uint64(time.Since(time.Unix(counted, 0))/time.Second))
	_, err = f.WriteAt(fmt.Appendf(nil, lockText, os.Getpid(), opened), 0)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		return nil, 0, errors.Join(diskError("open log", err), f.Close())
	}
	return f, opened, nil
}
