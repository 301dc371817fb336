package rules

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/vm"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"eventspine/internal/event"
)

// Set is a compiled rule set. It does not change; safe for concurrent use.
type Set struct {
	byCategory map[string][]*rule // first token of a type → rules that may match, in order
	any        []*rule            // rules for the categories that byCategory does not name
	names      []string
}

type rule struct {
	name     string
	patterns []pattern
	when     *expression // nil: always
	drop     bool
	set      []member
	derive   *derivation
}

type pattern struct {
	all, prefix    bool
	text, category string
}

type member struct {
	name  string
	value *expression
}

type derivation struct {
	typ    string
	userID *expression // nil: the same user
	whole  *expression // nil: data holds the members
	data   []member
}

func (p *pattern) matches(typ string) bool {
	switch {
	case p.all:
		return true
	case p.prefix:
		return strings.HasPrefix(typ, p.text)
	}
	return typ == p.text
}

func (r *rule) matches(typ string) bool {
	for i := range r.patterns {
		if r.patterns[i].matches(typ) {
			return true
		}
	}
	return false
}

func (r *rule) matchesAll() bool { return r.matchesCategory("") }

func (r *rule) matchesCategory(category string) bool {
	for _, p := range r.patterns {
		if p.all || p.category == category {
			return true
		}
	}
	return false
}

// Names lists the rules in their order.
func (s *Set) Names() []string { return s.names }

// Failure is a rule that could not be evaluated on an event and therefore did nothing.
type Failure struct {
	Rule string
	Err  error
}

// Result is what the rules made of one event.
type Result struct {
	Dropped  string        // name of the rule that dropped the event; "" when it goes on
	Event    event.Event   // the event, with a Raw of its own when a rule changed it
	Derived  []event.Event // new events, valid and complete, in the order of their rules
	Failures []Failure
}

// Matches reports whether any rule may touch events of this type. It allocates nothing.
func (s *Set) Matches(typ string) bool {
	for _, r := range s.candidates(typ) {
		if r.matches(typ) {
			return true
		}
	}
	return false
}

func (s *Set) candidates(typ string) []*rule {
	category := typ
	if i := strings.IndexByte(typ, '.'); i >= 0 {
		category = typ[:i]
	}
	if rules, ok := s.byCategory[category]; ok {
		return rules
	}
	return s.any
}

// Apply runs the rules on an event that has an id and a timestamp. user is the addressee's
// metadata, a JSON object or nil. For an event that was itself derived, derive rules are left
// out, so that rules cannot feed each other.
func (s *Set) Apply(e event.Event, user []byte, derived bool) Result {
	if !s.Matches(e.Type) {
		return Result{Event: e}
	}
	a := application{Result: Result{Event: e}, user: user, machine: vm.VM{MemoryBudget: budget}}
	for _, r := range s.candidates(e.Type) {
		if !r.matches(e.Type) || derived && r.derive != nil {
			continue
		}
		if err := a.apply(r); err != nil {
			a.Failures = append(a.Failures, Failure{r.name, err})
		}
		if a.Dropped != "" {
			break
		}
	}
	return a.Result
}

// application is one event on its way through the rules. What expressions read is decoded
// once, when the first expression reads it.
type application struct {
	Result
	user     []byte
	machine  vm.VM
	scope    scope
	ready    bool // scope holds the routing fields
	gotData  bool
	gotUser  bool
	failData error
}

func (a *application) apply(r *rule) error {
	if r.when != nil {
		yes, err := a.eval(r.when)
		if err != nil {
			return err
		}
		if yes != true { // the compiled condition gives nothing but booleans
			return nil
		}
	}
	switch {
	case r.drop:
		a.Dropped = r.name
		return nil
	case r.derive != nil:
		return a.derive(r)
	}
	return a.assign(r.set)
}

func kindOf(v any) string {
	if v == nil {
		return "nothing"
	}
	return fmt.Sprintf("a %T", v)
}

func (a *application) eval(x *expression) (any, error) {
	if err := a.prepare(x); err != nil {
		return nil, err
	}
	return x.run(&a.machine, &a.scope)
}

// prepare fills in what the expression reads.
func (a *application) prepare(x *expression) error {
	e := &a.Event
	if !a.ready {
		a.ready = true
		a.scope = scope{ID: e.ID, Type: e.Type, Category: e.Category(), UserID: e.UserID, Timestamp: int(e.Timestamp), Source: e.Source}
	}
	if x.readUser && !a.gotUser {
		a.gotUser = true
		if len(a.user) > 0 {
			user, err := decode(a.user)
			if err != nil {
				return fmt.Errorf("user: %w", err)
			}
			a.scope.User = user
		}
	}
	if x.readData && !a.gotData {
		a.gotData = true
		a.scope.Data, a.failData = dataOf(e.Raw)
	}
	if x.readData {
		return a.failData
	}
	return nil
}

