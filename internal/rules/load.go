package rules

import (
	_ "embed" // the default rules
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// Limits of a rules file.
const (
	MaxFile  = 1 << 20 // bytes
	MaxRules = 1000
	MaxName  = 64 // bytes of a rule's name
)

//go:embed default.yaml
var defaults []byte

// Default is the rule set of a worker that was given no file: debug.* is dropped, and an
// order.created notifies its user.
func Default() (*Set, error) { return Parse("built-in rules", defaults) }

// Load reads and compiles a rules file. All mistakes come in one error of kind Invalid, each
// with file, line, column and rule.
func Load(path string) (*Set, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.E("load rules", fault.Invalid, err)
	}
	return Parse(path, src)
}

// Parse is Load for text that was read already; name stands for the file in errors.
func Parse(name string, src []byte) (*Set, error) {
	const op = "load rules"
	if len(src) > MaxFile {
		return nil, fault.Errorf(op, fault.Invalid, "%s has %d bytes; at most %d are allowed", name, len(src), MaxFile)
	}
	doc, err := read(src)
	if err != nil {
		return nil, fault.BadFields(op, yamlProblem(name, err))
	}
	if len(doc.Rules) > MaxRules {
		return nil, fault.Errorf(op, fault.Invalid, "%s holds %d rules; at most %d are allowed", name, len(doc.Rules), MaxRules)
	}
	l := loader{file: name, names: map[string]bool{}, categories: map[string][]*rule{}}
	for i := range doc.Rules {
		l.rule(i, &doc.Rules[i])
	}
	if len(l.wrong) > 0 {
		return nil, fault.BadFields(op, l.wrong...)
	}
	return l.index(), nil
}

// read decodes the YAML. The library panics on some malformed input; that is an error here.
func read(src []byte) (doc file, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not YAML that can be read: %v", r)
		}
	}()
	err = yaml.UnmarshalWithOptions(src, &doc, yaml.Strict())
	return doc, err
}

// yamlProblem says where the YAML itself is wrong. A rule is not known there.
func yamlProblem(name string, err error) fault.Field {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil && e.GetToken().Position != nil {
		p := e.GetToken().Position
		return fault.Field{Name: fmt.Sprintf("%s:%d:%d:", name, p.Line, p.Column), Reason: e.GetMessage()}
	}
	return fault.Field{Name: name + ":", Reason: err.Error()}
}

// The shape of the file. Unknown members are errors.
type file struct {
	Rules []ruleText `yaml:"rules"`
}

type ruleText struct {
	Name   text        `yaml:"name"`
	Match  texts       `yaml:"match"`
	When   text        `yaml:"when"`
	Drop   bool        `yaml:"drop"`
	Set    members     `yaml:"set"`
	Derive *deriveText `yaml:"derive"`
}

type deriveText struct {
	Type   text    `yaml:"type"`
	UserID text    `yaml:"userId"`
	Data   members `yaml:"data"`
}

// text is a scalar and the place where it begins.
type text struct {
	string
	line, column int
	block        bool // a | or > scalar, which keeps its lines
}

// UnmarshalYAML accepts any scalar.
func (t *text) UnmarshalYAML(n ast.Node) error {
	if a, ok := n.(*ast.AnchorNode); ok {
		n = a.Value
	}
	tok := n.GetToken()
	switch v := n.(type) {
	case *ast.StringNode:
		t.string = v.Value
	case *ast.LiteralNode:
		t.string, t.block = v.Value.Value, true
		t.line, t.column = v.Start.Position.Line+1, indent(v.Value.GetToken().Origin)+1
		return nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		t.string = tok.Value
	default:
		return &yaml.UnexpectedNodeTypeError{Actual: n.Type(), Expected: ast.StringType, Token: tok}
	}
	t.line, t.column = tok.Position.Line, tok.Position.Column
	if tok.Type == token.SingleQuoteType || tok.Type == token.DoubleQuoteType {
		t.column++
	}
	return nil
}

// indent counts the spaces before the first line of a block scalar.
func indent(block string) int {
	block = strings.TrimLeft(block, "\n")
	return len(block) - len(strings.TrimLeft(block, " "))
}

// texts is one scalar or a list of them.
type texts []text

// UnmarshalYAML accepts a scalar or a sequence of scalars.
func (t *texts) UnmarshalYAML(n ast.Node) error {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		*t = make(texts, 1)
		return (*t)[0].UnmarshalYAML(n)
	}
	*t = make(texts, len(seq.Values))
	for i, v := range seq.Values {
		if err := (*t)[i].UnmarshalYAML(v); err != nil {
			return err
		}
	}
	return nil
}

// members is an ordered mapping of names to expressions, or one expression for the whole.
type members struct {
	whole *text
	list  []memberText
}

type memberText struct{ name, value text }

// UnmarshalYAML accepts a mapping of scalars or a scalar.
func (m *members) UnmarshalYAML(n ast.Node) error {
	mapping, ok := n.(*ast.MappingNode)
	if !ok {
		m.whole = &text{}
		return m.whole.UnmarshalYAML(n)
	}
	for _, v := range mapping.Values {
		var one memberText
		if err := one.name.UnmarshalYAML(v.Key); err != nil {
			return err
		}
		if err := one.value.UnmarshalYAML(v.Value); err != nil {
			return err
		}
		m.list = append(m.list, one)
	}
	return nil
}

