package event

import (
	"bytes"
	"encoding/base64"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/fault"
)

// SpecVersion is the version of CloudEvents that ParseCloudEvent reads.
const SpecVersion = "1.0"

// ParseCloudEvent reads one event in the JSON structured mode of CloudEvents 1.0 and gives it
// the shape of an eventspine event: subject becomes userId, and time becomes timestamp. All
// other attributes, specversion and extensions too, and data or data_base64 are kept as they
// came; attributes that are null count as absent. Every rule that is broken, of CloudEvents or
// of eventspine, is named in the error by the CloudEvents name of its attribute. The error is
// of kind Invalid, or TooLarge past MaxBytes. The event does not keep raw.
func ParseCloudEvent(raw []byte) (Event, error) {
	const op = "parse CloudEvent"
	raw = bytes.TrimSpace(raw)
	if len(raw) > MaxBytes {
		return Event{}, fault.Errorf(op, fault.TooLarge, "the event has %d bytes; at most %d are allowed", len(raw), MaxBytes)
	}
	if len(raw) == 0 || raw[0] != '{' {
		return Event{}, fault.Errorf(op, fault.Invalid, "the event must be a JSON object")
	}
	e := Event{Raw: make([]byte, 0, len(raw))}
	c := cloud{parser: parser{event: &e}}
	if err := Members(raw, c.member); err != nil {
		return Event{}, fault.Errorf(op, fault.Invalid, "the event is not valid JSON: %w", plain(err))
	}
	c.finish()
	if len(c.wrong) > 0 {
		return Event{}, fault.BadFields(op, c.wrong...)
	}
	e.Raw = append(e.Raw, '}')
	if bytes.ContainsAny(e.Raw, "\n\r") {
		v := jsontext.Value(e.Raw)
		if err := v.Compact(); err != nil {
			return Event{}, fault.Errorf(op, fault.Invalid, "the event is not valid JSON: %w", plain(err))
		}
		e.Raw = v
	}
	return e, nil
}

// cloud rewrites the members of a CloudEvent one by one into the Raw of an event.
type cloud struct {
	parser
	version      bool
	data, base64 bool
}

func (c *cloud) member(name string, value jsontext.Value) {
	if value.Kind() == 'n' && name != "data" {
		return // null is the same as absent
	}
	e := c.event
	switch name {
	case "specversion":
		c.version = true
		if s := c.filled(name, value, MaxID); s != SpecVersion && !c.saw(name) {
			c.bad(name, "must be %q", SpecVersion)
		}
	case "id":
		e.ID = c.filled(name, value, MaxID)
	case "source":
		e.Source = c.filled(name, value, MaxSource)
		if _, err := url.Parse(e.Source); err != nil {
			c.bad(name, "must be a URI reference")
		}
	case "type":
		e.Type = c.kind(value)
	case "subject":
		e.UserID = c.filled(name, value, MaxUserID)
		name = "userId"
	case "time":
		c.time(value)
		return
	case "data":
		c.data = true
	default:
		c.attribute(name, value)
	}
	c.keep(name, value)
}

// keep adds a member to the event as it came.
func (c *cloud) keep(name string, value []byte) {
	sep := byte(',')
	if len(c.event.Raw) == 0 {
		sep = '{'
	}
	raw := AppendString(append(c.event.Raw, sep), name)
	c.event.Raw = append(append(raw, ':'), value...)
}

func (c *cloud) filled(name string, value jsontext.Value, limit int) string {
	s := c.text(name, value, limit)
	if s == "" && !c.saw(name) {
		c.bad(name, "must not be empty")
	}
	return s
}

// time checks an RFC 3339 time and adds the timestamp it becomes.
func (c *cloud) time(value jsontext.Value) {
	s := c.filled("time", value, MaxID)
	if c.saw("time") {
		return
	}
	at, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	ms := at.UnixMilli()
	if err != nil || ms <= 0 || ms > maxTimestamp {
		c.bad("time", "must be an RFC 3339 time after 1970 such as 2015-11-20T12:00:00Z")
		return
	}
	c.event.Timestamp = ms
	c.keep("timestamp", strconv.AppendInt(nil, ms, 10))
}

// attribute checks what has no counterpart in an eventspine event.
func (c *cloud) attribute(name string, value jsontext.Value) {
	switch name {
	case "datacontenttype":
		if _, _, err := mime.ParseMediaType(c.filled(name, value, MaxBytes)); err != nil && !c.saw(name) {
			c.bad(name, "must be a media type such as application/json")
		}
	case "dataschema":
		if u, err := url.Parse(c.filled(name, value, MaxBytes)); (err != nil || !u.IsAbs()) && !c.saw(name) {
			c.bad(name, "must be an absolute URI")
		}
	case "data_base64":
		c.base64 = true
		b, err := jsontext.AppendUnquote(nil, value)
		if err == nil {
			_, err = base64.StdEncoding.Decode(make([]byte, base64.StdEncoding.DecodedLen(len(b))), b)
		}
		if err != nil || value.Kind() != '"' {
			c.bad(name, "must be a string in base64")
		}
	case "timestamp":
		c.bad(name, "is a name eventspine uses; give the attribute time instead")
	default:
		c.extension(name, value)
	}
}

func (c *cloud) extension(name string, value jsontext.Value) {
	switch kind := value.Kind(); {
	case reserved[name]:
		c.bad(name, "is set by eventspine; leave it out")
	case name == "" || strings.ContainsFunc(name, notAttributeRune):
		c.bad(name, "is not an attribute name: only the letters a-z and digits may be in it")
	case kind == '{' || kind == '[':
		c.bad(name, "must be a string, a whole number, true or false")
	case kind == '0' && notInt32(value):
		c.bad(name, "must be a whole number from -2147483648 to 2147483647")
	}
}

func notInt32(value jsontext.Value) bool {
	_, err := strconv.ParseInt(string(value), 10, 32)
	return err != nil
}

func notAttributeRune(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }

func (c *cloud) finish() {
	for _, required := range []struct {
		name string
		ok   bool
	}{
		{"specversion", c.version}, {"id", c.event.ID != ""}, {"source", c.event.Source != ""}, {"type", c.event.Type != ""},
	} {
		if !required.ok && !c.saw(required.name) {
			c.bad(required.name, "is missing")
		}
	}
	if c.data && c.base64 {
		c.bad("data_base64", "must not be given together with data")
	}
}
