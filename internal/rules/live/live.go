// Package live makes a rule set from rules that are kept one by one, each a value of YAML
// under a key such as /rules/drop-debug. The rules are tried in the order of their names.
package live

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"eventspine/internal/fault"
	"eventspine/internal/rules"
)

// Subtree is where the rules are kept.
const Subtree = "/rules/"

// The wrapping around a rule, and by how much it moves what stands in it.
const (
	head         = "rules:\n"
	first, other = "  - ", "    "
	lines        = 1
	columns      = len(first)
)

// Check compiles one rule: YAML as of one item of a rules file, whose name is name. Errors are
// of kind Invalid and give the places as in the text.
func Check(name string, text []byte) error {
	set, err := rules.Parse(name, append([]byte(head), item(text)...))
	if err != nil {
		return moved(name, err)
	}
	if !slices.Equal(set.Names(), []string{name}) {
		return fault.Errorf("rule "+name, fault.Invalid, "the text must be one rule with `name: %s`; it has %s", name, strings.Join(set.Names(), ", "))
	}
	return nil
}

// item indents a rule's text to be one of a list.
func item(text []byte) []byte {
	var b bytes.Buffer
	for i, line := range strings.Split(strings.TrimRight(string(text), " \r\n"), "\n") {
		if i == 0 {
			b.WriteString(first)
		} else {
			b.WriteString(other)
		}
		b.WriteString(line + "\n")
	}
	return b.Bytes()
}

// moved takes the wrapping out of the places in an error.
func moved(name string, err error) error {
	fields := slices.Clone(fault.FieldsOf(err))
	for i, f := range fields {
		parts := strings.SplitN(strings.TrimPrefix(f.Name, name+":"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		line, e1 := strconv.Atoi(parts[0])
		column, e2 := strconv.Atoi(parts[1])
		if errors.Join(e1, e2) == nil {
			fields[i].Name = fmt.Sprintf("%s:%d:%d:%s", name, max(line-lines, 1), max(column-columns, 1), parts[2])
		}
	}
	if len(fields) == 0 {
		return err
	}
	return fault.BadFields("rule "+name, fields...)
}

// Compile makes one set of all rules, given by their keys. The error is of kind Invalid and
// tells of every rule that does not compile; then there is no set.
func Compile(values map[string][]byte) (*rules.Set, error) {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	all := []byte(head)
	var wrong []error
	for _, key := range keys {
		if err := Check(strings.TrimPrefix(key, Subtree), values[key]); err != nil {
			wrong = append(wrong, err)
			continue
		}
		all = append(all, item(values[key])...)
	}
	if len(wrong) > 0 {
		return nil, fault.E("compile rules", fault.Invalid, errors.Join(wrong...))
	}
	return rules.Parse("rules", all)
}
