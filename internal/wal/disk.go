package wal

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

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

// lockDir keeps other processes off the directory until the file is closed.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.E("open log", fault.Invalid, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.Errorf("open log", fault.Invalid, "%s cannot be locked: %w", path, err)
		}
		b := make([]byte, 20)
		n, _ := f.Read(b) // for the message only
		return nil, fault.Errorf("open log", fault.Invalid,
			"%s is in use by another process (%s); end that one, or give each process a directory of its own", dir, strings.TrimSpace(string(b[:n])))
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(diskError("open log", err), f.Close())
	}
	if _, err := f.WriteString("pid " + strconv.Itoa(os.Getpid()) + "\n"); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return nil, errors.Join(diskError("open log", err), f.Close())
	}
	return f, nil
}
