package replay

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
)

// set is one of the two sets an answer is made of.
type set struct {
	items          []item
	from           uint64 // the client has all up to here
	last, epoch    uint64
	complete, more bool
	unknown        bool // the number it began after is none of this journal's
}

type item struct {
	raw []byte
	seq uint64
	at  int64 // when it was processed, milliseconds
	all bool  // it is for everybody
}

// trim drops what was processed before from, but for what comes after delivered. The set is then
// complete when it is whole, or reaches back that far: inside the window, and not cut by the bound
// on its size.
func (s *set) trim(from int64, delivered uint64, floor int64, limit int, whole bool) {
	full := len(s.items) >= limit && s.items[0].at > from
	s.complete = whole || s.complete && from >= floor && !full
	n := 0
	for n < len(s.items) && s.items[n].at < from && s.items[n].seq <= delivered {
		n++
	}
	s.items = s.items[n:]
}

// merge puts the two sets into one answer, each in its own order, and stops after syncBytes. Then
// more is true, and last of each set is how far the answer goes.
func merge(own, all *set) (items []item, cut bool) {
	size, i, j := 0, 0, 0
	for i < len(own.items) || j < len(all.items) {
		if size >= syncBytes {
			own.cut(i)
			all.cut(j)
			return items, true
		}
		var next item
		if j == len(all.items) || i < len(own.items) && !before(all.items[j], own.items[i]) {
			next = own.items[i]
			i++
		} else {
			next = all.items[j]
			next.all = true
			j++
		}
		items, size = append(items, next), size+len(next.raw)
	}
	return items, false
}

// cut keeps the first n items: the next answer goes on with the one after them.
func (s *set) cut(n int) {
	if n < len(s.items) {
		s.last = s.items[n].seq - 1
	}
}

func before(x, y item) bool {
	if x.at != y.at {
		return x.at < y.at
	}
	return x.seq < y.seq
}

// stamp reads what an event is ordered by.
func stamp(raw []byte) item {
	it := item{raw: raw}
	var at, timestamp int64
	_ = event.Members(raw, func(name string, v jsontext.Value) { // what cannot be read sorts first
		switch name {
		case "seq":
			it.seq, _ = strconv.ParseUint(string(v), 10, 53)
		case "processedAt":
			at = millis(v)
		case "timestamp":
			timestamp = millis(v)
		}
	})
	if it.at = at; at == 0 {
		it.at = timestamp
	}
	return it
}

// millis reads a time: milliseconds since the epoch, or RFC 3339.
func millis(v jsontext.Value) int64 {
	if v.Kind() == '"' {
		text, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return 0
		}
		t, err := time.Parse(time.RFC3339Nano, string(text))
		if err != nil {
			return 0
		}
		return t.UnixMilli()
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		return 0
	}
	return int64(f)
}
