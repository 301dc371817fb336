// Command api runs the api service. Settings come from the environment; `eventspine config` lists them.
package main

import (
	"eventspine/internal/api"
	"eventspine/internal/run"
)

func main() {
	run.Main(run.Service[api.Config, *api.Deps]{
		Name:   "api",
		Prefix: "API_",
		Config: api.DefaultConfig(),
		Open:   api.Open,
		Run:    api.Run,
	})
}
