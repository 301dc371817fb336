// Command worker runs the worker service. Settings come from the environment; `eventspine config` lists them.
package main

import (
	"eventspine/internal/run"
	"eventspine/internal/worker"
)

func main() {
	run.Main(run.Service[worker.Config, *worker.Deps]{
		Name:   "worker",
		Prefix: "WORKER_",
		Config: worker.DefaultConfig(),
		Open:   worker.Open,
		Run:    worker.Run,
	})
}
