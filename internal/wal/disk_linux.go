package wal

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"unsafe"
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

// flusher is fdatasync that blocks no thread: the kernel does it beside us (io_submit) and says
// by an eventfd that it is done. In a thread of ours, each sync would hold a processor of the
// scheduler until the runtime notices, up to 10 ms later, and with one processor the whole process
// waits. For one goroutine.
type flusher struct {
	ring uintptr  // the kernel's handle; 0: it has none for us
	done *os.File // readable when a sync is done
}

const (
	opFdatasync = 3 // IOCB_CMD_FDSYNC
	byEventfd   = 1 // IOCB_FLAG_RESFD
	eventfdMode = syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// request is struct iocb of linux/aio_abi.h, for little-endian machines.
type request struct {
	_        uint64
	_, _     uint32
	opcode   uint16
	_        int16
	fd       uint32
	_, _     uint64
	_        int64
	_        uint64
	flags    uint32
	resultFD uint32
}

// outcome is struct io_event.
type outcome struct {
	_, _   uint64
	result int64
	_      int64
}

// newFlusher never fails: where the kernel has none of it, sync is fdatasync.
func newFlusher() *flusher {
	s := &flusher{}
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) != 1 { // big-endian
		return s
	}
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, eventfdMode, 0)
	if errno != 0 {
		return s
	}
	s.done = os.NewFile(fd, "eventfd")
	if _, _, errno := syscall.Syscall(syscall.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&s.ring)), 0); errno != 0 {
		s.ring = 0
	}
	return s
}

// sync is syncData.
func (s *flusher) sync(f *os.File) error {
	if s.ring == 0 {
		return syncData(f)
	}
	r := &request{opcode: opFdatasync, fd: uint32(f.Fd()), flags: byEventfd, resultFD: uint32(s.done.Fd())}
	if n, _, errno := syscall.Syscall(syscall.SYS_IO_SUBMIT, s.ring, 1, uintptr(unsafe.Pointer(&r))); errno != 0 || n != 1 {
		return syncData(f)
	}
	var count [8]byte
	if _, err := s.done.Read(count[:]); err != nil || binary.NativeEndian.Uint64(count[:]) != 1 {
		return errors.Join(errors.New("the end of an fdatasync was not told"), err)
	}
	var done outcome
	if n, _, errno := syscall.Syscall6(syscall.SYS_IO_GETEVENTS, s.ring, 1, 1, uintptr(unsafe.Pointer(&done)), 0, 0); n != 1 {
		return os.NewSyscallError("io_getevents", errno)
	}
	if done.result < 0 {
		return os.NewSyscallError("fdatasync", syscall.Errno(-done.result))
	}
	return nil
}

func (s *flusher) close() error {
	if s.ring != 0 {
		_, _, _ = syscall.Syscall(syscall.SYS_IO_DESTROY, s.ring, 0, 0)
	}
	if s.done == nil {
		return nil
	}
	return s.done.Close()
}
