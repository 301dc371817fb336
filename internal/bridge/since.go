package bridge

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
)

// since is the position a client was at: what it passes to sync.
type since struct {
	plain bool   // one number, the seq of the last event the client saw, whoever it was for
	seq   uint64 // that number
	user  uint64 // seq of the last event for the user
	all   uint64 // seq of the last event for everybody
	epoch epochs
}

// epochs are the generations those numbers are of; 0: not told. The user's events and those
// for everybody are in partitions of their own, each with its epoch.
type epochs struct{ user, all uint64 }

var errSince = errors.New("lastSeq must be a whole number below 2^53, or an object of the numbers user, all and epoch")

// parseSince reads a client's argument: absent or null (everything there is), a number as in
// sync(lastSeq, cb), or {user, all, epoch}, where epoch is that of the user's events or again
// {user, all}. Unknown members are ignored.
func parseSince(raw json.RawMessage) (since, error) {
	var s since
	switch kind(raw) {
	case 0, 'n':
		return s, nil
	case '0':
		n, err := number(raw)
		s.plain, s.seq = true, n
		return s, err
	case '{':
		err := members(raw, map[string]func(jsontext.Value) error{
			"user":  into(&s.user),
			"all":   into(&s.all),
			"epoch": s.epoch.read,
		})
		return s, err
	}
	return s, errSince
}

func (e *epochs) read(v jsontext.Value) error {
	if v.Kind() != '{' {
		return into(&e.user)(v)
	}
	return members(v, map[string]func(jsontext.Value) error{"user": into(&e.user), "all": into(&e.all)})
}

func kind(raw json.RawMessage) jsontext.Kind {
	if len(raw) == 0 {
		return 0
	}
	return jsontext.Value(raw).Kind()
}

func into(n *uint64) func(jsontext.Value) error {
	return func(v jsontext.Value) (err error) {
		if v.Kind() != 'n' {
			*n, err = number(v)
		}
		return err
	}
}

func number(v []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(v), 10, 53)
	if err != nil || len(v) > 1 && v[0] == '0' { // 007 is no JSON
		return 0, errSince
	}
	return n, nil
}

func members(raw []byte, known map[string]func(jsontext.Value) error) error {
	var wrong error
	err := event.Members(raw, func(name string, v jsontext.Value) {
		if read := known[name]; read != nil {
			wrong = errors.Join(wrong, read(v))
		}
	})
	if err != nil || wrong != nil {
		return errSince
	}
	return nil
}
