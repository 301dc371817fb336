package rules

import (
	"errors"
	"reflect"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	exprfile "github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
)

// Bounds of one expression.
const (
	maxNodes = 1000    // of the expression's syntax tree
	budget   = 250_000 // elements and characters one evaluation may visit in loops or make
)

// scope is what an expression sees. The types are what the checker checks against.
type scope struct {
	ID        string `expr:"id"`
	Type      string `expr:"type"`
	Category  string `expr:"category"`
	UserID    string `expr:"userId"`
	Timestamp int    `expr:"timestamp"`
	Source    string `expr:"source"`
	Data      any    `expr:"data"`
	User      any    `expr:"user"`

	visited int // elements that loops of this evaluation walked through
}

// expression is a compiled expression and what it reads beyond the routing fields.
type expression struct {
	program            *vm.Program
	readData, readUser bool
}

// run evaluates the expression. The machine is reused between runs, by one goroutine.
func (x *expression) run(m *vm.VM, s *scope) (any, error) {
	s.visited = 0
	out, err := m.Run(x.program, s)
	if err != nil {
		return nil, short(err)
	}
	return out, nil
}

// short leaves out the picture of the source that the library's errors carry.
func short(err error) error {
	var e *exprfile.Error
	if errors.As(err, &e) {
		return errors.New(e.Message)
	}
	return err
}

// compile checks and compiles one expression of the file; a mistake is collected with its
// place. A condition must be a boolean as far as the checker can know.
func (l *loader) compile(rule string, t text, condition bool) *expression {
	x := &expression{}
	options := []expr.Option{
		expr.Env(&scope{}),
		expr.MaxNodes(maxNodes),
		expr.DisableBuiltin("now"),  // a repeat must give the same event again
		expr.DisableBuiltin("uniq"), // quadratic
		expr.Patch(uses{x}),
		expr.Patch(metered{}),
		expr.Function(meterName, visit, func(any, any) any { return nil }),
	}
	if condition {
		options = append(options, expr.AsBool())
	}
	program, err := expr.Compile(t.string, options...)
	if err != nil {
		at, message := t, err.Error()
		var e *exprfile.Error
		if errors.As(err, &e) {
			at, message = t.at(e), e.Message
		}
		l.bad(rule, at, "%s", message)
		return x
	}
	x.program = program
	return x
}

// at is the place in the file of a place inside the expression.
func (t text) at(e *exprfile.Error) text {
	if e.Line > 1 && !t.block {
		return t // lines were folded: only the beginning is known
	}
	if e.Line > 1 {
		t.line += e.Line - 1
	}
	t.column += e.Column
	return t
}

// uses notes which of the costly parts of the event an expression reads.
type uses struct{ x *expression }

// Visit looks at one node of the syntax tree.
func (u uses) Visit(n *ast.Node) {
	id, ok := (*n).(*ast.IdentifierNode)
	if !ok {
		return
	}
	u.x.readData = u.x.readData || id.Value == "data" || id.Value == "$env"
	u.x.readUser = u.x.readUser || id.Value == "user" || id.Value == "$env"
}

const meterName = "__visit"

// metered wraps each collection that a loop or the in operator walks through in a call that
// charges its length to the evaluation's budget, so that loops in loops end.
type metered struct{}

// Visit looks at one node of the syntax tree.
func (metered) Visit(n *ast.Node) {
	switch v := (*n).(type) {
	case *ast.BuiltinNode:
		if len(v.Arguments) > 1 && isPredicate(v.Arguments[1]) {
			v.Arguments[0] = charge(v.Arguments[0])
		}
	case *ast.BinaryNode:
		if _, constant := v.Right.(*ast.ArrayNode); v.Operator == "in" && !constant {
			v.Right = charge(v.Right)
		}
	}
}

func isPredicate(n ast.Node) bool { _, ok := n.(*ast.PredicateNode); return ok }

func charge(n ast.Node) ast.Node {
	if call, ok := n.(*ast.CallNode); ok {
		if id, ok := call.Callee.(*ast.IdentifierNode); ok && id.Value == meterName {
			return n // visitors run more than once
		}
	}
	out := &ast.CallNode{
		Callee:    &ast.IdentifierNode{Value: meterName},
		Arguments: []ast.Node{n, &ast.IdentifierNode{Value: "$env"}},
	}
	out.SetLocation(n.Location())
	return out
}

var errBudget = errors.New("memory budget exceeded")

// visit is what metered puts around a collection: it gives it back, or ends the evaluation.
func visit(args ...any) (any, error) {
	s, ok := args[1].(*scope)
	if !ok {
		return nil, errBudget
	}
	s.visited++
	switch v := reflect.ValueOf(args[0]); v.Kind() {
	case reflect.Slice, reflect.Array, reflect.String:
		s.visited += v.Len()
	}
	if s.visited > budget {
		return nil, errBudget
	}
	return args[0], nil
}
