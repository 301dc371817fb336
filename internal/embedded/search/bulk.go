package search

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

// operation is one create of a bulk request.
type operation struct {
	index, id string
	source    []byte // verbatim
	doc       document
	outcome
}

// document is what the database looks for in a source.
type document struct {
	timestamp, seq int64
	id, typ        string
	userID         *string
	text           []byte
}

// Elasticsearch's limits.
const (
	maxIDBytes   = 512
	maxNesting   = 1000
	maxDigits    = 1000
	maxFlattened = 20 // objects nested in data
)

// parseBulk reads the body of a bulk request: an action line and a source line for each
// document. The error refuses the request as a whole. A document that is refused by itself has
// its outcome set.
func parseBulk(body []byte) ([]operation, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, refuse(400, "parse_exception", "request body is required")
	}
	if body[len(body)-1] != '\n' {
		return nil, refuse(400, "illegal_argument_exception", `The bulk request must be terminated by a newline [\n]`)
	}
	var ops []operation
	for line := 1; len(body) > 0; line += 2 {
		var action, source []byte
		action, body, _ = bytes.Cut(body, []byte("\n"))
		if len(body) == 0 {
			return nil, refuse(400, "illegal_argument_exception", "Malformed action/metadata line [%d], expected a source after it", line)
		}
		source, body, _ = bytes.Cut(body, []byte("\n"))
		op, err := parseAction(action, line)
		if err != nil {
			return nil, err
		}
		op.source = source
		op.judge()
		ops = append(ops, op)
	}
	return ops, nil
}

func parseAction(line []byte, number int) (operation, error) {
	var a struct {
		Create *struct {
			Index string `json:"_index"`
			ID    string `json:"_id"`
		} `json:"create"`
	}
	if err := strict(line, &a); err != nil || a.Create == nil {
		return operation{}, refuse(400, "illegal_argument_exception", "Malformed action/metadata line [%d], expected create with _index and _id", number)
	}
	if a.Create.Index == "" {
		return operation{}, refuse(400, "action_request_validation_exception", "Validation Failed: 1: index is missing;")
	}
	if n := len(a.Create.ID); n == 0 || n > maxIDBytes {
		return operation{}, refuse(400, "action_request_validation_exception",
			"Validation Failed: 1: id is too long, must be no longer than %d bytes but was: %d;", maxIDBytes, n)
	}
	return operation{index: a.Create.Index, id: a.Create.ID}, nil
}

// judge refuses the operation where Elasticsearch with archive's mapping would.
func (op *operation) judge() {
	if strings.ContainsAny(op.index, "\\/*?\"<>| ,#:") || strings.ToLower(op.index) != op.index || strings.ContainsAny(op.index[:1], "-_+.") || len(op.index) > 255 {
		op.refuse(refuse(400, "invalid_index_name_exception", "Invalid index name [%s]", op.index))
		return
	}
	if err := op.doc.parse(op.source); err != nil {
		op.refuse(err)
	}
}

func (op *operation) refuse(err *refusal) { op.status, op.err = err.status, err }

func unparsable(format string, args ...any) *refusal {
	return refuse(400, "document_parsing_exception", "failed to parse: "+format, args...)
}

// docScanner walks a source once.
type docScanner struct {
	*jsontext.Decoder
	doc  *document
	seen struct{ timestamp, seq, id, typ bool }
}

func (d *document) parse(source []byte) *refusal {
	s := docScanner{Decoder: jsontext.NewDecoder(bytes.NewBuffer(source)), doc: d}
	if s.PeekKind() != '{' {
		return unparsable("the source is not an object")
	}
	if err := s.next(); err != nil {
		return err
	}
	for s.PeekKind() != '}' {
		if err := s.member(); err != nil {
			return err
		}
	}
	if err := s.next(); err != nil {
		return err
	}
	if len(bytes.TrimSpace(source[s.InputOffset():])) > 0 {
		return unparsable("something follows the source")
	}
	if !s.seen.timestamp || !s.seen.seq || !s.seen.id || !s.seen.typ {
		return unparsable("the embedded index takes only events: they have timestamp, seq, id and type")
	}
	return nil
}

func (s *docScanner) next() *refusal {
	if _, err := s.ReadToken(); err != nil {
		return unparsable("%s", err)
	}
	return nil
}

func (s *docScanner) name() (string, *refusal) {
	v, err := s.ReadValue()
	if err != nil {
		return "", unparsable("%s", err)
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : len(v)-1]), nil
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return "", unparsable("%s", err)
	}
	return string(b), nil
}

