package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

const (
	window   = 20_000 // messages that a publisher is ahead of its slowest subscriber at most
	highMark = 50_000 // of the queues between them: nothing is dropped
	pushMark = 1_000  // of PUSH and PULL, the default of both
	modest   = 5_000  // messages a second where latency is measured
	many     = 20_000 // subscriptions on one connection
)

// measure is one exchange that both implementations do, and what is wanted of it.
type measure struct {
	Name  string
	how   shape
	role  role
	unit  string
	of    func(*outcome) float64
	goal  float64 // of ours / libzmq's
	less  bool    // less is better
	extra bool    // system calls are counted in one more run
	after bool    // is compared with the measure before it
}

func rate(o *outcome) float64 { return o.rate }
func p99(o *outcome) float64  { return float64(o.p99.Nanoseconds()) / 1e3 }

// measures lists what is measured; scale 1 takes each run about a second.
func measures(scale float64, keys string) []measure {
	push := func(size int) role {
		return role{Size: size, Count: 2_000_000, HWM: pushMark, Topics: 1, Subscribe: 1}
	}
	publish := func(size, topics, subscribe int) role {
		return role{Size: size, Count: 600_000, Window: window, HWM: highMark, Topics: topics, Subscribe: subscribe}
	}
	slow := func(size int, curve string) role {
		return role{Size: size, Count: modest * 2, Rate: modest, HWM: pushMark, Topics: 1, Subscribe: 1, Curve: curve}
	}
	sealed := func(size int) role { r := push(size); r.Count, r.Curve = 700_000, keys; return r }
	large := push(1024)
	large.Count = 1_000_000
	all := []measure{
		{Name: "PUSH→PULL 256 B", how: pushPull, role: push(256), unit: "msg/s", of: rate, goal: 0.9, extra: true},
		{Name: "PUSH→PULL 1 KiB", how: pushPull, role: large, unit: "msg/s", of: rate, goal: 0.9},
		{Name: "PUB→proxy→2 SUBs 256 B", how: forward, role: publish(256, 1, 1), unit: "msg/s", of: rate, goal: 1, extra: true},
		{Name: "PUB→proxy→2 SUBs 1 KiB", how: forward, role: publish(1024, 1, 1), unit: "msg/s", of: rate, goal: 1},
		{Name: "CURVE PUSH→PULL 256 B", how: pushPull, role: sealed(256), unit: "msg/s", of: rate, goal: 0.7, extra: true},
		{Name: "CURVE PUSH→PULL 1 KiB", how: pushPull, role: sealed(1024), unit: "msg/s", of: rate, goal: 0.7},
		{Name: "latency p99 256 B", how: pushPull, role: slow(256, ""), unit: "µs", of: p99, goal: 1.5, less: true, extra: true},
		{Name: "latency p99 1 KiB", how: pushPull, role: slow(1024, ""), unit: "µs", of: p99, goal: 1.5, less: true},
		{Name: "1 subscription", how: direct, role: publish(256, many, 1), unit: "msg/s", of: rate},
		{Name: "20,000 subscriptions", how: direct, role: publish(256, many, many), unit: "msg/s", of: rate, after: true},
	}
	for i := range all {
		r := &all[i].role
		r.Count = max(100, int(float64(r.Count)*scale))
	}
	return all
}

// row is a measure's figures: medians of all runs.
type row struct {
	Name        string             `json:"name"`
	Unit        string             `json:"unit"`
	Ours        float64            `json:"ours"`
	Libzmq      float64            `json:"libzmq"`
	Ratio       float64            `json:"ratio"` // median of the runs' ratios
	Goal        string             `json:"goal,omitempty"`
	Met         *bool              `json:"met,omitempty"`
	P50         [2]float64         `json:"p50Micros,omitzero"` // ours, libzmq's
	CPU         [2]float64         `json:"cpuMicros"`          // of all processes, a message
	Allocations map[string]float64 `json:"allocations"`        // ours, a message, beyond the body and its list of frames that the sender makes
	Calls       map[string]float64 `json:"systemCalls,omitempty"`
	LibzmqCalls map[string]float64 `json:"libzmqSystemCalls,omitempty"`
}

// bench is one run of everything.
type bench struct {
	dir     string
	sides   [2]*implementation // ours, libzmq
	repeats int
	log     io.Writer
}

