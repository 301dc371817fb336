package indexer

import (
	"log/slog"
	"strings"
	"time"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/journal"
)

// Config holds the settings of the indexer.
type Config struct {
	config.Common
	ESHosts     []string      `env:"ES_HOST" doc:"Elasticsearch: one URL a node, comma separated"`
	Index       string        `env:"ES_INDEX" doc:"first part of the names of the daily indices, and the alias of all of them"`
	Replicas    int           `env:"ES_REPLICAS" doc:"copies of each new index on other nodes of Elasticsearch"`
	Refresh     time.Duration `env:"ES_REFRESH" doc:"how long it may take until an indexed event is found by a search"`
	Timeout     time.Duration `env:"ES_TIMEOUT" doc:"how long one request to Elasticsearch may take"`
	Proxies     []string      `env:"ZMQ_PROXY_XPUB" doc:"XPUB endpoints of the proxies, one each" kind:"connect"`
	RedisURL    string        `env:"REDIS_URL" doc:"redis:// or rediss:// address of Redis; several hosts, comma-separated, are a cluster; redis+sentinel://host,host/master asks Sentinels; options for TLS: docs/redis.md" kind:"secret"`
	Partitions  int           `env:"PARTITIONS" doc:"partitions of the journal; fixed at the first start"`
	BatchEvents int           `env:"INDEXER_BATCH_EVENTS" doc:"events that make a batch; more go together when the indexer is behind"`
	Flush       time.Duration `env:"INDEXER_FLUSH_INTERVAL" doc:"how long an event waits for its batch to fill"`
	QueueBytes  config.Bytes  `env:"INDEXER_QUEUE_BYTES" doc:"bytes of events that may wait for Elasticsearch in memory; past half of it they go to the spool"`
	SpoolDir    string        `env:"INDEXER_SPOOL_DIR" doc:"directory of this indexer alone, for the spool (events that wait for Elasticsearch on disk), its checkpoint and the file of dead letters; made when absent"`
	SpoolSize   config.Bytes  `env:"INDEXER_SPOOL_SIZE" doc:"bytes that the spool may take; past it events stay in the journal"`
	SpoolFree   config.Bytes  `env:"INDEXER_SPOOL_MIN_FREE" doc:"bytes that the spool leaves free on its file system"`
	SpoolAfter  time.Duration `env:"INDEXER_SPOOL_AFTER" doc:"how long an event waits for Elasticsearch in memory before it goes to the spool; until then the journal in Redis holds it"`
	Checkpoint  string        `env:"INDEXER_CHECKPOINT" doc:"name of the checkpoint in Redis; indexers of one Elasticsearch share it, another Elasticsearch needs another name"`
	Retention   time.Duration `env:"INDEXER_RETENTION" doc:"age at which the index of a day is deleted, by one elected indexer; counted from the end of the day, or from the making of the index if that was later; 0s: never"`
	RetainLeast time.Duration `env:"INDEXER_RETENTION_LEAST" doc:"age below which no index is deleted; older ones go before INDEXER_RETENTION, one by one, while a disk of Elasticsearch is past its high watermark; 0s: none goes before its time"`
	VerifyEvery time.Duration `env:"INDEXER_VERIFY_EVERY" doc:"how often one elected indexer compares the index with the journal (eventspine_maintain_missing_events); 0s: never"`
	RcvHWM      int           `env:"INDEXER_RCVHWM" doc:"messages of one proxy that may wait to be read"`
	SnailWait   time.Duration `env:"INDEXER_SNAIL_WAIT" doc:"an event that waits longer than this to be read, and not for Elasticsearch, is late"`
	SnailLimit  time.Duration `env:"INDEXER_SNAIL_LIMIT" doc:"how long events may be late, or the receive queue half full, at a stretch before the indexer ends itself with exit code 1, to be started again; 0s: for ever"`
}

