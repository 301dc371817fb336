package live

import (
	"slices"
	"strings"
	"testing"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const (
	drop  = "name: drop\nmatch: debug.*\ndrop: true\n"
	large = "name: large\nmatch: order.created\nwhen: |\n  (data?.amount ?? 0)\n    >= 1000\nset:\n  priority: '\"high\"'\n"
)

func TestOneRule(t *testing.T) {
	for _, c := range []struct{ name, rule, text, wrong string }{
		{"block", "drop", drop, ""},
		{"block scalar", "large", large, ""},
		{"flow", "x", "{name: x, match: '*', drop: true}", ""},
		{"comment above", "drop", "# why\n" + drop, ""},
		{"another name", "x", drop, "name: x"},
		{"no name", "x", "match: '*'\ndrop: true", "name is missing"},
		{"two rules", "drop", drop + "- " + "name: y\n  match: '*'\n  drop: true", "drop:"},
		{"a flow that ends early", "x", "{name: x, match: a, drop: true}, {name: y, match: b, drop: true}", "x:"},
		{"condition", "x", "name: x\nmatch: a\nwhen: nonsense\ndrop: true", "x:3:7: rule x:"},
		{"unknown member", "x", "name: x\nmatch: a\nfoo: 1\ndrop: true", "x:3:1:"},
		{"nothing", "x", "", "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Check(c.rule, []byte(c.text))
			if c.wrong == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("got %v, want %s", err, c.wrong)
			}
		})
	}
}

func TestRulesAreInTheOrderOfTheirNames(t *testing.T) {
	set, err := Compile(map[string][]byte{"/rules/large": []byte(large), "/rules/drop": []byte(drop), "/rules/20-x": []byte("{name: 20-x, match: '*', drop: true}")})
	if err != nil || !slices.Equal(set.Names(), []string{"20-x", "drop", "large"}) {
		t.Fatalf("%v", err)
	}
	e, err := event.Parse([]byte(`{"id":"1","type":"a.b"}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := set.Apply(e, nil, false); r.Dropped != "20-x" {
		t.Errorf("dropped by %q", r.Dropped)
	}
	if none, err := Compile(nil); err != nil || len(none.Names()) != 0 {
		t.Errorf("no rules: %v", err)
	}
}

func TestOneBadRuleMakesNoSet(t *testing.T) {
	set, err := Compile(map[string][]byte{"/rules/drop": []byte(drop), "/rules/a": []byte("x"), "/rules/b": []byte(drop)})
	if set != nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "rule b") {
		t.Errorf("got %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	for _, text := range []string{drop, large, "{name: x, match: '*', drop: true}", "a\n- b", "---\nname: x"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if Check("x", text) != nil {
			return
		}
		set, err := Compile(map[string][]byte{"/rules/x": text, "/rules/y": []byte("{name: y, match: a, drop: true}")})
		if err != nil || !slices.Equal(set.Names(), []string{"x", "y"}) {
			t.Fatalf("a rule that is good alone is not good beside another: %v", err)
		}
	})
}
