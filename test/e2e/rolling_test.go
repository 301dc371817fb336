package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"eventspine/test/chaos"
)

// TestRollingRestart restarts each of the processes under load by SIGTERM, at a moment that chance
// chooses, and half of them once more while they start: each ends with code 0, and at the end every
// accepted event is in the index once and was in its user's browser, none live twice, all in order.
func TestRollingRestart(t *testing.T) {
	seed := rand.Uint64N(1_000_000)
	r := rand.New(rand.NewPCG(seed, 0))
	plan := chaos.Plan{Seed: seed, Length: 26 * time.Second}
	at := 500 * time.Millisecond
	processes := []string{"api-1", "worker-1", "worker-2", "proxy-1", "indexer-1", "bridge-1"}
	r.Shuffle(len(processes), func(i, j int) { processes[i], processes[j] = processes[j], processes[i] })
	for i := range 2 * len(processes) {
		f := chaos.Fault{At: at, For: time.Duration(r.Int64N(int64(500 * time.Millisecond))), Kind: chaos.Restart, Targets: processes[i%6 : i%6+1]}
		if i%2 == i/6 { // in the second round those that were restarted once in the first
			f.Kind = chaos.Hurry
		}
		plan.Faults = append(plan.Faults, f)
		at += time.Second + time.Duration(r.Int64N(int64(1500*time.Millisecond)))
	}
	began := time.Now()
	out, err := chaos.Run(t.Context(), chaos.Options{Bin: bin, Dir: t.TempDir(), ES: realElasticsearch(t), Plan: plan, Rate: 300, Users: 40,
		Say: func(s string) { t.Logf("%5.1f s  %s", time.Since(began).Seconds(), s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all in place %.1f s after the load\n%s\n%s\n%s", out.Seconds, out.Notes, out.Verdict, out.Verify)
	if !out.Verdict.Good() || !out.Agrees {
		t.Errorf("seed %d: promises were broken", seed)
	}
	if n := out.Verdict.Figures[chaos.Accepted]; n < 2000 {
		t.Errorf("only %d events were accepted", n)
	}
	var connects int
	_, rest, _ := strings.Cut(out.Notes, "connects of browsers ")
	if _, err := fmt.Sscan(strings.Trim(strings.Fields(rest)[0], ","), &connects); err != nil || connects < 80 {
		t.Errorf("browsers connected %d times, %v: the bridge was not restarted under them", connects, err)
	}
}
