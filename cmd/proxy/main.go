// Command proxy runs the proxy service. Settings come from the environment; `eventspine config` lists them.
package main

import (
	"eventspine/internal/proxy"
	"eventspine/internal/run"
)

func main() {
	run.Main(run.Service[proxy.Config, *proxy.Deps]{
		Name:   "proxy",
		Prefix: "PROXY_",
		Config: proxy.DefaultConfig(),
		Open:   proxy.Open,
		Run:    proxy.Run,
	})
}
