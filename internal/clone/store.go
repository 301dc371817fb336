package clone

import (
	"cmp"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/fault"
)

// Limits of the whole map.
const (
	MaxKeys  = 10_000
	MaxBytes = 32 << 20 // of all keys and values
)

const maxHeads = 200 // subtrees whose last change is known one by one

// entry is one value of the map.
type entry struct {
	seq     uint64 // of the change that set it
	id      ID
	expires int64 // Unix milliseconds; 0: never
	value   []byte
}

// store is the server's map. It needs no socket and no clock.
type store struct {
	epoch   string
	seq     uint64 // of the last change
	entries map[string]entry
	bytes   int

	heads map[string]uint64 // subtree → its last change
	base  uint64            // stands for the subtrees that heads does not name
}

func newStore() *store {
	id := newID()
	return &store{epoch: hex.EncodeToString(id[:8]), entries: map[string]entry{}, heads: map[string]uint64{}}
}

// clone is a copy that does not change with s.
func (s *store) clone() *store {
	c := *s
	c.entries, c.heads = maps.Clone(s.entries), maps.Clone(s.heads)
	return &c
}

// apply makes one change and returns it as the clients are to be told. Errors are of kind
// Invalid (a badFrame is inside) or TooLarge; then nothing was changed.
func (s *store) apply(m message, now time.Time) (message, error) {
	const op = "change a value"
	if CheckKey(m.key) != nil {
		return message{}, fault.E(op, fault.Invalid, badKey)
	}
	ttl, err := m.ttl()
	if err != nil {
		return message{}, fault.E(op, fault.Invalid, err)
	}
	old, had := s.entries[m.key]
	if len(m.value) > 0 {
		size := s.bytes + len(m.value) - len(old.value)
		if !had {
			size += len(m.key)
		}
		if size > MaxBytes || !had && len(s.entries) >= MaxKeys {
			return message{}, fault.Errorf(op, fault.TooLarge, "the map holds %d keys and %d bytes; %d and %d are allowed",
				len(s.entries), s.bytes, MaxKeys, MaxBytes)
		}
	}
	out := s.number(m.key, m.id)
	if had {
		s.bytes -= len(m.key) + len(old.value)
		delete(s.entries, m.key)
	}
	if len(m.value) > 0 {
		e := entry{seq: s.seq, id: m.id, value: m.value}
		if ttl > 0 {
			e.expires = now.Add(ttl).UnixMilli()
			out.props[propTTL] = m.props[propTTL]
		}
		s.entries[m.key], out.value = e, m.value
		s.bytes += len(m.key) + len(m.value)
	}
	return out, nil
}

// number begins the next change: it gives it its number and notes it in the subtrees around key.
func (s *store) number(key string, id ID) message {
	around := subtrees(key)
	prev := make([]string, len(around))
	for i, t := range around {
		prev[i] = strconv.FormatUint(s.head(t), 10)
	}
	if len(s.heads)+len(around) > maxHeads {
		clear(s.heads)
		s.base = s.seq
	}
	s.seq++
	for _, t := range around {
		s.heads[t] = s.seq
	}
	return message{key: key, seq: s.seq, id: id, props: map[string]string{propPrev: strings.Join(prev, ","), propEpoch: s.epoch}}
}

// head is the number of the last change in a subtree, or of a later one.
func (s *store) head(subtree string) uint64 {
	if n, ok := s.heads[subtree]; ok {
		return n
	}
	return s.base
}

// expire deletes what is over at now, in the order of the keys.
func (s *store) expire(now time.Time) []message {
	var over []string
	for key, e := range s.entries {
		if e.expires != 0 && e.expires <= now.UnixMilli() {
			over = append(over, key)
		}
	}
	slices.Sort(over)
	out := make([]message, 0, len(over))
	for _, key := range over {
		s.bytes -= len(key) + len(s.entries[key].value)
		delete(s.entries, key)
		out = append(out, s.number(key, newID()))
	}
	return out
}

// snapshot lists the values of a subtree in the order of their changes, and the closing message.
func (s *store) snapshot(subtree string, now time.Time) []message {
	var out []message
	for key, e := range s.entries {
		if !strings.HasPrefix(key, subtree) {
			continue
		}
		m := message{key: key, seq: e.seq, id: e.id, value: e.value}
		if e.expires != 0 {
			left := max(time.UnixMilli(e.expires).Sub(now), time.Second)
			m.props = map[string]string{propTTL: strconv.FormatInt(int64(left/time.Second), 10)}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b message) int { return cmp.Compare(a.seq, b.seq) })
	return append(out, message{key: kthxbai, seq: s.seq, value: []byte(subtree),
		props: map[string]string{propEpoch: s.epoch, propCount: strconv.Itoa(len(out))}})
}

// heartbeat says where the map stands.
func (s *store) heartbeat() message {
	props := map[string]string{propEpoch: s.epoch, propBase: strconv.FormatUint(s.base, 10)}
	for t, n := range s.heads {
		if level(t) == 1 {
			props[t] = strconv.FormatUint(n, 10)
		}
	}
	return message{key: hugz, seq: s.seq, props: props}
}

// due reports whether a value is over at now.
func (s *store) due(now time.Time) bool {
	for _, e := range s.entries {
		if e.expires != 0 && e.expires <= now.UnixMilli() {
			return true
		}
	}
	return false
}
