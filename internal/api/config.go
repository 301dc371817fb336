package api

import (
	"net"
	"net/url"
	"strconv"
	"strings"

	"eventspine/internal/auth"
	"eventspine/internal/config"
	"eventspine/internal/event"
	"eventspine/internal/fault"
)

// Config holds the settings of the api.
type Config struct {
	config.Common
	Port        int          `env:"PORT" doc:"TCP port of the HTTP API"`
	Addr        string       `env:"API_ADDR" doc:"address the HTTP API listens on; a port in it overrides PORT" kind:"bind"`
	JWTSecret   string       `env:"JWT_SECRET" doc:"secret that tokens are signed with (HS256), at least 16 bytes" kind:"secret"`
	Workers     []string     `env:"ZMQ_PROCESSING_HOST" doc:"endpoints of the workers, comma separated" kind:"connect"`
	XSub        []string     `env:"ZMQ_PROXY_XSUB" doc:"endpoints publishers send to, one for each proxy, comma separated" kind:"connect"`
	RedisURL    string       `env:"REDIS_URL" doc:"Redis server: redis://[user:password@]host:port[/db]" kind:"secret"`
	ESHosts     []string     `env:"ES_HOST" doc:"Elasticsearch: one URL a node, comma separated"`
	Partitions  int          `env:"PARTITIONS" doc:"partitions the events are spread over; fixed at the first start, the same for every service"`
	Origins     []string     `env:"API_ORIGINS" doc:"origins whose web pages may call the API (CORS), comma separated, or *; empty: none"`
	SendQueue   int          `env:"API_SEND_QUEUE" doc:"messages that may wait for one worker; past them callers get 503"`
	SendBytes   config.Bytes `env:"API_SEND_BYTES" doc:"bytes that may wait for one worker; past them callers get 503"`
	MaxRequests int          `env:"API_MAX_REQUESTS" doc:"requests served at the same time; past them callers get 429"`
	MaxBatches  int          `env:"API_MAX_BATCHES" doc:"batches read at the same time, up to 5 MiB each; past them callers get 429"`
}

// DefaultConfig has everything on this machine. Only JWT_SECRET has no default.
func DefaultConfig() Config {
	return Config{
		Common: config.Common{
			InstanceID: "api-1",
			Health:     "tcp://127.0.0.1:5555",
			Metrics:    "127.0.0.1:9464",
		},
		Port:        3000,
		Addr:        "127.0.0.1",
		Workers:     []string{"tcp://127.0.0.1:5557"},
		XSub:        []string{"tcp://127.0.0.1:5559"},
		RedisURL:    "redis://127.0.0.1:6379",
		ESHosts:     []string{"http://127.0.0.1:9200"},
		Partitions:  16,
		SendQueue:   50_000,
		SendBytes:   64 << 20,
		MaxRequests: 2048,
		MaxBatches:  32,
	}
}

// Validate names every setting that cannot work.
func (c *Config) Validate() []fault.Field {
	var wrong []fault.Field
	check := func(ok bool, name, reason string) {
		if !ok {
			wrong = append(wrong, fault.Field{Name: name, Reason: reason})
		}
	}
	check(c.Addr != "", "API_ADDR", "must not be empty; give 127.0.0.1 or an address of this machine")
	check(c.Port >= 0 && c.Port <= 65535, "PORT", "must be from 0 to 65535")
	check(len(c.JWTSecret) >= auth.MinSecret, "JWT_SECRET", "must have at least "+strconv.Itoa(auth.MinSecret)+" bytes")
	check(len(c.Workers) > 0, "ZMQ_PROCESSING_HOST", "must name at least one worker")
	check(c.Partitions > 0 && c.Partitions <= 1024, "PARTITIONS", "must be from 1 to 1024")
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
