package rules

import (
	"os"
	"strings"
	"testing"

	"eventspine/internal/event"
	"eventspine/internal/fault"
)

func mustParse(t *testing.T, src string) *Set {
	t.Helper()
	s, err := Parse("rules.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustEvent(t testing.TB, raw string) event.Event {
	t.Helper()
	e, err := event.Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

const order = `{"id":"o1","type":"order.created","userId":"ana","timestamp":5,"source":"shop","data":{"amount":1500,"big":12345678901234567,"buyer":77,"items":[{"sku":"a"},{"sku":"b"}]},"note":"as it came"}`

func TestTheExampleIsTheDefault(t *testing.T) {
	example, err := os.ReadFile("../../rules.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if string(example) != string(defaults) {
		t.Error("rules.example.yaml and the built-in rules differ")
	}
	s, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Apply(mustEvent(t, `{"id":"1","type":"debug.sql"}`), nil, false); got.Dropped != "drop-debug" {
		t.Errorf("debug.sql was not dropped: %+v", got)
	}
	got := s.Apply(mustEvent(t, order), nil, false)
	want := `{"id":"o1/order-notification","type":"notification.order","userId":"ana","timestamp":5,"source":"shop","data":{"orderId":"o1","amount":1500,"message":"Your order was received"}}`
	if len(got.Derived) != 1 || string(got.Derived[0].Raw) != want {
		t.Errorf("derived %+v, want %s", got.Derived, want)
	}
	if d := got.Derived[0]; d.ID != "o1/order-notification" || d.UserID != "ana" || d.Timestamp != 5 {
		t.Errorf("the derived event's fields are %+v", d)
	}
	if string(got.Event.Raw) != order {
		t.Error("the order itself changed")
	}
}

// What the comments of the example promise has to compile too.
func TestTheExamplesInCommentsWork(t *testing.T) {
	head, tail, _ := strings.Cut(string(defaults), "# More that rules can do:")
	var b strings.Builder
	b.WriteString(head)
	for line := range strings.Lines(tail) {
		b.WriteString(strings.Replace(line, "  # ", "  ", 1))
	}
	s := mustParse(t, b.String())
	got := s.Apply(mustEvent(t, `{"id":"o2","type":"order.created","userId":"ana","timestamp":5,"data":{"amount":1000,"seller":"bo"}}`), []byte(`{"name":"Ana"}`), false)
	if len(got.Failures) > 0 || len(got.Derived) != 2 || string(got.Derived[1].Raw) !=
		`{"id":"o2/tell-the-seller","type":"notification.sale","userId":"bo","timestamp":5,"data":{"buyer":"Ana","order":"o2"}}` {
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(string(got.Event.Raw), `"priority":"high"`) {
		t.Errorf("large-orders set nothing: %s", got.Event.Raw)
	}
}

func TestDrop(t *testing.T) {
	s := mustParse(t, `
rules:
  - {name: exact, match: a.b, drop: true}
  - {name: prefix, match: debug.*, drop: true}
  - {name: several, match: [x, y.*], drop: true}
  - {name: cond, match: "*", when: data?.level == "trace", drop: true}
  - {name: nothing, match: e.f, when: data.absent, drop: true}
  - {name: of-user, match: c.*, when: user?.muted == true, drop: true}
`)
	for _, c := range []struct{ typ, data, user, want string }{
		{"a.b", `1`, ``, "exact"},
		{"a.b.c", `1`, ``, ""},
		{"a", `1`, ``, ""},
		{"debug.x", `1`, ``, "prefix"},
		{"debug.x.y", `1`, ``, "prefix"},
		{"debug", `1`, ``, ""},
		{"debugger.x", `1`, ``, ""},
		{"x", `1`, ``, "several"},
		{"x.z", `{}`, ``, ""},
		{"y.z", `{}`, ``, "several"},
		{"z.z", `{"level":"trace"}`, ``, "cond"},
		{"z.z", `{"level":"info"}`, ``, ""},
		{"c.d", `{}`, `{"muted":true}`, "of-user"},
		{"c.d", `{}`, `{"muted":false}`, ""},
		{"c.d", `{}`, ``, ""},
		{"e.f", `{}`, ``, ""}, // a condition that gives nothing is false
	} {
		e := mustEvent(t, `{"id":"1","type":"`+c.typ+`","data":`+c.data+`}`)
		got := s.Apply(e, []byte(c.user), false)
		if got.Dropped != c.want {
			t.Errorf("%s data=%s user=%s: dropped by %q, want %q", c.typ, c.data, c.user, got.Dropped, c.want)
		}
		if string(got.Event.Raw) != string(e.Raw) {
			t.Errorf("%s: the event changed", c.typ)
		}
	}
}

func TestSet(t *testing.T) {
	for name, c := range map[string]struct{ rule, want string }{
		"constant":   {`{name: r, match: order.*, set: {priority: '"high"', n: 1}}`, `,"priority":"high","n":1}`},
		"computed":   {`{name: r, match: order.*, set: {total: data.amount * 2}}`, `,"total":3000}`},
		"big number": {`{name: r, match: order.*, set: {b: data.big}}`, `,"b":12345678901234567}`},
		"list":       {`{name: r, match: order.*, set: {skus: 'map(data.items, .sku)'}}`, `,"skus":["a","b"]}`},
		"nothing":    {`{name: r, match: order.*, set: {x: data.absent}}`, `,"x":null}`},
		"fraction":   {`{name: r, match: order.*, set: {x: data.amount / 1000}}`, `,"x":1.5}`},
		"object":     {`{name: r, match: order.*, set: {x: '{"z": 1, "a": true}'}}`, `,"x":{"a":true,"z":1}}`},
		"user":       {`{name: r, match: order.*, set: {x: user.name}}`, `,"x":"Ana \"A\""}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustParse(t, "rules: ["+c.rule+"]")
			e := mustEvent(t, order)
			got := s.Apply(e, []byte(`{"name":"Ana \"A\""}`), false)
			want := strings.TrimSuffix(order, "}") + c.want
			if string(got.Event.Raw) != want || len(got.Failures) > 0 {
				t.Errorf("got  %s %v\nwant %s", got.Event.Raw, got.Failures, want)
			}
			if string(e.Raw) != order {
				t.Error("the caller's bytes changed")
			}
		})
	}
	t.Run("replaces a member", func(t *testing.T) {
		s := mustParse(t, `rules: [{name: r, match: "*", set: {note: '"new"', data: '{"amount": data.amount}'}}, {name: s, match: "*", set: {seen: data}}]`)
		got := s.Apply(mustEvent(t, order), nil, false)
		want := `{"id":"o1","type":"order.created","userId":"ana","timestamp":5,"source":"shop","note":"new","data":{"amount":1500},"seen":{"amount":1500}}`
		if string(got.Event.Raw) != want {
			t.Errorf("got  %s\nwant %s", got.Event.Raw, want)
		}
	})
}

func TestDerive(t *testing.T) {
	long := strings.Repeat("x", event.MaxID)
	for name, c := range map[string]struct{ rule, id, want string }{
		"same user, no data": {`derive: {type: notification.a}`, "o1", `{"id":"o1/r","type":"notification.a","userId":"ana","timestamp":5,"source":"shop"}`},
		"number as user":     {`derive: {type: notification.a, userId: data.buyer}`, "o1", `{"id":"o1/r","type":"notification.a","userId":"77","timestamp":5,"source":"shop"}`},
		"nobody":             {`derive: {type: audit.a, userId: '""'}`, "o1", `{"id":"o1/r","type":"audit.a","timestamp":5,"source":"shop"}`},
		"whole data":         {`derive: {type: alert.a, data: data.items}`, "o1", `{"id":"o1/r","type":"alert.a","userId":"ana","timestamp":5,"source":"shop","data":[{"sku":"a"},{"sku":"b"}]}`},
		"members in order":   {`derive: {type: alert.a, data: {z: id, a: timestamp}}`, "o1", `{"id":"o1/r","type":"alert.a","userId":"ana","timestamp":5,"source":"shop","data":{"z":"o1","a":5}}`},
		"long parent id": {`derive: {type: alert.a}`, long,
			`{"id":"7c8975e1e60a5c8337f28edf8c33c3b1/r","type":"alert.a","userId":"ana","timestamp":5,"source":"shop"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustParse(t, "rules: [{name: r, match: order.created, "+c.rule+"}]")
			e := mustEvent(t, strings.Replace(order, `"o1"`, `"`+c.id+`"`, 1))
			got := s.Apply(e, nil, false)
			if len(got.Derived) != 1 || len(got.Failures) > 0 {
				t.Fatalf("got %+v", got)
			}
			d := got.Derived[0]
			if name == "long parent id" {
				again := s.Apply(e, nil, false).Derived[0]
				if d.ID != again.ID || len(d.ID) != 34 {
					t.Errorf("id %q, then %q", d.ID, again.ID)
				}
				return
			}
			if string(d.Raw) != c.want {
				t.Errorf("got  %s\nwant %s", d.Raw, c.want)
			}
		})
	}
	t.Run("not from a derived event", func(t *testing.T) {
		s := mustParse(t, `rules: [{name: loop, match: "*", derive: {type: a.b}}, {name: mark, match: "*", set: {m: 1}}]`)
		got := s.Apply(mustEvent(t, order), nil, true)
		if len(got.Derived) != 0 || !strings.HasSuffix(string(got.Event.Raw), `,"m":1}`) {
			t.Errorf("got %+v", got)
		}
	})
}

// A rule that fails does nothing, and the rules below it still run.
func TestFailuresChangeNothing(t *testing.T) {
	for name, c := range map[string]struct{ rule, reason string }{
		"absent number":      {`when: data.absent > 1, drop: true`, "invalid operation"},
		"not a boolean":      {`when: data.amount, drop: true`, "bool(int)"},
		"into nothing":       {`set: {x: data.absent.y}`, "x: "},
		"no user":            {`set: {x: user.name}`, "x: "},
		"not JSON":           {`set: {x: 'duration("1h")', y: 'filter'}`, ""},
		"not finite":         {`set: {x: data.amount / 0}`, "cannot be written as JSON"},
		"user is no string":  {`derive: {type: a.b, userId: data.items}`, "a string is needed"},
		"user is too long":   {`derive: {type: a.b, userId: 'repeat("u", 200)'}`, "not valid"},
		"derived too large":  {`derive: {type: a.b, data: 'repeat("u", 249999)+repeat("u", 20000)'}`, "memory budget"},
		"set too large":      {`set: {x: 'repeat("u", 200000)', y: 'repeat("u", 200000)'}`, "at most 262144"},
		"too much made":      {`set: {x: 'repeat("u", 2000000)'}`, "memory budget exceeded"},
		"loops in loops":     {`when: 'sum(1..1000, count(1..1000, true)) == 5', drop: true`, "memory budget exceeded"},
		"in within a loop":   {`when: 'count(1..1000, # in data.wide) > 0', drop: true`, "memory budget exceeded"},
		"data loops in loop": {`when: 'sum(data.wide, count(data.wide, true)) == 5', drop: true`, "memory budget exceeded"},
		"negative repeat":    {`set: {x: 'repeat("u", -1)'}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "not JSON" {
				c.rule = `set: {x: '{"f": data}', y: 'data.absent.z'}`
			}
			s := mustParse(t, `rules: [{name: r, match: "*", `+c.rule+`}, {name: after, match: "*", set: {after: 1}}]`)
			raw := strings.Replace(order, `"amount"`, `"wide":[`+strings.Repeat("0,", 999)+`0],"amount"`, 1)
			got := s.Apply(mustEvent(t, raw), nil, false)
			if len(got.Failures) != 1 || got.Failures[0].Rule != "r" || !strings.Contains(got.Failures[0].Err.Error(), c.reason) {
				t.Fatalf("failures %+v, want one of rule r with %q", got.Failures, c.reason)
			}
			if got.Dropped != "" || len(got.Derived) > 0 || string(got.Event.Raw) != strings.TrimSuffix(raw, "}")+`,"after":1}` {
				t.Errorf("the failing rule did something: %.200s", got.Event.Raw)
			}
		})
	}
}

// Every mistake of a file comes at once, with file, line, column and rule.
func TestMistakesAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		src  string
		want []string
	}{
		"not yaml":       {"rules: [", []string{"r.yaml:1:", "sequence"}},
		"unknown key":    {"rules:\n  - name: a\n    match: b\n    drop: true\n    colour: red\n", []string{`r.yaml:5:5: unknown field "colour"`}},
		"unknown on top": {"rule: []\n", []string{`r.yaml:1:1: unknown field "rule"`}},
		"wrong shape":    {"rules: {a: b}\n", []string{"r.yaml:1:"}},
		"key twice":      {"rules:\n  - name: a\n    name: b\n", []string{"r.yaml:3:5: "}},
		"drop is text":   {"rules:\n  - name: a\n    match: b\n    drop: perhaps\n", []string{"r.yaml:4:11:"}},
		"list as name":   {"rules:\n  - name: [a]\n", []string{"r.yaml:2:11:"}},
		"many at once": {"rules:\n  - match: b\n  - name: x y\n    match: _no\n    drop: true\n    set: {a: 1}\n  - name: x y\n    when: 1\n",
			[]string{"rule number 1: name is missing", "r.yaml:3:11: rule x y: name must be", "r.yaml:4:12: rule x y: match \"_no\"",
				"does 2 things", "name must be", "match is missing", "does 0 things", "r.yaml:8:11: rule x y: "}},
		"name twice":      {"rules:\n  - {name: a, match: b, drop: true}\n  - {name: a, match: b, drop: true}\n", []string{"r.yaml:3:12: rule a: name is used twice"}},
		"unknown name":    {"rules:\n  - name: a\n    match: b\n    drop: true\n    when: userId == \"x\" && usr.name == 1\n", []string{"r.yaml:5:28: rule a: unknown name usr"}},
		"in quotes":       {"rules:\n  - name: a\n    match: b\n    drop: true\n    when: 'usr == 1'\n", []string{"r.yaml:5:12: rule a: unknown name usr"}},
		"in a block":      {"rules:\n  - name: a\n    match: b\n    drop: true\n    when: |\n      true &&\n        usr == 1\n", []string{"r.yaml:7:9: rule a: unknown name usr"}},
		"wrong types":     {"rules:\n  - name: a\n    match: b\n    drop: true\n    when: userId > 3\n", []string{"r.yaml:5:18: rule a: invalid operation: > (mismatched types string and int)"}},
		"not a condition": {"rules:\n  - name: a\n    match: b\n    drop: true\n    when: userId\n", []string{"rule a: expected bool, but got string"}},
		"no syntax":       {"rules:\n  - name: a\n    match: b\n    set: {x: 1 +}\n", []string{"rule a: unexpected token EOF"}},
		"clock":           {"rules:\n  - name: a\n    match: b\n    set: {x: now()}\n", []string{"r.yaml:4:14: rule a: unknown name now"}},
		"protected":       {"rules:\n  - name: a\n    match: b\n    set: {seq: 1, userId: id}\n", []string{"r.yaml:4:11: rule a: seq cannot be set", "userId cannot be set"}},
		"set of one":      {"rules:\n  - name: a\n    match: b\n    set: data\n", []string{"r.yaml:4:10: rule a: set must be a mapping"}},
		"pattern inside":  {"rules:\n  - {name: a, match: a.*.b, drop: true}\n  - {name: c, match: a*, drop: true}\n", []string{`match "a.*.b" is not`, `match "a*" is not`}},
		"derived type":    {"rules:\n  - name: a\n    match: b\n    derive: {type: _ack.x}\n", []string{"r.yaml:4:20: rule a: derive: type must not begin with _"}},
		"no derived type": {"rules:\n  - name: a\n    match: b\n    derive: {data: 1}\n", []string{"r.yaml:2:11: rule a: derive: type"}},
		"too big":         {"rules: []\n#" + strings.Repeat("x", MaxFile), []string{"at most 1048576"}},
		"too many nodes":  {"rules:\n  - name: a\n    match: b\n    when: 1" + strings.Repeat(" + 1", 2000) + " > 1\n    drop: true\n", []string{"rule a: compilation failed: expression exceeds maximum allowed nodes"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("r.yaml", []byte(c.src))
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("error %v, want one of kind invalid", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error is\n%v\nand does not say %q", err, want)
				}
			}
		})
	}
	if _, err := Load("no-such-file.yaml"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a missing file gave %v", err)
	}
}

func TestEmptyFilesAreNoRules(t *testing.T) {
	for _, src := range []string{"", "rules: []", "rules:", "# nothing\n"} {
		s := mustParse(t, src)
		if len(s.Names()) != 0 || s.Matches("debug.x") {
			t.Errorf("%q gave rules", src)
		}
	}
}

func TestMatches(t *testing.T) {
	s := mustParse(t, `rules: [{name: a, match: a.b, drop: true}, {name: b, match: c.*, drop: true}]`)
	for typ, want := range map[string]bool{"a.b": true, "a": false, "a.b.c": false, "c.x": true, "c": false, "d": false} {
		if s.Matches(typ) != want {
			t.Errorf("%s: %v, want %v", typ, !want, want)
		}
	}
	if all := mustParse(t, `rules: [{name: a, match: "*", drop: true}]`); !all.Matches("anything.at.all") {
		t.Error("* does not match all")
	}
	if n := testing.AllocsPerRun(100, func() { s.Matches("notification.order") }); n > 0 {
		t.Errorf("asking costs %v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(string(defaults))
	f.Add("rules: [{name: a, match: '*', when: data.x in user.y, set: {b: 'map(data, #)'}}]")
	f.Add("rules: [{name: a, match: [a, b.*], derive: {type: a.b, userId: id, data: {a: 1}}}]")
	f.Add("rules:\n  - &r\n    name: a\n    match: b\n    when: |\n      usr\n  - *r\n")
	f.Add("a: &a [*a]")
	f.Add("#000000000000\nrules: ! ") // the YAML library panics on it
	f.Add("rules: [{name: !!int 3, match: ~, set: {? [a] : b}}]")
	e := mustEvent(f, order)
	f.Fuzz(func(t *testing.T, src string) {
		s, err := Parse("r.yaml", []byte(src))
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("kind %v of %v", fault.KindOf(err), err)
			}
			return
		}
		got := s.Apply(e, []byte(`{"name":"x"}`), false)
		if _, err := event.Parse(got.Event.Raw); err != nil {
			t.Fatalf("the rules broke the event: %v", err)
		}
		for _, d := range got.Derived {
			if _, err := event.Parse(d.Raw); err != nil || d.ID == "" {
				t.Fatalf("derived %s: %v", d.Raw, err)
			}
		}
	})
}

func FuzzApply(f *testing.F) {
	s, err := Parse("r.yaml", []byte(`
rules:
  - {name: a, match: "*", when: data?.a > 1, drop: true}
  - {name: b, match: "*", set: {note: 'toJSON(data)', x: data}}
  - {name: c, match: "*", derive: {type: n.c, userId: data?.u ?? userId, data: data}}
`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(order)
	f.Add(`{"id":"a","type":"b","data":[1e400,-0,1.5,"\u00e9",null,{"a":{}}],"x":1}`)
	f.Fuzz(func(t *testing.T, raw string) {
		e, err := event.Parse([]byte(raw))
		if err != nil || e.ID == "" || e.Timestamp == 0 {
			return
		}
		got := s.Apply(e, nil, false)
		if _, err := event.Parse(got.Event.Raw); err != nil {
			t.Fatalf("the rules broke the event: %v", err)
		}
	})
}

func BenchmarkApply(b *testing.B) {
	s, err := Default()
	if err != nil {
		b.Fatal(err)
	}
	for name, raw := range map[string]string{
		"unmatched": `{"id":"1","type":"notification.chat","userId":"ana","timestamp":5,"data":{"text":"hi"}}`,
		"derives":   order,
	} {
		e := mustEvent(b, raw)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Apply(e, nil, false)
			}
		})
	}
}
