package api

import (
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"eventspine/internal/auth"
	"eventspine/internal/config"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

const (
	minWAL        = 64 << 20         // several batches of the largest size, and segments
	maxAckTimeout = 50 * time.Second // the answer has to be written within a minute
)

// Config holds the settings of the api.
type Config struct {
	config.Common
	auth.Settings
	Port        int           `env:"PORT" doc:"TCP port of the HTTP API"`
	Addr        string        `env:"API_ADDR" doc:"address the HTTP API listens on; a port in it overrides PORT" kind:"bind"`
	Workers     []string      `env:"ZMQ_PROCESSING_HOST" doc:"endpoints of the workers, comma separated" kind:"connect"`
	XSub        []string      `env:"ZMQ_PROXY_XSUB" doc:"endpoints publishers send to, one for each proxy, comma separated" kind:"connect"`
	XPub        []string      `env:"ZMQ_PROXY_XPUB" doc:"endpoints subscribers connect to, one for each proxy, comma separated; the workers' acknowledgements come from there" kind:"connect"`
	RedisURL    string        `env:"REDIS_URL" doc:"redis:// or rediss:// address of Redis; several hosts, comma-separated, are a cluster; redis+sentinel://host,host/master asks Sentinels; options for TLS: docs/redis.md" kind:"secret"`
	ESHosts     []string      `env:"ES_HOST" doc:"Elasticsearch: one URL a node, comma separated"`
	Partitions  int           `env:"PARTITIONS" doc:"partitions the events are spread over; fixed at the first start, the same for every service"`
	Origins     []string      `env:"API_ORIGINS" doc:"origins whose web pages may call the API (CORS), comma separated, or *; empty: none"`
	WALDir      string        `env:"API_WAL_DIR" doc:"directory of this api alone, for the write-ahead log of accepted events; made when absent"`
	WALSize     config.Bytes  `env:"API_WAL_SIZE" doc:"bytes the write-ahead log may have; past them callers get 503"`
	WALMinFree  config.Bytes  `env:"API_WAL_MIN_FREE" doc:"bytes the file system of the write-ahead log must have left; below them callers get 503"`
	WALKeep     time.Duration `env:"API_WAL_KEEP" doc:"how long acknowledged events stay in the write-ahead log, to be sent again when Redis lost them; less when the log is nearly full"`
	AckTimeout  time.Duration `env:"API_ACK_TIMEOUT" doc:"longest wait of a request with ?ack=stored; then it is answered 202"`
	SendQueue   int           `env:"API_SEND_QUEUE" doc:"messages that may wait in memory for one worker; the rest waits in the write-ahead log"`
	SendBytes   config.Bytes  `env:"API_SEND_BYTES" doc:"bytes that may wait in memory for one worker; the rest waits in the write-ahead log"`
	MaxRequests int           `env:"API_MAX_REQUESTS" doc:"requests served at the same time; past them callers get 429"`
	MaxBatches  int           `env:"API_MAX_BATCHES" doc:"batches read at the same time, up to 5 MiB each; past them callers get 429"`
}

// DefaultConfig has everything on this machine. Only JWT_SECRET has no default.
func DefaultConfig() Config {
	return Config{
		Common: config.Common{
			InstanceID: "api-1",
			Health:     "tcp://127.0.0.1:5555",
			Metrics:    "127.0.0.1:9464",
		},
		Settings:    auth.DefaultSettings(),
		Port:        3000,
		Addr:        "127.0.0.1",
		Workers:     []string{"tcp://127.0.0.1:5557"},
		XSub:        []string{"tcp://127.0.0.1:5559"},
		XPub:        []string{"tcp://127.0.0.1:5560"},
		RedisURL:    "redis://127.0.0.1:6379",
		ESHosts:     []string{"http://127.0.0.1:9200"},
		Partitions:  16,
		WALDir:      "data/api",
		WALSize:     2 << 30,
		WALMinFree:  256 << 20,
		WALKeep:     10 * time.Minute,
		AckTimeout:  5 * time.Second,
		SendQueue:   2_000,
		SendBytes:   64 << 20,
		MaxRequests: 2048,
		MaxBatches:  32,
	}
}

// Validate names every setting that cannot work.
func (c *Config) Validate() []fault.Field {
	wrong := c.Settings.Validate()
	check := func(ok bool, name, reason string) {
		if !ok {
			wrong = append(wrong, fault.Field{Name: name, Reason: reason})
		}
	}
	check(c.Addr != "", "API_ADDR", "must not be empty; give 127.0.0.1 or an address of this machine")
	check(c.Port >= 0 && c.Port <= 65535, "PORT", "must be from 0 to 65535")
	check(len(c.Workers) > 0, "ZMQ_PROCESSING_HOST", "must name at least one worker")
	check(c.Partitions > 0 && c.Partitions <= 1024, "PARTITIONS", "must be from 1 to 1024")
	check(len(c.XPub) > 0, "ZMQ_PROXY_XPUB", "must name at least one proxy; the workers' acknowledgements come from there")
	check(c.WALDir != "", "API_WAL_DIR", "must name a directory")
	check(c.WALSize >= minWAL, "API_WAL_SIZE", "must be at least 64MiB")
	check(c.WALKeep >= 0, "API_WAL_KEEP", "must not be negative")
	check(c.AckTimeout > 0 && c.AckTimeout <= maxAckTimeout, "API_ACK_TIMEOUT", "must be above 0 and at most 50s")
	check(c.SendQueue > 0, "API_SEND_QUEUE", "must be at least 1")
	check(c.SendBytes >= event.MaxBytes, "API_SEND_BYTES", "must be at least 256KiB, the size of one event")
	check(c.MaxRequests > 0, "API_MAX_REQUESTS", "must be at least 1")
	check(c.MaxBatches > 0, "API_MAX_BATCHES", "must be at least 1")
	check(c.InstanceID != "" && len(c.InstanceID) <= event.MaxSource && !strings.ContainsFunc(c.InstanceID, notPrintable),
		"INSTANCE_ID", "becomes the source of events: must be 1 to 128 printable ASCII characters without spaces")
	for _, o := range c.Origins {
		check(validOrigin(o), "API_ORIGINS", "holds "+strconv.Quote(o)+", which is neither * nor an origin such as https://example.org")
	}
	return wrong
}

func notPrintable(r rune) bool { return r <= ' ' || r > '~' }

func validOrigin(s string) bool {
	if s == "*" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Scheme+"://"+u.Host == s
}

// listen is the host:port to bind.
func (c *Config) listen() string {
	if _, _, err := net.SplitHostPort(c.Addr); err == nil {
		return c.Addr
	}
	return net.JoinHostPort(strings.Trim(c.Addr, "[]"), strconv.Itoa(c.Port))
}