func (s *docScanner) member() *refusal {
	name, err := s.name()
	if err != nil {
		return err
	}
	if err := vetName(name); err != nil {
		return err
	}
	switch kind := s.PeekKind(); {
	case name == "spine":
		return s.spine(kind)
	case name == "data" && kind != '{' && kind != 'n':
		return unparsable("failed to parse field [data] of type [flattened]")
	case name == "data":
		return s.skip(1, 0)
	case mapped[name] && (kind == '{' || kind == '['):
		return unparsable("failed to parse field [%s]", name)
	case kind == '{' || kind == '[':
		return s.skip(1, -1)
	}
	v, e := s.ReadValue()
	if e != nil {
		return unparsable("%s", e)
	}
	return s.field(name, v)
}

var mapped = map[string]bool{"id": true, "type": true, "userId": true, "source": true, "timestamp": true, "partition": true,
	"seq": true, "epoch": true, "latencyMs": true, "processedAt": true}

// vetName refuses what archive never sends and Elasticsearch never takes.
func vetName(name string) *refusal {
	switch {
	case strings.HasPrefix(name, "_"):
		return unparsable("Field [%s] is a metadata field and cannot be added inside a document", name)
	case strings.Contains(name, "."):
		return unparsable("field name [%s] is a path", name)
	case !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsSpace(r) }):
		return unparsable("Field name cannot contain only whitespace: [%s]", name)
	}
	return nil
}

// field takes a scalar that the database looks for.
func (s *docScanner) field(name string, v jsontext.Value) *refusal {
	if v.Kind() == '0' && len(v) > maxDigits {
		return tooLong(v)
	}
	d := s.doc
	switch name {
	case "timestamp":
		return s.integer(name, v, &d.timestamp, &s.seen.timestamp)
	case "seq":
		return s.integer(name, v, &d.seq, &s.seen.seq)
	case "id":
		return s.str(name, v, &d.id, &s.seen.id)
	case "type":
		return s.str(name, v, &d.typ, &s.seen.typ)
	case "userId":
		d.userID = new(string)
		var seen bool
		return s.str(name, v, d.userID, &seen)
	}
	return nil
}

func (s *docScanner) integer(name string, v jsontext.Value, to *int64, seen *bool) *refusal {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return unparsable("failed to parse field [%s] of type [long]", name)
	}
	*to, *seen = n, true
	return nil
}

func (s *docScanner) str(name string, v jsontext.Value, to *string, seen *bool) *refusal {
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return unparsable("failed to parse field [%s] of type [keyword]", name)
	}
	*to, *seen = string(b), true
	return nil
}

// spine reads archive's helper member.
func (s *docScanner) spine(kind jsontext.Kind) *refusal {
	if kind != '{' {
		return unparsable("object mapping for [spine] tried to parse field [spine] as object, but found a concrete value")
	}
	if err := s.next(); err != nil {
		return err
	}
	for s.PeekKind() != '}' {
		name, err := s.name()
		if err != nil {
			return err
		}
		v, e := s.ReadValue()
		if e != nil {
			return unparsable("%s", e)
		}
		if name == "text" {
			if s.doc.text, e = jsontext.AppendUnquote(nil, v); e != nil {
				return unparsable("failed to parse field [spine.text] of type [text]")
			}
		}
	}
	return s.next()
}

func tooLong(v jsontext.Value) *refusal {
	return unparsable("Number value length (%d) exceeds the maximum allowed (%d)", len(v), maxDigits)
}

// skip walks over a value at a depth. objects counts the objects around it within data; it is
// negative elsewhere.
func (s *docScanner) skip(depth, objects int) *refusal {
	kind := s.PeekKind()
	if kind != '{' && kind != '[' {
		v, err := s.ReadValue()
		if err != nil {
			return unparsable("%s", err)
		}
		if kind == '0' && len(v) > maxDigits {
			return tooLong(v)
		}
		return nil
	}
	if depth++; depth > maxNesting {
		return unparsable("Document nesting depth (%d) exceeds the maximum allowed (%d)", depth, maxNesting)
	}
	if kind == '{' && objects >= 0 {
		if objects++; objects > maxFlattened {
			return unparsable("The provided [flattened] field [data] exceeds the maximum depth limit of [%d].", maxFlattened)
		}
	}
	if err := s.next(); err != nil {
		return err
	}
	for s.PeekKind() != '}' && s.PeekKind() != ']' {
		if err := s.element(kind, depth, objects); err != nil {
			return err
		}
	}
	return s.next()
}

func (s *docScanner) element(kind jsontext.Kind, depth, objects int) *refusal {
	if kind == '{' {
		v, err := s.ReadValue()
		if err != nil {
			return unparsable("%s", err)
		}
		if objects >= 0 && bytes.Contains(v, []byte(`\u0000`)) {
			return unparsable("Keys in [flattened] fields cannot contain the reserved character \\0.")
		}
	}
	return s.skip(depth, objects)
}
