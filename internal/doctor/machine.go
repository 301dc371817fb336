package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"eventspine/internal/config"
)

// clock asks the kernel whether the clock is kept by somebody.
func clock() []Finding {
	n := &notes{where: "machine"}
	var t syscall.Timex
	const unsynchronised = 5 // TIME_ERROR
	state, err := syscall.Adjtimex(&t)
	switch {
	case err != nil:
		n.warn("", "the kernel does not tell how good its clock is: %v", err)
	case state == unsynchronised:
		n.warn("let systemd-timesyncd or chrony keep it; tokens and dates of events come from it", "nobody keeps the clock of this machine")
	default:
		n.fine("the clock is kept")
	}
	return n.all
}

// disks looks at every directory of the settings: whether it is there where it has to be, and how much is free.
func (n *notes) disks(settings []config.Setting) {
	const tight = 10 // percent
	for _, s := range settings {
		stem, isDir := strings.CutSuffix(s.Name, "_DIR")
		if !isDir || s.Value == "" {
			continue
		}
		there, missing := existing(s.Value)
		if missing && s.Name == "PROXY_DATA_DIR" {
			n.fail("mkdir "+s.Value+", and give it to the user of the service", "%s is %s, which does not exist", s.Name, s.Value)
			continue
		}
		var fs syscall.Statfs_t
		if err := syscall.Statfs(there, &fs); err != nil {
			n.fail("the message says what is wrong", "%s is %s: %v", s.Name, s.Value, err)
			continue
		}
		free, all := config.Bytes(fs.Bavail*uint64(fs.Bsize)), config.Bytes(fs.Blocks*uint64(fs.Bsize))
		var least config.Bytes
		if text := value(settings, stem+"_MIN_FREE"); text != "" {
			_ = least.UnmarshalText([]byte(text)) // it was printed by the same type
		}
		const mend = "make room, or give it a larger disk; docs/operations.md says how"
		switch {
		case free < least:
			n.fail(mend, "%s is %s, where %d MiB are free, less than %s asks for (%s)", s.Name, s.Value, free>>20, stem+"_MIN_FREE", least)
		case all > 0 && free*100/all < tight:
			n.warn(mend, "%s is %s, where only %d MiB of %d are free", s.Name, s.Value, free>>20, all>>20)
		default:
			n.fine("%s: %d MiB free", s.Name, free>>20)
		}
	}
}

// existing is the nearest directory above path that is there, and whether path itself is missing.
func existing(path string) (at string, missing bool) {
	for at = filepath.Clean(path); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			return at, at != filepath.Clean(path)
		}
	}
}
