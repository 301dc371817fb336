package archive

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
)

// A document is the event's own bytes with one member added at the end:
//
//	{"id":"a1","type":"order.created",…,"spine":{"text":"order created a1 …"}}
//
// Where the event holds something that Elasticsearch refuses, the member that holds it is left
// out of the document, and the whole event is kept as a string that nobody indexes:
//
//	{"id":"a1","type":"order.created",…,"spine":{"text":"…","raw":"{\"id\":\"a1\",…}"}}
//
// Elasticsearch keeps _source as it came, so restore finds the event's very bytes in either.
// text is part of _source: excluding it would make Elasticsearch write every document anew,
// which turns 12.50 into 12.5 and cuts long fractions.
const (
	helper     = "spine"
	helperText = "text"
	helperRaw  = "raw"

	textBegin = `,"` + helper + `":{"` + helperText + `":"`
	rawBegin  = `","` + helperRaw + `":`
)

// What Elasticsearch 8.19 takes of any value, with room to spare.
const (
	maxDepth  = 500    // arrays and objects within each other (1,000 there)
	maxNumber = 500    // characters of a number (1,000 there)
	maxPath   = 16_000 // bytes of the names from data to a value, joined by dots (32,766 with the value there)
)

// builder writes the body of bulk requests. Documents lie one after the other in buf, each
// after its action line, so that any run of them is a request.
type builder struct {
	index string // first part of the index names
	buf   []byte
	ends  []int // where each document ends in buf
	place []int // the place in the batch of each document
	scan  scanner
}

// add appends e. The error says why Elasticsearch could never take it; nothing is appended then.
func (b *builder) add(place int, e *event.Event) error {
	if e.ID == "" || e.Timestamp <= 0 {
		return errors.New("the event has no id or no timestamp")
	}
	raw := bytes.TrimSpace(e.Raw)
	if bytes.IndexByte(raw, '\n') >= 0 || bytes.IndexByte(raw, '\r') >= 0 { // a line break ends the document there
		v := jsontext.Value(bytes.Clone(raw))
		if err := v.Compact(); err != nil {
			return notJSON(err)
		}
		raw = v
	}
	if err := b.scan.event(raw, e); err != nil {
		return notJSON(err)
	}
	b.buf = append(append(b.buf, `{"create":{"_index":"`...), b.index...)
	b.buf = e.Time().AppendFormat(b.buf, `-2006.01.02","_id":`)
	b.buf = append(event.AppendString(b.buf, e.ID), "}}\n"...)
	if b.scan.odd {
		b.buf = b.scan.appendKept(b.buf, raw, e.ID)
	} else {
		b.buf = append(b.buf, raw[:len(raw)-1]...)
	}
	b.buf = append(append(b.buf, textBegin...), b.scan.words...)
	if b.scan.odd {
		b.buf = event.AppendString(append(b.buf, rawBegin...), string(raw))
	} else {
		b.buf = append(b.buf, '"')
	}
	b.buf = append(b.buf, "}}\n"...)
	b.ends = append(b.ends, len(b.buf))
	b.place = append(b.place, place)
	return nil
}

func notJSON(err error) error {
	return fmt.Errorf("the event is not a JSON object: %s", strings.TrimPrefix(err.Error(), "jsontext: "))
}

// restore gives back the event that add wrote into a document.
func restore(source []byte) ([]byte, error) {
	i := bytes.LastIndex(source, []byte(textBegin))
	if i < 0 {
		return nil, errors.New("the document was not written by eventspine")
	}
	rest := source[i+len(textBegin):]
	j := bytes.IndexByte(rest, '"') // words hold no quote
	switch rest = rest[max(j, 0):]; {
	case j >= 0 && string(rest) == `"}}`:
		return append(bytes.Clone(source[:i]), '}'), nil
	case bytes.HasPrefix(rest, []byte(rawBegin)) && bytes.HasSuffix(rest, []byte("}}")):
		return jsontext.AppendUnquote(nil, rest[len(rawBegin):len(rest)-2])
	}
	return nil, errors.New("the document was not written by eventspine")
}

// scanner reads an event's JSON once: it checks it, collects its words, and finds the members
// that Elasticsearch would refuse.
type scanner struct {
	input  bytes.Buffer
	dec    jsontext.Decoder
	words  []byte
	urls   []byte // words of web addresses: they come last, because they say least
	odd    bool   // something has to be left out
	kept   [][2]int
	name   []byte // scratch
	text   []byte // scratch
	refuse bool   // the member being read has to be left out
}

