package netns

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolate gives the command a network namespace of its own. It ends with the thread that starts it.
// Who is not root stays who he is, and may do in the namespace what root may.
func isolate(cmd *exec.Cmd) {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	}
	cmd.SysProcAttr = attr
}

const thread = "/proc/thread-self/ns/net"

// newNamespace is a network namespace that lasts as long as the file is open or a process is in it.
func newNamespace() (ns *os.File, err error) {
	err = aside(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			ns, err = os.Open(thread)
		}
		return err
	})
	return ns, err
}

// within calls fn in the namespace; nil is the one this process has. Processes that fn starts stay there.
func within(ns *os.File, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return aside(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

// aside calls fn on a thread that may change its namespace: it has its own back afterwards, or ends.
func aside(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open(thread)
		if err != nil {
			done <- err
			return
		}
		err = fn()
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} else {
			err = errors.Join(err, back)
		}
		done <- errors.Join(err, own.Close())
	}()
	return <-done
}

// newWire is the end, in this process, of a network device of the thread's namespace: each read and
// each write is an IP packet.
func newWire(name string) (io.ReadWriteCloser, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
