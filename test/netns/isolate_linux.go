package netns

import (
	"os/exec"
	"syscall"
)

// isolate gives the command a network namespace of its own. It ends with the thread that starts it.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
}