// together runs the measures and both sides of each in turn, as the machine's speed changes with time.
func (b *bench) together(ctx context.Context, ms ...measure) (rows []*row, err error) {
	runs := make([][2][]*outcome, len(ms))
	for i := range b.repeats {
		for j, m := range ms {
			for k := range 2 {
				side := (i + k) % 2
				o, err := exchange(ctx, b.dir, b.sides[side], m.how, m.role, false)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", m.Name, err)
				}
				runs[j][side] = append(runs[j][side], o)
				_, _ = fmt.Fprintf(b.log, "%s, %s: %.0f %s\n", m.Name, b.sides[side].name, m.of(o), m.unit)
			}
		}
	}
	for j, m := range ms {
		r := m.row(runs[j])
		if m.extra && b.sides[0].counter.name != "" {
			if err := b.count(ctx, m, r); err != nil {
				return nil, err
			}
		}
		rows = append(rows, r)
	}
	if len(ms) == 2 {
		rows = append(rows, cost(ms, runs))
	}
	return rows, nil
}

// row is what the runs, ours and libzmq's, came to.
func (m measure) row(runs [2][]*outcome) *row {
	r := &row{Name: m.Name, Unit: m.unit, Ours: median(runs[0], m.of), Libzmq: median(runs[1], m.of),
		Allocations: runs[0][len(runs[0])-1].allocations}
	r.judge(medianRatio(runs[0], runs[1], m.of), m.goal, m.less)
	for side := range 2 {
		r.CPU[side] = median(runs[side], func(o *outcome) float64 { return float64(o.cpu.Nanoseconds()) / 1e3 })
		r.P50[side] = median(runs[side], func(o *outcome) float64 { return float64(o.p50.Nanoseconds()) / 1e3 })
	}
	return r
}

// count runs each side once more with its system calls counted.
func (b *bench) count(ctx context.Context, m measure, r *row) error {
	for side, into := range []*map[string]float64{&r.Calls, &r.LibzmqCalls} {
		o, err := exchange(ctx, b.dir, b.sides[side], m.how, m.role, true)
		if err != nil {
			return fmt.Errorf("%s, counting system calls: %w", m.Name, err)
		}
		*into = o.calls
	}
	return nil
}

func (r *row) judge(ratio, goal float64, less bool) {
	r.Ratio = ratio
	if goal == 0 {
		return
	}
	r.Goal = fmt.Sprintf("≥ %g", goal)
	met := ratio >= goal
	if less {
		r.Goal, met = fmt.Sprintf("≤ %g", goal), ratio <= goal
	}
	r.Met = &met
}

// cost is what the second measure leaves of the first one's rate, ours and libzmq's.
func cost(ms []measure, runs [][2][]*outcome) *row {
	r := &row{Name: ms[1].Name + " / " + ms[0].Name, Unit: "of its rate"}
	r.Ours, r.Libzmq = medianRatio(runs[1][0], runs[0][0], rate), medianRatio(runs[1][1], runs[0][1], rate)
	r.Ratio = r.Ours / r.Libzmq
	met := r.Ours >= 0.9
	r.Goal, r.Met = "ours ≥ 0.9", &met
	return r
}

// medianRatio is the median of the ratios of runs that followed each other.
func medianRatio(a, b []*outcome, of func(*outcome) float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = of(a[i]) / of(b[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

func median(runs []*outcome, of func(*outcome) float64) float64 {
	all := make([]float64, len(runs))
	for i, o := range runs {
		all[i] = of(o)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// table prints the rows for people.
func table(out io.Writer, rows []*row, counted string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) }
	line("measure", "unit", "ours", "libzmq", "ratio", "goal", "", "p50 µs", "CPU µs/msg", "allocations/msg")
	for _, r := range rows {
		met := ""
		if r.Met != nil && *r.Met {
			met = "met"
		} else if r.Met != nil {
			met = "MISSED"
		}
		line(r.Name, r.Unit, short(r.Ours), short(r.Libzmq), fmt.Sprintf("%.2f", r.Ratio), r.Goal, met, pair(r.P50), pair(r.CPU), byRole(r.Allocations))
	}
	for _, r := range rows {
		if r.Calls != nil {
			line("system calls/msg, "+r.Name, counted, byRole(r.Calls), byRole(r.LibzmqCalls))
		}
	}
	return w.Flush()
}

func short(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func pair(v [2]float64) string {
	if v == [2]float64{} {
		return ""
	}
	return fmt.Sprintf("%.1f / %.1f", v[0], v[1])
}

func byRole(m map[string]float64) string {
	var parts []string
	for name, v := range m {
		parts = append(parts, fmt.Sprintf("%s %.3f", name, v))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
