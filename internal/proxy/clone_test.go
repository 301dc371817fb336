package proxy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"eventspine/internal/clone"
	"eventspine/internal/fault"
)

// follow runs a client of the proxy's clone.
func follow(t *testing.T, at clone.Endpoints) *clone.Client {
	t.Helper()
	c, err := clone.Dial(clone.ClientOptions{Endpoints: at})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := c.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCloneSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	kept := func(c *Config) { c.DataDir = dir }
	p := start(t, kept)
	if err := follow(t, p.Clone()).Set(within(t), "/rules/x", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	values, _ := follow(t, start(t, kept).Clone()).Values()
	if len(values) != 1 || string(values["/rules/x"]) != "v" {
		t.Errorf("after the restart: %q", values)
	}
}

func TestCloneThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		kind   fault.Kind
		say    string
	}{
		"damaged":  {func(c *Config) { c.DataDir = dir }, fault.Corrupt, stateFile},
		"half":     {func(c *Config) { c.CloneUpdates = "" }, fault.Invalid, "ZMQ_CLONE_SNAPSHOT_BIND"},
		"endpoint": {func(c *Config) { c.CloneUpdates = "nothing" }, fault.Invalid, "nothing"},
	} {
		config := DefaultConfig()
		config.XSubBind, config.XPubBind, config.ControlBind, config.Health, config.Metrics = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "", "", ""
		config.CloneSnapshot, config.CloneUpdates, config.CloneChanges = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"
		c.change(&config)
		_, err := Open(within(t), config)
		if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoClone(t *testing.T) {
	p := start(t, func(c *Config) { c.CloneSnapshot, c.CloneUpdates, c.CloneChanges = "", "", "" })
	if p.Clone() != (clone.Endpoints{}) {
		t.Errorf("there is one at %v", p.Clone())
	}
}
