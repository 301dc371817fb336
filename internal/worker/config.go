package worker

import (
	"log/slog"
	"time"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

// Config holds the settings of the worker.
type Config struct {
	config.Common
	Bind     string       `env:"ZMQ_PROCESSING_BIND" doc:"endpoint where producers push events (PULL)" kind:"bind"`
	XSub     []string     `env:"ZMQ_PROXY_XSUB" doc:"endpoints that events are published to, one per proxy" kind:"connect"`
	XPub     []string     `env:"ZMQ_PROXY_XPUB" doc:"endpoints that changes of users are heard from, one per proxy" kind:"connect"`
	RedisURL string       `env:"REDIS_URL" doc:"redis:// or rediss:// address of Redis; several hosts, comma-separated, are a cluster; redis+sentinel://host,host/master asks Sentinels; options for TLS: docs/redis.md" kind:"secret"`
	RcvHWM   int          `env:"WORKER_RCVHWM" doc:"messages of one producer that may wait; more wait at the producer"`
	RcvBytes config.Bytes `env:"WORKER_RCVBYTES" doc:"bytes of one producer that may wait; more wait at the producer"`

	Rules       string        `env:"WORKER_RULES" doc:"YAML file of filter and transform rules; empty: the built-in ones, as in rules.example.yaml"`
	Clone       []string      `env:"ZMQ_CLONE" doc:"endpoints of the live rules in the proxy, for snapshots, updates and changes, or tcp://host:port when they are on three ports in a row; live rules take the place of WORKER_RULES while there are any; empty: none" kind:"connect"`
	Deliverable []string      `env:"WORKER_DELIVERABLE" doc:"categories that go to browsers and can be replayed to them"`
	ProxyWait   time.Duration `env:"WORKER_PROXY_WAIT" doc:"how long a worker that starts waits for the proxies before it takes events in; what it publishes without them is in the journal only; 0s: not at all"`
	UserTTL     time.Duration `env:"WORKER_USER_TTL" doc:"how long metadata of a user is cached at most"`
	UserCache   int           `env:"WORKER_USER_CACHE" doc:"users whose metadata is cached"`

	Partitions   int           `env:"PARTITIONS" doc:"partitions of the journal; fixed at the first start"`
	DedupeWindow time.Duration `env:"DEDUPE_WINDOW" doc:"how long a repeated event id is recognised at least"`
	ReplayWindow time.Duration `env:"REPLAY_WINDOW" doc:"how long a user can get missed events back"`
	ReplayMax    int           `env:"REPLAY_MAX" doc:"missed events a user can get back at most"`
	JournalMax   int64         `env:"JOURNAL_MAX" doc:"events that the journal keeps in each partition"`
	JournalBytes config.Bytes  `env:"JOURNAL_BYTES" doc:"bytes of events that the journal keeps in each partition, roughly; large events are trimmed before JOURNAL_MAX and JOURNAL_AGE"`
	JournalAge   time.Duration `env:"JOURNAL_AGE" doc:"how long the journal keeps events"`

	PushBind string `env:"ZMQ_OUTPUT_PUSH_BIND" doc:"endpoint that hands each stored event to one of the connected sinks (PUSH, such as tcp://127.0.0.1:5558); empty: none" kind:"bind"`
	PubBind  string `env:"ZMQ_OUTPUT_PUB_BIND" doc:"endpoint that publishes stored events without a proxy (PUB, such as tcp://127.0.0.1:5561); empty: none" kind:"bind"`
}

// DefaultConfig has working settings on the loopback interface.
func DefaultConfig() Config {
	j := journal.DefaultOptions()
	return Config{
		Common: config.Common{
			InstanceID: "worker-1",
			LogLevel:   slog.LevelInfo,
			Health:     "tcp://127.0.0.1:5555",
			Metrics:    "127.0.0.1:9464",
		},
		Bind:         "tcp://127.0.0.1:5557",
		XSub:         []string{"tcp://127.0.0.1:5559"},
		XPub:         []string{"tcp://127.0.0.1:5560"},
		RedisURL:     "redis://127.0.0.1:6379",
		RcvHWM:       1000,
		RcvBytes:     16 << 20,
		Deliverable:  []string{"notification", "alert", "status"},
		ProxyWait:    10 * time.Second,
		UserTTL:      30 * time.Second,
		UserCache:    50_000,
		Partitions:   j.Partitions,
		DedupeWindow: j.DedupeWindow,
		ReplayWindow: j.ReplayWindow,
		ReplayMax:    j.ReplayMax,
		JournalMax:   j.JournalMax,
		JournalBytes: config.Bytes(j.JournalBytes),
		JournalAge:   j.JournalAge,
	}
}

// Validate checks what the types of the fields do not say.
func (c *Config) Validate() (wrong []fault.Field) {
	refuse := func(bad bool, name, reason string) {
		if bad {
			wrong = append(wrong, fault.Field{Name: name, Reason: reason})
		}
	}
	refuse(len(c.XSub) == 0, "ZMQ_PROXY_XSUB", "needs at least one endpoint")
	refuse(len(c.XPub) == 0, "ZMQ_PROXY_XPUB", "needs at least one endpoint")
	refuse(c.RcvHWM < 1, "WORKER_RCVHWM", "must be at least 1")
	refuse(c.RcvBytes < 1<<10 || c.RcvBytes > 1<<40, "WORKER_RCVBYTES", "must be 1 KiB to 1 TiB")
	refuse(c.ProxyWait < 0, "WORKER_PROXY_WAIT", "must not be negative")
	refuse(c.UserTTL < time.Millisecond || c.UserTTL > 24*time.Hour, "WORKER_USER_TTL", "must be 1 ms to 24 h")
	refuse(c.UserCache < 1, "WORKER_USER_CACHE", "must be at least 1")
	refuse(c.Partitions < 1 || c.Partitions > 1024, "PARTITIONS", "must be 1 to 1024")
	refuse(c.DedupeWindow < time.Minute, "DEDUPE_WINDOW", "must be at least 1 minute")
	refuse(c.ReplayWindow < time.Second, "REPLAY_WINDOW", "must be at least 1 second")
	refuse(c.ReplayMax < 1, "REPLAY_MAX", "must be at least 1")
	refuse(c.JournalMax < 1000, "JOURNAL_MAX", "must be at least 1000")
	refuse(c.JournalBytes < 1<<20, "JOURNAL_BYTES", "must be at least 1MiB")
	refuse(c.JournalAge < c.ReplayWindow, "JOURNAL_AGE", "must not be shorter than REPLAY_WINDOW")
	return wrong
}