// event scans raw, which must be one JSON object without line breaks.
func (s *scanner) event(raw []byte, e *event.Event) error {
	s.input = *bytes.NewBuffer(raw)
	s.dec.Reset(&s.input)
	s.words, s.urls, s.kept, s.odd = s.words[:0], s.urls[:0], s.kept[:0], false
	for _, field := range [...]string{e.Type, e.ID, e.UserID} {
		s.words = appendWords(s.words, []byte(field), maxText)
	}
	if s.dec.PeekKind() != '{' {
		return errors.New("it does not begin with {")
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	for s.dec.PeekKind() != '}' {
		if err := s.member(); err != nil {
			return err
		}
	}
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	if int(s.dec.InputOffset()) != len(raw) {
		return errors.New("something follows the object")
	}
	s.words = appendWords(s.words, s.urls, maxText)
	s.odd = s.odd || len(s.kept) == 0
	return nil
}

// member scans one member of the event itself.
func (s *scanner) member() error {
	quoted, err := s.dec.ReadValue()
	if err != nil {
		return err
	}
	begin := int(s.dec.InputOffset()) - len(quoted)
	if s.name, err = jsontext.AppendUnquote(s.name[:0], quoted); err != nil {
		return err
	}
	name := string(s.name)
	s.refuse = !takesName(name) || !takesKind(name, s.dec.PeekKind())
	v := value{indexed: name == "data", quiet: quiet[name]}
	if err := s.value(v); err != nil {
		return err
	}
	if s.refuse {
		s.odd = true
		return nil
	}
	s.kept = append(s.kept, [2]int{begin, int(s.dec.InputOffset())})
	return nil
}

// value says where in a member the scanner is.
type value struct {
	depth   int  // arrays and objects around it
	objects int  // objects around it, counting itself
	path    int  // bytes of the names that lead to it
	indexed bool // within data
	quiet   bool // its words are not collected
}

func (s *scanner) value(v value) error {
	switch k := s.dec.PeekKind(); k {
	case '{':
		return s.object(v)
	case '[':
		return s.array(v)
	default:
		raw, err := s.dec.ReadValue()
		if err == nil {
			s.scalar(v, k, raw)
		}
		return err
	}
}

func (s *scanner) scalar(v value, k jsontext.Kind, raw []byte) {
	if k == '0' && len(raw) > maxNumber || v.indexed && v.path > maxPath {
		s.refuse = true
	}
	if v.quiet || len(s.words) >= maxText-1 || k != '"' && k != '0' {
		return
	}
	text := raw
	if bytes.IndexByte(raw, '\\') >= 0 {
		s.text, _ = jsontext.AppendUnquote(s.text[:0], raw) // the decoder accepted it
		text = s.text
	} else if k == '"' {
		text = raw[1 : len(raw)-1]
	}
	if bytes.HasPrefix(text, []byte("http://")) || bytes.HasPrefix(text, []byte("https://")) {
		if len(s.urls) < maxText {
			s.urls = append(append(s.urls, text...), ' ')
		}
		return
	}
	s.words = appendWords(s.words, text, maxText)
}

func (s *scanner) object(v value) error {
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	v.depth++
	v.objects++
	if v.depth > maxDepth || v.indexed && v.objects > dataDepth {
		s.refuse = true
	}
	for s.dec.PeekKind() != '}' {
		quoted, err := s.dec.ReadValue()
		if err != nil {
			return err
		}
		inner := v
		inner.path += len(quoted) // quotes make up for the dots
		if v.indexed && bytes.Contains(quoted, []byte(`\u0000`)) {
			s.refuse = true
		}
		if err := s.value(inner); err != nil {
			return err
		}
	}
	_, err := s.dec.ReadToken()
	return err
}

func (s *scanner) array(v value) error {
	if _, err := s.dec.ReadToken(); err != nil {
		return err
	}
	if v.depth++; v.depth > maxDepth {
		s.refuse = true
	}
	for s.dec.PeekKind() != ']' {
		if err := s.value(v); err != nil {
			return err
		}
	}
	_, err := s.dec.ReadToken()
	return err
}

// appendKept appends the object raw without the members to be left out and without its end.
func (s *scanner) appendKept(dst, raw []byte, id string) []byte {
	dst = append(dst, '{')
	if len(s.kept) == 0 {
		dst = event.AppendString(append(dst, `"id":`...), id)
	}
	for i, k := range s.kept {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, raw[k[0]:k[1]]...)
	}
	return dst
}

// quiet members are those that eventspine adds, and those whose words are there already.
var quiet = map[string]bool{"id": true, "type": true, "userId": true, "timestamp": true, "user": true, "processed": true,
	"processedAt": true, "latencyMs": true, "partition": true, "seq": true, "prev": true, "epoch": true, "redelivered": true}

// takesName reports whether Elasticsearch takes name as a member of a document: no metadata
// field, no path, not blank, and not our own.
func takesName(name string) bool {
	return name != helper && !strings.HasPrefix(name, "_") && !strings.Contains(name, ".") &&
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsSpace(r) })
}

// takesKind reports whether the mapping takes a value of this kind in the member name.
func takesKind(name string, k jsontext.Kind) bool {
	switch name {
	case "data":
		return k == '{' || k == 'n'
	case "id", "type", "userId", "source":
		return k == '"'
	case "timestamp", "partition", "seq", "epoch", "processedAt", "latencyMs":
		return k != '{' && k != '['
	}
	return true
}
