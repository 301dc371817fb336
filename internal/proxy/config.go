package proxy

import (
	"log/slog"

	"eventspine/internal/config"
	"eventspine/internal/fault"
)

// Config holds the settings of the proxy.
type Config struct {
	config.Common
	XSubBind      string       `env:"ZMQ_PROXY_XSUB_BIND" doc:"endpoint where publishers connect (XSUB)" kind:"bind"`
	XPubBind      string       `env:"ZMQ_PROXY_XPUB_BIND" doc:"endpoint where subscribers connect (XPUB)" kind:"bind"`
	ControlBind   string       `env:"ZMQ_CONTROL_BIND" doc:"endpoint of the control plane (ROUTER) that every service's ZMQ_CONTROL names; empty: none" kind:"bind"`
	CloneSnapshot string       `env:"ZMQ_CLONE_SNAPSHOT_BIND" doc:"endpoint that hands out the live rules (ROUTER), which a worker's ZMQ_CLONE names first; empty, with the next two: none" kind:"bind"`
	CloneUpdates  string       `env:"ZMQ_CLONE_UPDATES_BIND" doc:"endpoint that publishes changes of the live rules (PUB)" kind:"bind"`
	CloneChanges  string       `env:"ZMQ_CLONE_CHANGES_BIND" doc:"endpoint that takes changes of the live rules (PULL)" kind:"bind"`
	DataDir       string       `env:"PROXY_DATA_DIR" doc:"existing directory where the live rules are kept; empty: in memory only, lost at a restart"`
	SndHWM        int          `env:"PROXY_SNDHWM" doc:"messages that may wait for one subscriber; more are dropped for it alone"`
	SndBytes      config.Bytes `env:"PROXY_SNDBYTES" doc:"bytes that may wait for one subscriber; more are dropped for it alone"`
	RcvHWM        int          `env:"PROXY_RCVHWM" doc:"messages of one publisher that may wait to be forwarded; more wait at the publisher"`
}

// DefaultConfig has working settings on the loopback interface.
func DefaultConfig() Config {
	return Config{
		Common: config.Common{
			InstanceID: "proxy-1",
			LogLevel:   slog.LevelInfo,
			Health:     "tcp://127.0.0.1:5556",
			Metrics:    "127.0.0.1:9465",
		},
		XSubBind:      "tcp://127.0.0.1:5559",
		XPubBind:      "tcp://127.0.0.1:5560",
		ControlBind:   "tcp://127.0.0.1:5562",
		CloneSnapshot: "tcp://127.0.0.1:5563",
		CloneUpdates:  "tcp://127.0.0.1:5564",
		CloneChanges:  "tcp://127.0.0.1:5565",
		SndHWM:        100_000,
		SndBytes:      64 << 20,
		RcvHWM:        10_000,
	}
}

// Validate checks what the types of the fields do not say.
func (c *Config) Validate() (wrong []fault.Field) {
	wrong = c.validateClone()
	for _, n := range []struct {
		name  string
		value int
	}{{"PROXY_SNDHWM", c.SndHWM}, {"PROXY_RCVHWM", c.RcvHWM}} {
		if n.value < 1 {
			wrong = append(wrong, fault.Field{Name: n.name, Reason: "must be at least 1"})
		}
	}
	if c.SndBytes < 1<<10 || c.SndBytes > 1<<40 {
		wrong = append(wrong, fault.Field{Name: "PROXY_SNDBYTES", Reason: "must be 1 KiB to 1 TiB"})
	}
	return wrong
}
