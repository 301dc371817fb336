package journal

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	stored, repeats, epochs, full, freed prometheus.Counter
}

// newMetrics registers the counters with r. Journals that share a registry share them; a nil
// r keeps them private.
func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "eventspine_journal_" + name, Help: help})
		if r == nil {
			return c
		}
		var there prometheus.AlreadyRegisteredError
		if err := r.Register(c); errors.As(err, &there) {
			if same, ok := there.ExistingCollector.(prometheus.Counter); ok {
				return same
			}
		}
		return c
	}
	return &metrics{
		stored:  counter("stored_events_total", "Events stored and numbered."),
		repeats: counter("repeated_events_total", "Events not stored because their id was seen within the dedupe window."),
		epochs:  counter("epochs_total", "Epochs begun because Redis was new, wiped or started again, by partition."),
		full:    counter("full_calls_total", "Appends that Redis refused because it was out of memory."),
		freed:   counter("freed_events_total", "Events trimmed before their age because Redis was out of memory."),
	}
}
