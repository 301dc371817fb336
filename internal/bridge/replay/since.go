package replay

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
)

// since is the position a client was at.
type since struct {
	kind  kindOf
	seq   uint64 // with plain
	user  uint64 // seq of the last event for the user; 0: none
	all   uint64 // seq of the last event for everybody; 0: none
	epoch Epochs // of those; 0: not told
}

// kindOf says what is known of a position.
type kindOf int

const (
	exact  kindOf = iota // user and all
	plain                // seq, the number of the last event the client saw, whoever it was for; what it saw of each is not before user and all
	loose                // all; what the client saw of its own is not before user
	latest               // nothing was missed, as there was nothing before
)

var errSince = errors.New("lastSeq must be a whole number below 2^53, an object of the numbers user, all and epoch, or \"now\"")

// parseSince reads a client's argument: absent or null (everything there is), a number as in
// sync(lastSeq, cb), or {user, all, epoch}, where epoch is that of the user's events or again
// {user, all}, or "now". Unknown members are ignored.
func parseSince(raw json.RawMessage) (since, error) {
	var s since
	switch kind(raw) {
	case 0, 'n':
		return s, nil
	case '0':
		n, err := number(raw)
		s.kind, s.seq = plain, n
		return s, err
	case '{':
		err := members(raw, map[string]func(jsontext.Value) error{
			"user":  into(&s.user),
			"all":   into(&s.all),
			"epoch": s.epoch.read,
		})
		return s, err
	case '"':
		if string(raw) == `"now"` {
			return since{kind: latest}, nil
		}
	}
	return s, errSince
}

var errOffset = errors.New("that is no offset")

// parseOffset reads what hub.Position.AppendOffset wrote; at is where the client's session began.
func parseOffset(offset string, at Position) (since, error) {
	s := since{user: at.User, all: at.All, epoch: at.Epoch}
	if offset == "" {
		return s, nil
	}
	user, all, pair := strings.Cut(offset, ".")
	if !pair {
		n, err := decimal(user)
		s.kind, s.seq, s.epoch = plain, n, Epochs{}
		return s, err
	}
	if user == "" && all == "" {
		return s, errOffset
	}
	if user == "" {
		s.kind = loose
	}
	return s, errors.Join(s.raise(&s.user, user), s.raise(&s.all, all))
}

// raise takes a number of an offset, which does not tell its epoch.
func (s *since) raise(to *uint64, text string) error {
	if text == "" {
		return nil
	}
	n, err := decimal(text)
	if *to < n {
		*to, s.epoch = n, Epochs{}
	}
	return err
}

func decimal(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 53)
	if err != nil {
		return 0, errOffset
	}
	return n, nil
}

func (e *Epochs) read(v jsontext.Value) error {
	if v.Kind() != '{' {
		return into(&e.User)(v)
	}
	return members(v, map[string]func(jsontext.Value) error{"user": into(&e.User), "all": into(&e.All)})
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
