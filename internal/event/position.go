package event

import "bytes"

// TailPosition reads the position of a stored event from the end of its JSON, where the journal
// has put it (AppendPosition), without looking at the rest. It reports false for an object that
// ends with something else; then ParseStored may know more.
func TailPosition(raw []byte) (p Position, ok bool) {
	t := tail{rest: raw, ok: true}
	t.cut("}")
	p.Epoch = t.number(`},"epoch":`)
	p.Prev.Feed = t.number(`,"feed":`)
	p.Prev.User = t.number(`,"prev":{"user":`)
	p.Seq = t.number(`,"seq":`)
	p.Partition = int(t.number(`,"partition":`))
	return p, t.ok && p.Seq != 0 && len(t.rest) > 1 && t.rest[0] == '{'
}

// tail is read from its end.
type tail struct {
	rest []byte
	ok   bool
}

func (t *tail) cut(suffix string) {
	rest, found := bytes.CutSuffix(t.rest, []byte(suffix))
	t.rest, t.ok = rest, t.ok && found
}

// number reads the digits at the end and what goes before them.
func (t *tail) number(before string) (n uint64) {
	i, unit := len(t.rest), uint64(1)
	for ; i > 0 && len(t.rest)-i < 17 && '0' <= t.rest[i-1] && t.rest[i-1] <= '9'; i-- {
		n += uint64(t.rest[i-1]-'0') * unit
		unit *= 10
	}
	digits := len(t.rest) - i
	t.ok = t.ok && digits > 0 && n < 1<<53 && (digits == 1 || t.rest[i] != '0')
	t.rest = t.rest[:i]
	t.cut(before)
	return n
}
