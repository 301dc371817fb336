package bridge

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

// Config holds the settings of the bridge.
type Config struct {
	config.Common
	auth.Settings
	Addr       string   `env:"BRIDGE_ADDR" doc:"address browsers connect to (Socket.IO)" kind:"bind"`
	Port       int      `env:"PORT" doc:"TCP port in place of the one in BRIDGE_ADDR; 0: that one"`
	XPub       []string `env:"ZMQ_PROXY_XPUB" doc:"endpoints that events come from, one for each proxy, comma separated" kind:"connect"`
	RedisURL   string   `env:"REDIS_URL" doc:"redis:// or rediss:// address of Redis; several hosts, comma-separated, are a cluster; redis+sentinel://host,host/master asks Sentinels; options for TLS: docs/redis.md" kind:"secret"`
	Categories []string `env:"BRIDGE_CATEGORIES" doc:"categories that go to browsers, the same as the worker's deliverable ones"`
	Subscribe  string   `env:"BRIDGE_SUBSCRIBE" doc:"all: every event for browsers comes to this bridge; users: those of its own users, and for everybody (the proxies have to be ours)"`
	Origins    []string `env:"BRIDGE_ORIGINS" doc:"origins whose web pages may connect, comma separated, or *; empty: none"`

	Partitions   int           `env:"PARTITIONS" doc:"partitions of the journal; fixed at the first start"`
	ReplayWindow time.Duration `env:"REPLAY_WINDOW" doc:"how long a user can get missed events back"`
	ReplayMax    int           `env:"REPLAY_MAX" doc:"missed events a user can get back at most"`

	Replays       int           `env:"BRIDGE_REPLAYS" doc:"replays of missed events that are read at the same time; the others wait in line"`
	ReplayRate    int           `env:"BRIDGE_REPLAY_RATE" doc:"events a second in all replays together, so that live events come first; a KiB of events counts as one more, and each read as ten"`
	ReplayWaiting int           `env:"BRIDGE_REPLAY_WAITING" doc:"replays that may wait in line; past them clients are told to ask later"`
	ReplayWait    time.Duration `env:"BRIDGE_REPLAY_WAIT" doc:"how long a replay waits in line at most; then its client is told to ask later"`
	Drain         time.Duration `env:"BRIDGE_DRAIN" doc:"over how long a bridge that is stopped spreads the closing of its connections, so that they do not come back all at once; up to 9s more go by until it ends"`

	Connections        int           `env:"BRIDGE_CONNECTIONS" doc:"connections in all; past them clients get 429"`
	UserConnections    int           `env:"BRIDGE_USER_CONNECTIONS" doc:"connections of one user; past them clients get 429"`
	AddressConnections int           `env:"BRIDGE_ADDRESS_CONNECTIONS" doc:"connections from one address; past them clients get 429; 0: no bound"`
	TrustedProxies     []string      `env:"BRIDGE_TRUSTED_PROXIES" doc:"addresses or networks of the load balancers in front, comma separated: from them X-Forwarded-For says which address a client has; empty: nobody is believed"`
	HandshakeTimeout   time.Duration `env:"BRIDGE_HANDSHAKE_TIMEOUT" doc:"how long a client may take to come in, until its token is known"`
	TokenWarning       time.Duration `env:"BRIDGE_TOKEN_WARNING" doc:"how long before the end of its token a client gets the event token_expiring, so that it can send a new one"`
	PresenceTimeout    time.Duration `env:"BRIDGE_PRESENCE_TIMEOUT" doc:"how long the users of a bridge that was killed still count as online; a third of it is the time between heartbeats"`
	HandshakeRate      int           `env:"BRIDGE_HANDSHAKE_RATE" doc:"handshakes a second from one address, four times that in a burst; past them clients get 429"`
	PendingPolls       int           `env:"BRIDGE_PENDING_POLLS" doc:"polling handshakes of one address that may be unfinished; past them clients get 429"`
	MaxPacket          config.Bytes  `env:"BRIDGE_MAX_PACKET" doc:"bytes of one message or one polling POST of an Engine.IO 4 client; past them it is closed; Engine.IO 3 clients may send 64KiB"`
	InboundRate        int           `env:"BRIDGE_INBOUND_RATE" doc:"packets a second from one connection, four times that in a burst; past them it is closed"`
	QueueMessages      int           `env:"BRIDGE_QUEUE_MESSAGES" doc:"events that may wait for one connection; past them it is closed"`
	QueueBytes         config.Bytes  `env:"BRIDGE_QUEUE_BYTES" doc:"bytes that may wait for one connection; past them it is closed"`
	SnailWait          time.Duration `env:"BRIDGE_SNAIL_WAIT" doc:"an event that waits longer than this in the bridge to be looked at is late"`
	SnailLimit         time.Duration `env:"BRIDGE_SNAIL_LIMIT" doc:"how long events may be late, or the receive queue half full, at a stretch before the bridge ends itself with exit code 1, to be started again; 0s: for ever"`
	PingInterval       time.Duration `env:"BRIDGE_PING_INTERVAL" doc:"how often a client pings"`
	PingTimeout        time.Duration `env:"BRIDGE_PING_TIMEOUT" doc:"a client that was silent for this long is closed"`
}

