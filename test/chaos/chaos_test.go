package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/test/harness"
	"eventspine/test/netns"
)

// number is the value of a setting of the run.
func number(t *testing.T, name string, otherwise float64) float64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// build makes the programs, with clocks that can be set wrong where the plan wants that.
func build(t *testing.T, p Plan) string {
	t.Helper()
	dir, err := t.TempDir(), error(nil)
	if p.has(Ahead) || p.has(Back) {
		err = BuildSteppable(t.Context(), dir)
	} else {
		err = harness.Build(t.Context(), dir, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestChaos is `make chaos`: a plan of every kind of harm, or of CHAOS_KINDS. The seed is
// printed; CHAOS_SEED runs it again. The history is left in CHAOS_KEEP. With CHAOS_NETWORK it runs on
// machines with addresses of their own, between which packets vanish, or are late.
func TestChaos(t *testing.T) {
	if os.Getenv("CHAOS_SECONDS") == "" {
		t.Skip("make chaos runs it")
	}
	var kinds []Kind
	for _, k := range strings.FieldsFunc(os.Getenv("CHAOS_KINDS"), func(r rune) bool { return r == ',' || r == ' ' }) {
		kinds = append(kinds, Kind(k))
	}
	o := Options{Rate: number(t, "CHAOS_RATE", 1000), Users: int(number(t, "CHAOS_USERS", 300))}
	if os.Getenv("CHAOS_NETWORK") != "" {
		if len(kinds) == 0 {
			kinds = apartKinds()
		}
		if !netns.Rerun(t) {
			return
		}
		o.Apart = true
	}
	seed := uint64(number(t, "CHAOS_SEED", float64(time.Now().Unix())))
	length := time.Duration(number(t, "CHAOS_SECONDS", 120) * float64(time.Second))
	gap := time.Duration(number(t, "CHAOS_GAP", 8) * float64(time.Second))
	o.Plan = NewPlan(seed, length, gap, kinds...)
	verdict(t, o)
}

// apartKinds are all that a run in a network of its own can do.
func apartKinds() (all []Kind) {
	for _, f := range append(every(), packets()...) {
		if !slices.Contains(relayed, f.Kind) {
			all = append(all, f.Kind)
		}
	}
	return all
}

// short are plans of a few faults each, the same every time.
var short = map[string]Plan{
	"nothing is lost": {Length: 40 * time.Second, Faults: []Fault{
		{2 * time.Second, 2 * time.Second, Drop, []string{linkSub}},
		{6 * time.Second, time.Second, Kill, []string{"worker-1"}},
		{10 * time.Second, time.Second, Kill, []string{"api-1"}},
		{14 * time.Second, time.Second, Burst, []string{"proxy-1"}},
		{18 * time.Second, 2 * time.Second, Stop, []string{"worker-2"}},
		{22 * time.Second, time.Second, Kill, []string{"indexer-1", "bridge-1"}},
		{27 * time.Second, time.Second, Redis, nil},
		{32 * time.Second, 2 * time.Second, Cut, []string{linkSearch}},
	}},
	"Redis loses everything": {Length: 15 * time.Second, Faults: []Fault{
		{4 * time.Second, 0, Flush, nil},
		{8 * time.Second, time.Second, Kill, []string{"worker-1", "worker-2"}},
	}},
}

// TestShortPlans is the part of chaos that every run of the tests has.
func TestShortPlans(t *testing.T) {
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
		t.Skip("needs redis-server and Elasticsearch; make test runs it")
	}
	for name, p := range short {
		t.Run(name, func(t *testing.T) { verdict(t, Options{Plan: p, Rate: 300, Users: 60}) })
	}
}

// apart is the short plan of a run on machines of its own.
var apart = Plan{Length: 20 * time.Second, Faults: []Fault{
	{2 * time.Second, 2 * time.Second, Hole, []string{"processing"}},
	{6 * time.Second, 2 * time.Second, Late, []string{"delivery"}},
	{10 * time.Second, time.Second, Kill, []string{"worker-2"}},
	{13 * time.Second, 2 * time.Second, Lossy, []string{"outside"}},
	{17 * time.Second, time.Second, Hole, []string{linkSub}},
}}

// TestMachinesApart: each on its own address, with what vanishes and is late between them.
func TestMachinesApart(t *testing.T) {
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") == "" {
		t.Skip("needs redis-server and Elasticsearch; make test runs it")
	}
	if !netns.Rerun(t) {
		return
	}
	switch n, err := netns.NewNet(t.Context(), machines[0].host); {
	case fault.KindOf(err) == fault.Unavailable && err != nil:
		t.Skip(err) // no /dev/net/tun
	case err != nil:
		t.Fatal(err)
	default:
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		verdict(t, Options{Plan: apart, Rate: 300, Users: 60, Apart: true})
	}
}

// TestAHarmThatCannotBeDone: a plan that wants it ends the run, with a word about what is missing.
func TestAHarmThatCannotBeDone(t *testing.T) {
	for _, f := range []Fault{{Kind: Hole, Targets: []string{linkSub}}, {Kind: Drop, Targets: []string{linkSub}}, {Kind: Cut, Targets: []string{"nowhere"}}} {
		if err := (&world{}).do(t.Context(), f, nil); err == nil || !strings.Contains(err.Error(), string(f.Kind)) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// verdict runs a plan and fails the test for what the checker finds.
func verdict(t *testing.T, o Options) {
	t.Helper()
	o.ES = os.Getenv("EVENTSPINE_TEST_ES")
	if o.ES == "" && !o.Plan.has(Search) && !o.Apart {
		t.Fatal("EVENTSPINE_TEST_ES is empty; make chaos starts an Elasticsearch and sets it")
	}
	o.Bin, o.Dir = build(t, o.Plan), t.TempDir()
	began := time.Now()
	o.Say = func(s string) { fmt.Printf("chaos %5.0f s  %s\n", time.Since(began).Seconds(), s) }
	o.Say(o.Plan.String())
	ctx, cancel := context.WithTimeout(t.Context(), o.Plan.Length+5*time.Minute)
	defer cancel()
	out, err := Run(ctx, o)
	keep(t, o, out)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %.0f events/s, all in place %.1f s after the load\n%s\n%s\n%s", o.Plan.Seed, out.Rate, out.Seconds, out.Notes, out.Verdict, out.Verify)
	if !out.Verdict.Good() || !out.Agrees {
		t.Errorf("seed %d: promises were broken", o.Plan.Seed)
	}
}

// keep copies the history and the logs to CHAOS_KEEP.
func keep(t *testing.T, o Options, out Outcome) {
	t.Helper()
	dir := os.Getenv("CHAOS_KEEP")
	if dir == "" || out.History == nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(o.Dir, "*.log")) // the pattern is good
	for _, name := range logs {
		if text, err := os.ReadFile(name); err == nil {
			_ = os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o600)
		}
	}
	f, err := os.Create(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := out.History.Write(f); err != nil {
		t.Fatal(err)
	}
}
