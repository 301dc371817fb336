package api

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eventspine/internal/config"
	"eventspine/internal/fault"
)

func TestValidateNamesEveryWrongSetting(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"nothing wrong":       {func(*Config) {}, ""},
		"no secret":           {func(c *Config) { c.JWTSecret = "" }, "JWT_SECRET"},
		"short secret":        {func(c *Config) { c.JWTSecret = "fifteen bytes!!" }, "JWT_SECRET"},
		"no address":          {func(c *Config) { c.Addr = "" }, "API_ADDR"},
		"port":                {func(c *Config) { c.Port = 65536 }, "PORT"},
		"no workers":          {func(c *Config) { c.Workers = nil }, "ZMQ_PROCESSING_HOST"},
		"no partitions":       {func(c *Config) { c.Partitions = 0 }, "PARTITIONS"},
		"many partitions":     {func(c *Config) { c.Partitions = 1025 }, "PARTITIONS"},
		"source with a space": {func(c *Config) { c.InstanceID = "api 1" }, "INSTANCE_ID"},
		"no source":           {func(c *Config) { c.InstanceID = "" }, "INSTANCE_ID"},
		"long source":         {func(c *Config) { c.InstanceID = strings.Repeat("x", 129) }, "INSTANCE_ID"},
		"origin with a path":  {func(c *Config) { c.Origins = []string{"https://a.org/"} }, "API_ORIGINS"},
		"origin of a file":    {func(c *Config) { c.Origins = []string{"file://x", "*"} }, "API_ORIGINS"},
		"origin is any":       {func(c *Config) { c.Origins = []string{"*"} }, ""},
		"origins":             {func(c *Config) { c.Origins = []string{"https://a.org", "http://localhost:8080"} }, ""},
		"all limits": {func(c *Config) { c.SendQueue, c.SendBytes, c.MaxBatches, c.MaxRequests = 0, 1, 0, 0 },
			"API_SEND_QUEUE API_SEND_BYTES API_MAX_REQUESTS API_MAX_BATCHES"},
		"the log": {func(c *Config) { c.WALDir, c.WALSize, c.WALKeep, c.AckTimeout, c.XPub = "", 1<<20, -1, time.Hour, nil },
			"ZMQ_PROXY_XPUB API_WAL_DIR API_WAL_SIZE API_WAL_KEEP API_ACK_TIMEOUT"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.JWTSecret = secret
			c.change(&cfg)
			var names []string
			for _, f := range cfg.Validate() {
				names = append(names, f.Name)
				if strings.Contains(f.Reason, "fifteen") {
					t.Errorf("the reason shows the secret: %s", f.Reason)
				}
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("named %q, want %q", got, c.want)
			}
		})
	}
}

func TestListenAddress(t *testing.T) {
	for _, c := range []struct {
		addr string
		port int
		want string
	}{
		{"127.0.0.1", 3000, "127.0.0.1:3000"}, {"127.0.0.1:0", 3000, "127.0.0.1:0"}, {"::1", 80, "[::1]:80"}, {"[::1]", 80, "[::1]:80"},
		{"[::1]:81", 80, "[::1]:81"}, {"host", 1, "host:1"},
	} {
		if got := (&Config{Addr: c.addr, Port: c.port}).listen(); got != c.want {
			t.Errorf("%q and %d listen on %q, want %q", c.addr, c.port, got, c.want)
		}
	}
}

func TestSettingsFromTheEnvironment(t *testing.T) {
	c := DefaultConfig()
	err := config.Load(&c, []string{"JWT_SECRET=" + secret, "PORT=3100", "API_ORIGINS=https://a.org,https://b.org", "API_SEND_BYTES=1MiB",
		"ZMQ_PROCESSING_HOST=tcp://10.0.1.20:5557,tcp://10.0.1.21:5557"}, "API_")
	if err != nil || c.Port != 3100 || len(c.Origins) != 2 || c.SendBytes != 1<<20 || len(c.Workers) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, wrong := range []string{"API_COLOUR=red", "PORT=x", "API_ADDR=0.0.0.0", "API_ADDR=::", "API_SEND_BYTES=lots", "API_ADDR=", "API_ADDR=:3000"} {
		c := DefaultConfig()
		name, _, _ := strings.Cut(wrong, "=")
		err := config.Load(&c, []string{"JWT_SECRET=" + secret, wrong}, "API_")
		if fault.KindOf(err) != fault.Invalid || len(fault.FieldsOf(err)) != 1 || fault.FieldsOf(err)[0].Name != name {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	for _, s := range config.Settings(&c) {
		if s.Meaning == "" || (s.Name == "JWT_SECRET") && !s.Secret || (s.Name == "API_ADDR") && !s.Bind {
			t.Errorf("setting %+v", s)
		}
	}
}

func TestOpenRefusesWrongSettings(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"secret":        func(c *Config) { c.JWTSecret = "" },
		"redis":         func(c *Config) { c.RedisURL = "http://x" },
		"elasticsearch": func(c *Config) { c.ESHosts = []string{"x y"} },
		"worker":        func(c *Config) { c.Workers = []string{"nonsense"} },
		"proxy":         func(c *Config) { c.XSub = []string{"nonsense"} },
		"no proxy":      func(c *Config) { c.XSub = nil },
	} {
		c := anyPort(t)
		change(&c)
		if d, err := Open(context.Background(), c); fault.KindOf(err) != fault.Invalid || err == nil || d != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenSaysWhichAddressIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, change := range []func(*Config){
		func(c *Config) { c.Addr = l.Addr().String() },
		func(c *Config) { c.Metrics = l.Addr().String() },
		func(c *Config) { c.Health = "tcp://" + l.Addr().String() },
	} {
		c := anyPort(t)
		change(&c)
		if _, err := Open(context.Background(), c); fault.KindOf(err) != fault.Unavailable || err == nil {
			t.Errorf("%v", err)
		}
	}
}

// anyPort is a config whose sockets are on free ports and whose servers are away.
func anyPort(t testing.TB) Config {
	c := DefaultConfig()
	c.WALDir, c.WALMinFree = filepath.Join(t.TempDir(), "log"), 0
	c.XPub = []string{"tcp://127.0.0.1:1"}
	c.JWTSecret = secret
	c.Addr, c.Metrics, c.Health = "127.0.0.1:0", "127.0.0.1:0", "tcp://127.0.0.1:0"
	c.RedisURL = "redis://127.0.0.1:1"
	c.ESHosts = []string{"http://127.0.0.1:1"}
	c.Workers = []string{"tcp://127.0.0.1:1"}
	c.XSub = []string{"tcp://127.0.0.1:1"}
	return c
}