// DefaultConfig has everything on this machine. Only JWT_SECRET has no default.
func DefaultConfig() Config {
	return Config{
		Common:             config.Common{InstanceID: "bridge-1", Health: "tcp://127.0.0.1:5556", Metrics: "127.0.0.1:9465"},
		Settings:           auth.DefaultSettings(),
		Addr:               "127.0.0.1:3001",
		XPub:               []string{"tcp://127.0.0.1:5560"},
		RedisURL:           "redis://127.0.0.1:6379",
		Categories:         []string{"notification", "alert", "status"},
		Subscribe:          subscribeAll,
		Origins:            []string{"*"},
		Partitions:         16,
		ReplayWindow:       5 * time.Minute,
		ReplayMax:          1000,
		Replays:            8,
		ReplayRate:         20_000,
		ReplayWaiting:      10_000,
		ReplayWait:         15 * time.Second,
		Drain:              10 * time.Second,
		Connections:        20_000,
		UserConnections:    50,
		AddressConnections: 10_000,
		HandshakeTimeout:   10 * time.Second,
		TokenWarning:       time.Minute,
		PresenceTimeout:    10 * time.Second,
		HandshakeRate:      500,
		PendingPolls:       256,
		MaxPacket:          64 << 10,
		InboundRate:        50,
		QueueMessages:      1024,
		QueueBytes:         1 << 20,
		SnailWait:          5 * time.Second,
		SnailLimit:         30 * time.Second,
		PingInterval:       25 * time.Second,
		PingTimeout:        60 * time.Second,
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
	_, _, err := net.SplitHostPort(c.Addr)
	check(err == nil, "BRIDGE_ADDR", "must be host:port such as 127.0.0.1:3001")
	check(c.Port >= 0 && c.Port <= 65535, "PORT", "must be from 0 to 65535")
	check(len(c.XPub) > 0, "ZMQ_PROXY_XPUB", "must name at least one proxy")
	check(len(c.Categories) > 0, "BRIDGE_CATEGORIES", "must name at least one category")
	for _, name := range c.Categories {
		check(validCategory(name), "BRIDGE_CATEGORIES", "holds "+strconv.Quote(name)+", which is not the first token of any event type")
	}
	check(c.Subscribe == subscribeAll || c.Subscribe == subscribeUsers, "BRIDGE_SUBSCRIBE", "must be all or users")
	for _, o := range c.Origins {
		check(validOrigin(o), "BRIDGE_ORIGINS", "holds "+strconv.Quote(o)+", which is neither * nor an origin such as https://example.org")
	}
	check(c.Partitions > 0 && c.Partitions <= 1024, "PARTITIONS", "must be from 1 to 1024")
	check(c.ReplayWindow > 0, "REPLAY_WINDOW", "must be longer than 0s")
	for name, n := range map[string]int{"REPLAY_MAX": c.ReplayMax, "BRIDGE_CONNECTIONS": c.Connections, "BRIDGE_USER_CONNECTIONS": c.UserConnections,
		"BRIDGE_HANDSHAKE_RATE": c.HandshakeRate, "BRIDGE_PENDING_POLLS": c.PendingPolls, "BRIDGE_INBOUND_RATE": c.InboundRate, "BRIDGE_QUEUE_MESSAGES": c.QueueMessages} {
		check(n > 0, name, "must be at least 1")
	}
	for name, n := range map[string]int{"BRIDGE_REPLAYS": c.Replays, "BRIDGE_REPLAY_RATE": c.ReplayRate, "BRIDGE_REPLAY_WAITING": c.ReplayWaiting} {
		check(n > 0, name, "must be at least 1")
	}
	check(c.ReplayWait >= 10*time.Millisecond && c.ReplayWait <= time.Minute, "BRIDGE_REPLAY_WAIT", "must be from 10ms to 1m")
	check(c.Drain >= 0 && c.Drain <= 10*time.Minute, "BRIDGE_DRAIN", "must be from 0s to 10m")
	check(c.AddressConnections >= 0, "BRIDGE_ADDRESS_CONNECTIONS", "must not be negative")
	if _, err := parseProxies(c.TrustedProxies); err != nil {
		check(false, "BRIDGE_TRUSTED_PROXIES", err.Error())
	}
	check(c.HandshakeTimeout >= time.Second && c.HandshakeTimeout <= time.Minute, "BRIDGE_HANDSHAKE_TIMEOUT", "must be from 1s to 1m")
	check(c.MaxPacket >= 1<<10 && c.MaxPacket <= 16<<20, "BRIDGE_MAX_PACKET", "must be from 1KiB to 16MiB")
	check(c.TokenWarning > 0, "BRIDGE_TOKEN_WARNING", "must be longer than 0s")
	check(c.PresenceTimeout >= time.Second, "BRIDGE_PRESENCE_TIMEOUT", "must be at least 1s")
	check(c.QueueBytes >= event.MaxBytes, "BRIDGE_QUEUE_BYTES", "must be at least 256KiB, the size of one event")
	check(c.SnailWait >= 10*time.Millisecond, "BRIDGE_SNAIL_WAIT", "must be at least 10ms")
	check(c.SnailLimit == 0 || c.SnailLimit >= time.Second, "BRIDGE_SNAIL_LIMIT", "must be 0s or at least 1s")
	check(c.PingInterval >= time.Second, "BRIDGE_PING_INTERVAL", "must be at least 1s")
	check(c.PingTimeout > c.PingInterval, "BRIDGE_PING_TIMEOUT", "must be longer than BRIDGE_PING_INTERVAL")
	return wrong
}

func validCategory(s string) bool {
	return s != "" && !strings.HasPrefix(s, "_") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

func validOrigin(s string) bool {
	if s == "*" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Scheme+"://"+u.Host == s
}

// listen is the host:port to bind.
func (c *Config) listen() string {
	if c.Port == 0 {
		return c.Addr
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		host = c.Addr
	}
	return net.JoinHostPort(host, strconv.Itoa(c.Port))
}

// only is what to deliver of what comes; nil: all of it.
func (c *Config) only() map[string]bool {
	if c.Subscribe != subscribeUsers {
		return nil
	}
	out := make(map[string]bool, len(c.Categories))
	for _, name := range c.Categories {
		out[name] = true
	}
	return out
}
