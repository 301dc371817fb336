// Command bridge runs the bridge service. Settings come from the environment; `eventspine config` lists them.
package main

import (
	"eventspine/internal/bridge"
	"eventspine/internal/run"
)

func main() {
	run.Main(run.Service[bridge.Config, *bridge.Deps]{
		Name:      "bridge",
		Prefix:    "BRIDGE_",
		GCPercent: run.GCHolding,
		Config:    bridge.DefaultConfig(),
		Open:      bridge.Open,
		Run:       bridge.Run,
	})
}