// DefaultConfig has working settings on the loopback interface.
func DefaultConfig() Config {
	return Config{
		Common: config.Common{
			InstanceID: "indexer-1",
			LogLevel:   slog.LevelInfo,
			Health:     "tcp://127.0.0.1:5555",
			Metrics:    "127.0.0.1:9464",
		},
		ESHosts:     []string{"http://127.0.0.1:9200"},
		Index:       "events",
		Refresh:     time.Second,
		Timeout:     30 * time.Second,
		Proxies:     []string{"tcp://127.0.0.1:5560"},
		BatchEvents: 100,
		Flush:       500 * time.Millisecond,
		RedisURL:    "redis://127.0.0.1:6379",
		Partitions:  journal.DefaultOptions().Partitions,
		QueueBytes:  64 << 20,
		SpoolDir:    "data/indexer",
		SpoolSize:   2 << 30,
		SpoolFree:   256 << 20,
		SpoolAfter:  5 * time.Second,
		Checkpoint:  "indexer",
		Retention:   30 * 24 * time.Hour,
		RetainLeast: 7 * 24 * time.Hour,
		VerifyEvery: 5 * time.Minute,
		RcvHWM:      10_000,
		SnailWait:   5 * time.Second,
		SnailLimit:  30 * time.Second,
	}
}

// Validate checks what the types of the fields do not say.
func (c *Config) Validate() (wrong []fault.Field) {
	bad := func(is bool, name, reason string) {
		if is {
			wrong = append(wrong, fault.Field{Name: name, Reason: reason})
		}
	}
	bad(len(c.ESHosts) == 0, "ES_HOST", "needs at least one URL")
	bad(len(c.Proxies) == 0, "ZMQ_PROXY_XPUB", "needs at least one endpoint")
	bad(c.Replicas < 0, "ES_REPLICAS", "must not be negative")
	bad(c.Refresh < 10*time.Millisecond || c.Refresh > time.Hour, "ES_REFRESH", "must be 10ms to 1h")
	bad(c.Timeout < time.Second || c.Timeout > 10*time.Minute, "ES_TIMEOUT", "must be 1s to 10m")
	bad(c.BatchEvents < 1 || c.BatchEvents > maxBatchEvents, "INDEXER_BATCH_EVENTS", "must be 1 to 2000")
	bad(c.Flush < time.Millisecond || c.Flush > time.Minute, "INDEXER_FLUSH_INTERVAL", "must be 1ms to 1m")
	bad(c.Partitions < 1 || c.Partitions > 1024, "PARTITIONS", "must be 1 to 1024")
	bad(c.QueueBytes < 1<<20 || c.QueueBytes > 1<<40, "INDEXER_QUEUE_BYTES", "must be 1 MiB to 1 TiB")
	bad(c.SpoolDir == "", "INDEXER_SPOOL_DIR", "must name a directory")
	bad(c.SpoolSize < 1<<20 || c.SpoolSize > 1<<50, "INDEXER_SPOOL_SIZE", "must be 1 MiB to 1 PiB")
	bad(c.SpoolFree > 1<<50, "INDEXER_SPOOL_MIN_FREE", "must be at most 1 PiB")
	bad(c.SpoolAfter < 10*time.Millisecond || c.SpoolAfter > time.Minute, "INDEXER_SPOOL_AFTER", "must be 10ms to 1m")
	bad(!validName(c.Checkpoint), "INDEXER_CHECKPOINT", "must be 1 to 64 letters, digits, _ or -")
	bad(c.Retention != 0 && c.Retention < 24*time.Hour, "INDEXER_RETENTION", "must be 0s or at least 24h")
	bad(c.RetainLeast != 0 && c.RetainLeast < 24*time.Hour, "INDEXER_RETENTION_LEAST", "must be 0s or at least 24h")
	bad(c.VerifyEvery != 0 && c.VerifyEvery < time.Second, "INDEXER_VERIFY_EVERY", "must be 0s or at least 1s")
	bad(c.RcvHWM < 1, "INDEXER_RCVHWM", "must be at least 1")
	bad(c.SnailWait < 10*time.Millisecond, "INDEXER_SNAIL_WAIT", "must be at least 10ms")
	bad(c.SnailLimit != 0 && c.SnailLimit < time.Second, "INDEXER_SNAIL_LIMIT", "must be 0s or at least 1s")
	return wrong
}

func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}