// loader turns the file's rules into compiled ones and collects every mistake.
type loader struct {
	file       string
	names      map[string]bool
	rules      []*rule
	categories map[string][]*rule
	wrong      []fault.Field
}

func (l *loader) bad(rule string, at text, format string, args ...any) {
	l.wrong = append(l.wrong, fault.Field{
		Name:   fmt.Sprintf("%s:%d:%d: rule %s:", l.file, at.line, at.column, rule),
		Reason: fmt.Sprintf(format, args...),
	})
}

func (l *loader) rule(i int, t *ruleText) {
	name := t.Name.string
	r := &rule{name: name}
	switch {
	case name == "":
		name = fmt.Sprintf("number %d", i+1)
		l.bad(name, t.Name, "name is missing")
	case !isName(name):
		l.bad(name, t.Name, "name must be at most %d letters, digits, _ and -", MaxName)
	case l.names[name]:
		l.bad(name, t.Name, "name is used twice")
	}
	l.names[name] = true
	if len(t.Match) == 0 {
		l.bad(name, t.Name, "match is missing; give a type, a prefix such as debug.* or *")
	}
	for _, m := range t.Match {
		r.patterns = append(r.patterns, l.pattern(name, m))
	}
	if t.When.string != "" {
		r.when = l.compile(name, t.When, true)
	}
	l.action(name, t, r)
	l.rules = append(l.rules, r)
}

func isName(s string) bool {
	return len(s) <= MaxName && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

// action reads the one thing the rule does.
func (l *loader) action(name string, t *ruleText, r *rule) {
	sets := t.Set.whole != nil || t.Set.list != nil
	n := 0
	for _, given := range []bool{t.Drop, sets, t.Derive != nil} {
		if given {
			n++
		}
	}
	switch {
	case n != 1:
		l.bad(name, t.Name, "does %d things; give exactly one of drop, set and derive", n)
	case t.Drop:
		r.drop = true
	case t.Set.whole != nil:
		l.bad(name, *t.Set.whole, "set must be a mapping of member names to expressions")
	case sets:
		r.set = l.members(name, t.Set.list, true)
	default:
		l.derive(name, t, r)
	}
}

func (l *loader) derive(name string, t *ruleText, r *rule) {
	d := &derivation{typ: t.Derive.Type.string}
	if err := checkType(d.typ); err != nil {
		at := t.Derive.Type
		if at.line == 0 {
			at = t.Name
		}
		l.bad(name, at, "derive: type %v", err)
	}
	if t.Derive.UserID.string != "" {
		d.userID = l.compile(name, t.Derive.UserID, false)
	}
	if t.Derive.Data.whole != nil {
		d.whole = l.compile(name, *t.Derive.Data.whole, false)
	}
	d.data = l.members(name, t.Derive.Data.list, false)
	r.derive = d
}

// checkType lets package event judge a derived event's type.
func checkType(typ string) error {
	_, err := event.Parse(append(event.AppendString([]byte(`{"type":`), typ), '}'))
	for _, f := range fault.FieldsOf(err) {
		return errors.New(f.Reason)
	}
	return err
}

// members compiles the values. Members of the event itself may not take a name that
// eventspine sets or routes by.
func (l *loader) members(name string, list []memberText, top bool) []member {
	var out []member
	seen := map[string]bool{}
	for _, m := range list {
		switch {
		case seen[m.name.string]:
			l.bad(name, m.name, "%s is set twice", m.name.string)
		case m.name.string == "":
			l.bad(name, m.name, "a member needs a name")
		case top && protected(m.name.string):
			l.bad(name, m.name, "%s cannot be set by a rule", m.name.string)
		}
		seen[m.name.string] = true
		out = append(out, member{name: m.name.string, value: l.compile(name, m.value, false)})
	}
	return out
}

func protected(name string) bool {
	return slices.Contains([]string{"id", "type", "userId", "timestamp", "source", "user", "processed", "processedAt",
		"latencyMs", "partition", "seq", "prev", "epoch", "redelivered"}, name)
}

// pattern checks one entry of match.
func (l *loader) pattern(name string, t text) pattern {
	if t.string == "*" {
		return pattern{all: true}
	}
	prefix, isPrefix := strings.CutSuffix(t.string, ".*")
	if err := checkType(prefix); err != nil {
		l.bad(name, t, "match %q is not a type, a prefix such as debug.*, or *", t.string)
	}
	category, _, _ := strings.Cut(prefix, ".")
	if isPrefix {
		prefix += "."
	}
	return pattern{text: prefix, prefix: isPrefix, category: category}
}

// index sorts the rules by the category of the types they match, so that an event looks at
// its own category's rules only, in the order of the file.
func (l *loader) index() *Set {
	s := &Set{byCategory: map[string][]*rule{}, names: make([]string, 0, len(l.rules))}
	for _, r := range l.rules {
		s.names = append(s.names, r.name)
		for _, p := range r.patterns {
			s.byCategory[p.category] = nil
		}
	}
	delete(s.byCategory, "")
	for _, r := range l.rules {
		if r.matchesAll() {
			s.any = append(s.any, r)
		}
		for category, rules := range s.byCategory {
			if r.matchesCategory(category) {
				s.byCategory[category] = append(rules, r)
			}
		}
	}
	return s
}