// assign sets top-level members. All values are computed before the first is set.
func (a *application) assign(set []member) error {
	extra, err := a.members(nil, set, ',')
	if err != nil {
		return err
	}
	raw, err := without(a.Event.Raw, set)
	if err != nil {
		return err
	}
	if raw = event.Splice(raw, extra); len(raw) > event.MaxBytes {
		return fmt.Errorf("the event would have %d bytes; at most %d are allowed", len(raw), event.MaxBytes)
	}
	a.Event.Raw = raw
	a.gotData = false // it may have changed
	return nil
}

// members appends ,"name":value for each member; first stands in place of the first comma.
func (a *application) members(dst []byte, set []member, first byte) ([]byte, error) {
	for i, m := range set {
		v, err := a.eval(m.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		comma := byte(',')
		if i == 0 {
			comma = first
		}
		if comma != 0 {
			dst = append(dst, comma)
		}
		dst = append(event.AppendString(dst, m.name), ':')
		if dst, err = appendJSON(dst, v); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return dst, nil
}

func (a *application) derive(r *rule) error {
	d := r.derive
	raw := event.AppendString([]byte(`{"id":`), derivedID(a.Event.ID, r.name))
	raw = event.AppendString(append(raw, `,"type":`...), d.typ)
	userID, err := a.addressee(d)
	if err != nil {
		return err
	}
	if userID != "" {
		raw = event.AppendString(append(raw, `,"userId":`...), userID)
	}
	raw = strconv.AppendInt(append(raw, `,"timestamp":`...), a.Event.Timestamp, 10)
	if a.Event.Source != "" {
		raw = event.AppendString(append(raw, `,"source":`...), a.Event.Source)
	}
	if raw, err = a.data(raw, d); err != nil {
		return err
	}
	e, err := event.Parse(append(raw, '}'))
	if err != nil {
		return fmt.Errorf("the derived event is not valid: %w", err)
	}
	a.Derived = append(a.Derived, e)
	return nil
}

func (a *application) addressee(d *derivation) (string, error) {
	if d.userID == nil {
		return a.Event.UserID, nil
	}
	v, err := a.eval(d.userID)
	if err != nil {
		return "", fmt.Errorf("userId: %w", err)
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case int:
		return strconv.Itoa(v), nil
	}
	return "", fmt.Errorf("userId is %s; a string is needed", kindOf(v))
}

func (a *application) data(raw []byte, d *derivation) ([]byte, error) {
	if d.whole == nil && len(d.data) == 0 {
		return raw, nil
	}
	raw = append(raw, `,"data":`...)
	if d.whole != nil {
		v, err := a.eval(d.whole)
		if err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
		return appendJSON(raw, v)
	}
	raw, err := a.members(append(raw, '{'), d.data, 0)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return append(raw, '}'), nil
}

// derivedID is the same for a repeat of the parent, so that the repeat is recognised.
func derivedID(parent, rule string) string {
	if id := parent + "/" + rule; len(id) <= event.MaxID {
		return id
	}
	sum := sha256.Sum256([]byte(parent))
	return hex.EncodeToString(sum[:16]) + "/" + rule
}

// without is the object raw without the members that are about to be set.
func without(raw []byte, set []member) ([]byte, error) {
	out := make([]byte, 1, len(raw))
	out[0] = '{'
	found := false
	err := event.Members(raw, func(name string, value jsontext.Value) {
		for _, m := range set {
			if m.name == name {
				found = true
				return
			}
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(event.AppendString(out, name), ':'), value...)
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return raw, nil
	}
	return append(out, '}'), nil
}

var errNotFinite = errors.New("not a finite number")

// appendJSON writes a value of the expression language, members of objects sorted, so that
// the same event always gives the same text.
func appendJSON(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case string:
		return event.AppendString(dst, v), nil
	}
	out, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be written as JSON", kindOf(v))
	}
	return append(dst, out...), nil
}

// dataOf decodes the member data; nil when it is absent.
func dataOf(raw []byte) (any, error) {
	var value []byte
	err := event.Members(raw, func(name string, v jsontext.Value) {
		if name == "data" {
			value = bytes.Clone(v)
		}
	})
	if err != nil || value == nil {
		return nil, err
	}
	return decode(value)
}

// decode reads any JSON value. Whole numbers become int, so that ids keep all their digits.
func decode(raw []byte) (any, error) {
	return value(jsontext.NewDecoder(bytes.NewBuffer(raw)))
}

func value(dec *jsontext.Decoder) (any, error) {
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return tok.Bool(), nil
	case '"':
		return tok.String(), nil
	case '0':
		return number(tok.String())
	case '[':
		list := []any{}
		for dec.PeekKind() != ']' {
			v, err := value(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = dec.ReadToken()
		return list, err
	}
	return object(dec)
}

func object(dec *jsontext.Decoder) (any, error) {
	out := map[string]any{}
	for dec.PeekKind() != '}' {
		tok, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		name := tok.String()
		if out[name], err = value(dec); err != nil {
			return nil, err
		}
	}
	_, err := dec.ReadToken()
	return out, err
}

func number(s string) (any, error) {
	if n, err := strconv.Atoi(s); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, errNotFinite
	}
	return f, nil
}
