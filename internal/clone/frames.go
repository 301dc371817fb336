package clone

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/zmq"
)

// Limits of what a key may hold.
const (
	MaxKey   = 255       // bytes of a key
	MaxValue = 128 << 10 // bytes of a value
	MaxTTL   = 366 * 24 * time.Hour
)

const (
	maxProps = 128 << 10 // bytes of the properties frame
	maxNames = 256       // properties in it; a heartbeat has maxHeads of them and a few more
	maxDepth = 16        // slashes in a key
)

// The words of the protocol.
const (
	icanhaz = "ICANHAZ?"
	kthxbai = "KTHXBAI"
	hugz    = "HUGZ"
)

// The properties. ttl is in seconds, as CHP has it.
const (
	propTTL   = "ttl"
	propPrev  = "prev"
	propEpoch = "epoch"
	propCount = "count"
	propBase  = "*"
)

// ID tells one change from all others. Sixteen random bytes; all zero: none.
type ID [16]byte

func newID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// message is what goes over all three wires but the request for a snapshot: five frames.
type message struct {
	key   string
	seq   uint64
	id    ID
	props map[string]string
	value []byte // empty: the key is deleted
}

// encode gives the five frames.
func (m *message) encode() zmq.Msg {
	var id []byte
	if m.id != (ID{}) {
		id = slices.Clone(m.id[:])
	}
	return zmq.Msg{[]byte(m.key), binary.BigEndian.AppendUint64(nil, m.seq), id, encodeProps(m.props), m.value}
}

func encodeProps(props map[string]string) []byte {
	names := make([]string, 0, len(props))
	for name := range props {
		names = append(names, name)
	}
	slices.Sort(names)
	var b []byte
	for _, name := range names {
		b = append(append(append(append(b, name...), '='), props[name]...), '\n')
	}
	return b
}

// decode reads five frames. The value is not copied. The error is a badFrame.
func decode(frames zmq.Msg) (m message, err error) {
	switch {
	case len(frames) != 5:
		return m, badFrames
	case len(frames[0]) == 0 || len(frames[0]) > MaxKey:
		return m, badKey
	case len(frames[1]) != 8:
		return m, badSequence
	case len(frames[2]) != 0 && len(frames[2]) != len(m.id):
		return m, badID
	case len(frames[4]) > MaxValue:
		return m, badValue
	}
	m.key, m.seq, m.value = string(frames[0]), binary.BigEndian.Uint64(frames[1]), frames[4]
	copy(m.id[:], frames[2])
	m.props, err = decodeProps(frames[3])
	return m, err
}

func decodeProps(b []byte) (map[string]string, error) {
	if len(b) > maxProps {
		return nil, badProperties
	}
	var props map[string]string
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		name, value, ok := bytes.Cut(line, []byte{'='})
		if !ok || len(name) == 0 || len(props) == maxNames {
			return nil, badProperties
		}
		if props == nil {
			props = map[string]string{}
		}
		props[string(name)] = string(value)
		b = rest
	}
	return props, nil
}

// badFrame is what is wrong with a message, and the label under which it is counted.
type badFrame string

const (
	badFrames     badFrame = "frames"
	badKey        badFrame = "key"
	badSequence   badFrame = "sequence"
	badID         badFrame = "uuid"
	badProperties badFrame = "properties"
	badValue      badFrame = "value"
	badTTL        badFrame = "ttl"
	badSubtree    badFrame = "subtree"
)

// Error says which part is wrong.
func (b badFrame) Error() string { return "clone: bad " + string(b) }

// reason is the label under which an error is counted.
func reason(err error) string {
	if bad := badFrame(""); errors.As(err, &bad) {
		return string(bad)
	}
	return "limit"
}

// number reads a decimal property; ok is false when it is absent or no number.
func (m *message) number(name string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(m.props[name], 10, 64)
	return n, err == nil
}

// ttl reads the time to live; 0: for ever.
func (m *message) ttl() (time.Duration, error) {
	text, given := m.props[propTTL]
	if !given {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if d := time.Duration(n) * time.Second; err == nil && d <= MaxTTL {
		return d, nil
	}
	return 0, badTTL
}

// prev is the number of the change before this one in a subtree of that many levels; ok is
// false when the server does not say.
func (m *message) prev(level int) (n uint64, ok bool) {
	for i, text := range slices.Collect(strings.SplitSeq(m.props[propPrev], ",")) {
		if i == level {
			n, err := strconv.ParseUint(text, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// request is the question for a snapshot of a subtree.
func request(subtree string) zmq.Msg { return zmq.Msg{[]byte(icanhaz), []byte(subtree)} }

// decodeRequest reads the subtree that is asked for.
func decodeRequest(frames zmq.Msg) (string, error) {
	if len(frames) != 2 || string(frames[0]) != icanhaz {
		return "", badFrames
	}
	subtree := string(frames[1])
	if CheckSubtree(subtree) != nil {
		return "", badSubtree
	}
	return subtree, nil
}

// CheckKey refuses, with kind Invalid, what is no key: a path such as /rules/name of at most
// MaxKey bytes, of printable ASCII without space and '='.
func CheckKey(key string) error {
	if strings.HasPrefix(key, "/") && !strings.HasSuffix(key, "/") && isPath(key) {
		return nil
	}
	return fault.Errorf("clone", fault.Invalid, "%.300q is not a key such as /rules/name", key)
}

// CheckSubtree refuses, with kind Invalid, what is neither a path such as /rules/ nor empty,
// which means everything.
func CheckSubtree(subtree string) error {
	if subtree == "" || strings.HasPrefix(subtree, "/") && strings.HasSuffix(subtree, "/") && isPath(subtree) {
		return nil
	}
	return fault.Errorf("clone", fault.Invalid, "%.300q is not a subtree such as /rules/", subtree)
}

func isPath(s string) bool {
	return len(s) <= MaxKey && strings.Count(s, "/") <= maxDepth && !strings.Contains(s, "//") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '=' })
}

// subtrees lists the subtrees around a key, the outermost first: / and /a/ for /a/b.
func subtrees(key string) []string {
	var all []string
	for i, c := range []byte(key) {
		if c == '/' {
			all = append(all, key[:i+1])
		}
	}
	return all
}

// level is the place of a subtree in what subtrees gives for the keys in it.
func level(subtree string) int { return max(strings.Count(subtree, "/")-1, 0) }
