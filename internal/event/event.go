// Package event is the vocabulary of the data path: one event, the rules it obeys
// (DESIGN §3), its JSON, its topic and its partition.
//
// An event is validated once at the door and never re-encoded after that: fields are
// spliced into the bytes the caller sent, so that what a browser or the index gets is
// what the application posted, plus what eventspine added.
package event

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"eventspine/internal/fault"
)

// Limits of one event, in bytes unless said otherwise.
const (
	MaxBytes      = 256 << 10 // the whole JSON object
	MaxID         = 128
	MaxType       = 128
	MaxTypeTokens = 8 // dot-separated tokens in a type
	MaxUserID     = 128
	MaxSource     = 128

	// Everybody is the userId that addresses every connected user.
	Everybody = "*"

	maxTimestamp = 253402300799999 // 9999-12-31T23:59:59.999Z, in milliseconds
	completeRoom = 1 << 10         // bytes that Complete and a header's id may add to an event of MaxBytes
)

// Event is one validated event. Raw is the whole JSON object on one line; the other fields
// are read from it. The numbers of a Position are zero until the journal stored the event.
type Event struct {
	ID        string
	Type      string
	UserID    string
	Source    string
	Timestamp int64 // milliseconds since the Unix epoch; 0 means absent until Complete
	Position
	Redelivered bool // stored a second time because Redis had lost it; it is not new to browsers
	Raw         []byte
}

// Position is the place the journal gave an event.
type Position struct {
	Partition int
	Seq       uint64 // contiguous within an epoch, below 2^53
	Epoch     uint64 // the journal's generation
	Prev      Prev
}

// Prev holds the seq of the events just before this one, 0 for none: of the same user, and
// of the partition's deliverable events.
type Prev struct{ User, Feed uint64 }

// Category is the first token of the type: the Socket.IO event name.
func (e *Event) Category() string {
	category, _, _ := strings.Cut(e.Type, ".")
	return category
}

// Time is the event's timestamp in UTC.
func (e *Event) Time() time.Time { return time.UnixMilli(e.Timestamp).UTC() }

// Parse validates one JSON object from a producer. Every field that breaks a rule is named
// in the error, which is of kind Invalid, or TooLarge past MaxBytes and the 1 KiB that an api
// may have added before it. The event keeps raw itself when it holds no line breaks, and a
// compacted copy otherwise. Absent id, timestamp and source are left for Complete.
func Parse(raw []byte) (Event, error) { return parse(raw, false) }

// ParseStored reads an event as the worker published it: the fields that eventspine adds are
// expected, not refused. Errors are of kind Corrupt.
func ParseStored(raw []byte) (Event, error) {
	e, err := parse(raw, true)
	if err == nil && e.Seq == 0 {
		err = errors.New("seq is missing")
	}
	if err != nil {
		return Event{}, fault.E("parse stored event", fault.Corrupt, err)
	}
	return e, nil
}

// Complete gives the event an id, a timestamp and a source where it has none. New ids are
// UUIDv7, so that they sort by time.
func (e *Event) Complete(now time.Time, source string) {
	var extra []byte
	if e.ID == "" {
		e.ID = uuid.Must(uuid.NewV7()).String()
		extra = AppendString(append(extra, `,"id":`...), e.ID)
	}
	if e.Timestamp == 0 {
		e.Timestamp = now.UnixMilli()
		extra = strconv.AppendInt(append(extra, `,"timestamp":`...), e.Timestamp, 10)
	}
	if e.Source == "" && source != "" {
		e.Source = source
		extra = AppendString(append(extra, `,"source":`...), source)
	}
	e.Raw = Splice(e.Raw, extra)
}

// Splice returns the object raw with the members in extra, each written with a leading
// comma, added at its end. raw must be a compact non-empty JSON object; it is not changed.
func Splice(raw, extra []byte) []byte {
	if len(extra) == 0 {
		return raw
	}
	out := make([]byte, 0, len(raw)+len(extra))
	out = append(out, raw[:len(raw)-1]...)
	out = append(out, extra...)
	return append(out, '}')
}

