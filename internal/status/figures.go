package status

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const prefix = "eventspine_"

// queueWords are the words by which a gauge tells that it measures something that waits.
var queueWords = [...]string{"_queued_", "_waiting_", "_spool", "_lag_", "_unsent_"}

// figures reads queue depths and rates from a registry. Safe for concurrent use.
type figures struct {
	from prometheus.Gatherer

	mu       sync.Mutex
	old, now sample // the last two; the rates are counted from the older one
}

type sample struct {
	at       time.Time
	counters map[string]float64
}

func newFigures(from prometheus.Gatherer) *figures { return &figures{from: from} }

// watch samples the counters until ctx ends, so that there are rates.
func (f *figures) watch(ctx context.Context) error {
	clock := time.NewTicker(sampleEvery)
	defer clock.Stop()
	for {
		if counters, _, err := f.gather(); err == nil { // what cannot be gathered is told when it is asked for
			f.mu.Lock()
			f.old, f.now = f.now, sample{time.Now(), counters}
			f.mu.Unlock()
		}
		select {
		case <-clock.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// read gives what waits now, and the counters' growth per second. A counter that was reset or
// is new counts from zero.
func (f *figures) read() (queues, rates map[string]float64, err error) {
	counters, queues, err := f.gather()
	if err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	from := f.old
	if from.at.IsZero() {
		from = f.now
	}
	f.mu.Unlock()
	rates = map[string]float64{}
	took := time.Since(from.at).Seconds()
	if from.at.IsZero() || took <= 0 {
		return queues, rates, nil
	}
	for name, value := range counters {
		before := from.counters[name]
		if before > value {
			before = 0
		}
		rates[name] = (value - before) / took
	}
	return queues, rates, nil
}

// gather sums each figure of ours over its labels.
func (f *figures) gather() (counters, queues map[string]float64, err error) {
	counters, queues = map[string]float64{}, map[string]float64{}
	if f.from == nil {
		return counters, queues, nil
	}
	families, err := f.from.Gather()
	if err != nil {
		return nil, nil, err
	}
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), prefix)
		if !ours {
			continue
		}
		for _, m := range family.GetMetric() {
			if c := m.GetCounter(); c != nil {
				counters[strings.TrimSuffix(name, "_total")] += c.GetValue()
			}
			if g := m.GetGauge(); g != nil && measuresQueue(name) {
				queues[strings.TrimSuffix(name, "_count")] += g.GetValue()
			}
		}
	}
	return counters, queues, nil
}

func measuresQueue(name string) bool {
	for _, w := range queueWords {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}
