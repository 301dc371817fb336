package proxy

import (
	"context"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/clone"
	"eventspine/internal/fault"
	"eventspine/internal/keyring"
)

// stateFile is where the clone's state is kept, below PROXY_DATA_DIR.
const stateFile = "clone.state"

// Clone is where the live rules are followed and changed, with the actual ports; empty: nowhere.
func (d *Deps) Clone() clone.Endpoints {
	if d.clone == nil {
		return clone.Endpoints{}
	}
	return d.clone.Endpoints()
}

// validateClone wants all three endpoints or none.
func (c *Config) validateClone() (wrong []fault.Field) {
	given := 0
	for _, endpoint := range []string{c.CloneSnapshot, c.CloneUpdates, c.CloneChanges} {
		if endpoint != "" {
			given++
		}
	}
	if given != 0 && given != 3 {
		wrong = append(wrong, fault.Field{Name: "ZMQ_CLONE_SNAPSHOT_BIND", Reason: "needs ZMQ_CLONE_UPDATES_BIND and ZMQ_CLONE_CHANGES_BIND too, or all three empty"})
	}
	return wrong
}

// openClone binds the server of the live rules.
func (d *Deps) openClone(ctx context.Context, c *Config, keys *keyring.Ring, reg prometheus.Registerer) (err error) {
	if c.CloneSnapshot == "" {
		return nil
	}
	o := clone.ServerOptions{Endpoints: clone.Endpoints{Snapshot: c.CloneSnapshot, Updates: c.CloneUpdates, Changes: c.CloneChanges},
		Curve: keys.Server("clone"), Metrics: reg, Log: c.Log}
	if c.DataDir != "" {
		o.File = filepath.Join(c.DataDir, stateFile)
	}
	d.clone, err = clone.Listen(ctx, o)
	return err
}
