package indexer

import (
	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/checkpoint"
	"eventspine/internal/maintain"
)

// maintenance is what one elected indexer does for all: retention, and comparing the index with the
// journal.
func (d *Deps) maintenance(c *Config, reg prometheus.Registerer) *maintain.Keeper {
	return maintain.NewKeeper(maintain.KeeperOptions{
		Verifier: &maintain.Verifier{Journal: d.journal, Archive: d.archive, Checkpoint: checkpoint.New(d.redis, c.Checkpoint),
			Partitions: c.Partitions, Redis: d.redis},
		Redis: d.redis, Retention: c.Retention, RetainLeast: c.RetainLeast, VerifyEvery: c.VerifyEvery, Log: c.Log, Metrics: reg,
	})
}
