package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// result is what a run measured. Latencies are in milliseconds.
type result struct {
	Options options  `json:"options"`
	Steady  *figures `json:"steady"`
	Burst   *figures `json:"burst,omitempty"`
}

type figures struct {
	Sent              int       `json:"sent"`
	Accepted          int64     `json:"accepted"`
	Pushback          int64     `json:"pushback"`
	Received          int64     `json:"received"`
	Repeated          int64     `json:"repeated"`
	Indexed           int64     `json:"indexed"`
	AcceptedPerSecond float64   `json:"acceptedPerSecond"`
	ReceivedPerSecond float64   `json:"receivedPerSecond"`
	IndexedPerSecond  float64   `json:"indexedPerSecond"`
	IndexSeconds      float64   `json:"indexSeconds"`
	P50               float64   `json:"p50"`
	P95               float64   `json:"p95"`
	P99               float64   `json:"p99"`
	P999              float64   `json:"p999"`
	Max               float64   `json:"max"`
	Processes         []process `json:"processes"`
	Machine           machine   `json:"machine"`
}

// process is what one process used during a part.
type process struct {
	Name  string  `json:"name"`
	CPU   float64 `json:"cpu"` // share of one core
	RSSMB float64 `json:"rssMB"`
}

func (p *part) figures(sending time.Duration) *figures {
	f := &figures{
		Sent:              len(p.seen),
		Accepted:          p.accepted.Load(),
		Pushback:          p.pushback.Load(),
		Received:          p.received.Load(),
		Repeated:          p.repeated.Load(),
		AcceptedPerSecond: float64(p.accepted.Load()) / sending.Seconds(),
	}
	if last := time.Duration(p.lastGot.Load()); last > 0 {
		f.ReceivedPerSecond = float64(f.Received) / last.Seconds()
	}
	var got []int64
	for n := range p.seen {
		if p.seen[n].Load() {
			got = append(got, p.latencies[n])
		}
	}
	slices.Sort(got)
	f.P50, f.P95, f.P99, f.P999, f.Max = quantile(got, 0.5), quantile(got, 0.95), quantile(got, 0.99), quantile(got, 0.999), quantile(got, 1)
	return f
}

// quantile of sorted nanoseconds, in milliseconds.
func quantile(sorted []int64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1))]) / 1e6
}

func (r *result) lost() bool {
	for _, f := range []*figures{r.Steady, r.Burst} {
		if f != nil && (f.Received != f.Accepted || f.Indexed != f.Accepted || f.Repeated > 0 || f.Accepted != int64(f.Sent)) {
			return true
		}
	}
	return false
}

func (r *result) table(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "part\tsent\taccepted/s\tin browser\tin index\tindexed/s\tp50 ms\tp95 ms\tp99 ms\tp99.9 ms\tmax ms\t503s\trepeats\t")
	for _, p := range []struct {
		name string
		f    *figures
	}{{"steady", r.Steady}, {"burst", r.Burst}} {
		if f := p.f; f != nil {
			_, _ = fmt.Fprintf(t, "%s\t%d\t%.0f\t%d\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t\n", p.name, f.Sent, f.AcceptedPerSecond,
				f.Received, f.Indexed, f.IndexedPerSecond, f.P50, f.P95, f.P99, f.P999, f.Max, f.Pushback, f.Repeated)
		}
	}
	_, _ = fmt.Fprintln(t, "\t")
	_, _ = fmt.Fprintln(t, "process\tCPU (steady)\tRSS MB\t")
	for _, p := range r.Steady.Processes {
		_, _ = fmt.Fprintf(t, "%s\t%.0f %%\t%.0f\t\n", p.Name, 100*p.CPU, p.RSSMB)
	}
	_, _ = fmt.Fprintf(t, "\nsteady: %s\n", r.Steady.Machine)
	return t.Flush()
}

// usage is a process's CPU time so far.
type usage struct {
	name string
	pid  int
	cpu  time.Duration
	at   time.Time
}

func (l *load) usage() []usage {
	all := []usage{{name: "generator and clients", pid: os.Getpid()}}
	for _, p := range l.system.Processes() {
		all = append(all, usage{name: p.Name, pid: p.PID()})
	}
	for i := range all {
		all[i].cpu, all[i].at = cpuTime(all[i].pid), time.Now()
	}
	return all
}

func (l *load) since(before []usage) []process {
	var out []process
	for _, u := range before {
		used := cpuTime(u.pid) - u.cpu
		out = append(out, process{u.name, used.Seconds() / time.Since(u.at).Seconds(), rssMB(u.pid)})
	}
	return out
}

// cpuTime reads the user and system time of a process; clock ticks are 1/100 s on Linux.
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	after := string(text[strings.LastIndexByte(string(text), ')')+1:])
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func rssMB(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			return kb / 1024
		}
	}
	return 0
}
