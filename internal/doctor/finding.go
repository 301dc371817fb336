package doctor

import (
	"errors"
	"fmt"
	"io/fs"

	"eventspine/internal/fault"
)

// Level says how bad a Finding is.
type Level string

// The levels.
const (
	Fine    Level = "ok"
	Warning Level = "warn" // it works, and may not for long
	Failure Level = "FAIL"
)

// Finding is what one look at one thing told. Mend is empty for what is fine.
type Finding struct {
	Level Level  `json:"level"`
	Where string `json:"where"` // the unit, or the service
	What  string `json:"what"`
	Mend  string `json:"mend,omitempty"`
}

// Failures counts the findings that are failures.
func Failures(all []Finding) (n int) {
	for _, f := range all {
		if f.Level == Failure {
			n++
		}
	}
	return n
}

// notes collects the findings of one service.
type notes struct {
	where string
	all   []Finding
}

func (n *notes) fine(format string, args ...any) {
	n.all = append(n.all, Finding{Fine, n.where, fmt.Sprintf(format, args...), ""})
}

func (n *notes) warn(mend, format string, args ...any) {
	n.all = append(n.all, Finding{Warning, n.where, fmt.Sprintf(format, args...), mend})
}

func (n *notes) fail(mend, format string, args ...any) {
	n.all = append(n.all, Finding{Failure, n.where, fmt.Sprintf(format, args...), mend})
}

// fields notes every wrong setting of err, or err itself.
func (n *notes) fields(err error) {
	all := fault.FieldsOf(err)
	for _, f := range all {
		n.fail("set it in /etc/eventspine, where `eventspine config` says what it may be; a NAME_FILE has to be there and readable by root alone (mode 0400)", "%s %s", f.Name, f.Reason)
	}
	if len(all) == 0 {
		n.fail(readable(err), "%v", err)
	}
}

func readable(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run eventspine doctor as root"
	}
	return "the message says what is wrong"
}
