package bridge

import (
	"slices"
	"testing"

	"eventspine/internal/config"
	"eventspine/internal/fault"
)

func TestConfig(t *testing.T) {
	load := func(env ...string) (Config, error) {
		c := DefaultConfig()
		return c, config.Load(&c, append(env, "JWT_SECRET=0123456789abcdef"), "BRIDGE_")
	}
	if c, err := load(); err != nil || c.listen() != "127.0.0.1:3001" {
		t.Errorf("defaults: %s %v", c.listen(), err)
	}
	if c, err := load("PORT=4001"); err != nil || c.listen() != "127.0.0.1:4001" {
		t.Errorf("PORT: %s %v", c.listen(), err)
	}
	if c, err := load("BRIDGE_ADDR=[::1]:3001", "PORT=4001"); err != nil || c.listen() != "[::1]:4001" {
		t.Errorf("PORT: %s %v", c.listen(), err)
	}
	if c, err := load("BRIDGE_CATEGORIES=alert,chat"); err != nil || !slices.Equal(c.topics(), []string{"alert.", "chat.", "_mark."}) {
		t.Errorf("topics: %q %v", c.topics(), err)
	}
	for env, setting := range map[string]string{
		"BRIDGE_ADDR=0.0.0.0:3001":           "BRIDGE_ADDR",
		"BRIDGE_ADDR=:3001":                  "BRIDGE_ADDR",
		"BRIDGE_ADDR=127.0.0.1":              "BRIDGE_ADDR",
		"PORT=70000":                         "PORT",
		"JWT_SECRET=short":                   "JWT_SECRET",
		"BRIDGE_CATEGORIES=a.b":              "BRIDGE_CATEGORIES",
		"BRIDGE_CATEGORIES=_ack":             "BRIDGE_CATEGORIES",
		"BRIDGE_ORIGINS=example.org":         "BRIDGE_ORIGINS",
		"BRIDGE_ORIGINS=https://a.example/x": "BRIDGE_ORIGINS",
		"PARTITIONS=0":                       "PARTITIONS",
		"REPLAY_WINDOW=0s":                   "REPLAY_WINDOW",
		"REPLAY_MAX=0":                       "REPLAY_MAX",
		"BRIDGE_QUEUE_BYTES=1KiB":            "BRIDGE_QUEUE_BYTES",
		"BRIDGE_QUEUE_MESSAGES=0":            "BRIDGE_QUEUE_MESSAGES",
		"BRIDGE_SNAIL_WAIT=0s":               "BRIDGE_SNAIL_WAIT",
		"BRIDGE_SNAIL_LIMIT=1ms":             "BRIDGE_SNAIL_LIMIT",
		"BRIDGE_PING_TIMEOUT=20s":            "BRIDGE_PING_TIMEOUT",
		"BRIDGE_PING_INTERVAL=1ms":           "BRIDGE_PING_INTERVAL",
		"BRIDGE_TYPO=1":                      "BRIDGE_TYPO",
	} {
		c := DefaultConfig()
		environ := []string{"JWT_SECRET=0123456789abcdef", env}
		err := config.Load(&c, environ, "BRIDGE_")
		fields := fault.FieldsOf(err)
		if fault.KindOf(err) != fault.Invalid || len(fields) != 1 || fields[0].Name != setting {
			t.Errorf("%s: %v", env, err)
		}
	}
	c := DefaultConfig()
	c.JWTSecret, c.XPub, c.Categories = "0123456789abcdef", nil, nil
	if wrong := c.Validate(); len(wrong) != 2 {
		t.Errorf("no proxy and no category: %v", wrong)
	}
}