// AppendString appends s as a JSON string.
func AppendString(dst []byte, s string) []byte {
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil { // invalid UTF-8 was replaced; the bytes are still valid JSON
		return out
	}
	return out
}

// AppendRedelivered appends the member that marks a redelivered event, with a leading comma,
// ready for Splice.
func AppendRedelivered(dst []byte) []byte { return append(dst, `,"redelivered":true`...) }

// AppendPosition appends the members that the journal's numbers become, each with a leading
// comma, ready for Splice.
func AppendPosition(dst []byte, p Position) []byte {
	dst = strconv.AppendInt(append(dst, `,"partition":`...), int64(p.Partition), 10)
	dst = strconv.AppendUint(append(dst, `,"seq":`...), p.Seq, 10)
	dst = strconv.AppendUint(append(dst, `,"prev":{"user":`...), p.Prev.User, 10)
	dst = strconv.AppendUint(append(dst, `,"feed":`...), p.Prev.Feed, 10)
	dst = strconv.AppendUint(append(dst, `},"epoch":`...), p.Epoch, 10)
	return dst
}

// Partition is the partition of an event for this user, or of this id where the user is
// empty: the FNV-1a 64-bit hash modulo count.
func Partition(userID, id string, count int) int {
	h := fnv.New64a()
	if userID == "" {
		userID = id
	}
	_, _ = h.Write([]byte(userID))
	return int(h.Sum64() % uint64(count))
}

var reserved = map[string]bool{"user": true, "processed": true, "processedAt": true, "latencyMs": true,
	"partition": true, "seq": true, "prev": true, "epoch": true, "redelivered": true}

func parse(raw []byte, stored bool) (Event, error) {
	const op = "parse event"
	raw = bytes.TrimSpace(raw)
	if !stored && len(raw) > MaxBytes+completeRoom {
		return Event{}, fault.Errorf(op, fault.TooLarge, "the event has %d bytes; at most %d are allowed", len(raw), MaxBytes)
	}
	if len(raw) == 0 || raw[0] != '{' {
		return Event{}, fault.Errorf(op, fault.Invalid, "the event must be a JSON object")
	}
	e := Event{Raw: raw}
	p := parser{event: &e, stored: stored}
	if err := p.object(raw); err != nil {
		return Event{}, fault.Errorf(op, fault.Invalid, "the event is not valid JSON: %w", plain(err))
	}
	if e.Type == "" && !p.saw("type") {
		p.bad("type", "is missing; give 1 to 8 dot-separated tokens such as notification.order")
	}
	if len(p.wrong) > 0 {
		return Event{}, fault.BadFields(op, p.wrong...)
	}
	if bytes.ContainsAny(raw, "\n\r") {
		v := jsontext.Value(bytes.Clone(raw))
		if err := v.Compact(); err != nil {
			return Event{}, fault.Errorf(op, fault.Invalid, "the event is not valid JSON: %w", err)
		}
		e.Raw = v
	}
	return e, nil
}

// plain strips the package prefix that the JSON library puts before its messages.
func plain(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "jsontext: "))
}

type parser struct {
	event  *Event
	stored bool
	wrong  []fault.Field
}

func (p *parser) bad(name, format string, args ...any) {
	p.wrong = append(p.wrong, fault.Field{Name: name, Reason: fmt.Sprintf(format, args...)})
}

func (p *parser) saw(name string) bool {
	for _, f := range p.wrong {
		if f.Name == name {
			return true
		}
	}
	return false
}

func (p *parser) object(raw []byte) error {
	return Members(raw, func(name string, value jsontext.Value) {
		switch e := p.event; name {
		case "id":
			e.ID = p.text(name, value, MaxID)
			if e.ID == "" && !p.saw(name) {
				p.bad(name, "must not be empty; leave it out to be given one")
			}
		case "type":
			e.Type = p.kind(value)
		case "userId":
			e.UserID = p.text(name, value, MaxUserID)
		case "source":
			e.Source = p.text(name, value, MaxSource)
			if e.Source == "" && !p.saw(name) {
				p.bad(name, "must not be empty; leave it out to be given one")
			}
		case "timestamp":
			e.Timestamp = p.timestamp(value)
		default:
			p.other(name, value)
		}
	})
}

