// Command indexer runs the indexer service. Settings come from the environment; `eventspine config` lists them.
package main

import (
	"eventspine/internal/indexer"
	"eventspine/internal/run"
)

func main() {
	run.Main(run.Service[indexer.Config, *indexer.Deps]{
		Name:       "indexer",
		Prefix:     "INDEXER_",
		Background: true, // an event is searchable a little later, but in the browser no later
		Config:     indexer.DefaultConfig(),
		Open:       indexer.Open,
		Run:        indexer.Run,
	})
}