// Members calls fn for each member of the JSON object in raw, in order. The whole text is
// checked: syntax, UTF-8, no name twice in one object, nothing after the object. value is
// only valid during the call.
func Members(raw []byte, fn func(name string, value jsontext.Value)) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		token, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		fn(name, value)
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(raw[dec.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("%d bytes follow the object", len(rest))
	}
	return nil
}

func (p *parser) text(name string, value jsontext.Value, limit int) string {
	if value.Kind() != '"' {
		p.bad(name, "must be a string")
		return ""
	}
	b, err := jsontext.AppendUnquote(nil, value)
	switch {
	case err != nil:
		p.bad(name, "must be valid UTF-8")
	case len(b) > limit:
		p.bad(name, "has %d bytes; at most %d are allowed", len(b), limit)
	case hasControl(b):
		p.bad(name, "must not hold control characters")
	default:
		return string(b)
	}
	return ""
}

func hasControl(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if unicode.IsControl(r) {
			return true
		}
		b = b[n:]
	}
	return false
}

func (p *parser) kind(value jsontext.Value) string {
	s := p.text("type", value, MaxType)
	if p.saw("type") {
		return ""
	}
	if reason := typeProblem(s); reason != "" {
		p.bad("type", "%s", reason)
		return ""
	}
	return s
}

func typeProblem(s string) string {
	if strings.HasPrefix(s, "_") {
		return "must not begin with _; such topics are reserved"
	}
	if n := strings.Count(s, ".") + 1; n > MaxTypeTokens {
		return fmt.Sprintf("has %d tokens; at most %d are allowed", n, MaxTypeTokens)
	}
	for token := range strings.SplitSeq(s, ".") {
		if token == "" {
			return "must be 1 to 8 non-empty dot-separated tokens"
		}
		if strings.ContainsFunc(token, notTokenRune) {
			return "may hold only letters, digits, _ and - between its dots"
		}
	}
	return ""
}

func notTokenRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

func (p *parser) timestamp(value jsontext.Value) int64 {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n <= 0 || n > maxTimestamp {
		p.bad("timestamp", "must be a whole number of milliseconds since 1970-01-01 UTC, from 1 to %d", int64(maxTimestamp))
		return 0
	}
	return n
}

func (p *parser) other(name string, value jsontext.Value) {
	if !reserved[name] {
		return
	}
	if !p.stored {
		p.bad(name, "is set by eventspine; leave it out")
		return
	}
	e := p.event
	switch name {
	case "partition":
		e.Partition = int(p.number(name, value))
	case "seq":
		e.Seq = p.number(name, value)
	case "epoch":
		e.Epoch = p.number(name, value)
	case "prev":
		p.prev(value)
	case "redelivered":
		e.Redelivered = p.truth(name, value)
	}
}

func (p *parser) prev(value jsontext.Value) {
	if value.Kind() != '{' {
		p.bad("prev", "must be an object")
		return
	}
	_ = Members(value, func(name string, value jsontext.Value) { // checked as a part of the whole already
		switch name {
		case "user":
			p.event.Prev.User = p.number("prev.user", value)
		case "feed":
			p.event.Prev.Feed = p.number("prev.feed", value)
		}
	})
}

func (p *parser) truth(name string, value jsontext.Value) bool {
	kind := value.Kind()
	if kind != 't' && kind != 'f' {
		p.bad(name, "must be true or false")
	}
	return kind == 't'
}

func (p *parser) number(name string, value jsontext.Value) uint64 {
	n, err := strconv.ParseUint(string(value), 10, 53)
	if err != nil {
		p.bad(name, "must be a whole number below 2^53")
	}
	return n
}
