package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"eventspine/internal/fault"
)

type demo struct {
	Common
	Port    int           `env:"PORT" doc:"the port"`
	Addr    string        `env:"DEMO_ADDR" doc:"where it listens" kind:"bind"`
	Binds   []string      `env:"DEMO_BINDS" doc:"where else it listens" kind:"bind"`
	Secret  string        `env:"JWT_SECRET" doc:"the secret" kind:"secret"`
	Workers []string      `env:"DEMO_WORKERS" doc:"endpoints"`
	Size    Bytes         `env:"DEMO_SIZE" doc:"a size"`
	Wait    time.Duration `env:"DEMO_WAIT" doc:"a time"`
	On      bool          `env:"DEMO_ON" doc:"a switch"`
	Hidden  string        // no setting
}

func (d *demo) Validate() []fault.Field {
	if d.Port == 13 {
		return []fault.Field{{Name: "PORT", Reason: "is unlucky"}}
	}
	return nil
}

func defaults() demo {
	return demo{
		Common: Common{InstanceID: "demo-1", Health: "tcp://127.0.0.1:5555", Metrics: "127.0.0.1:9464"},
		Port:   3000, Addr: "127.0.0.1", Workers: []string{"a"}, Size: 64 << 20, Wait: time.Second, Hidden: "h",
	}
}

func TestLoadOverlaysTheEnvironment(t *testing.T) {
	d := defaults()
	err := Load(&d, []string{
		"PORT=4000", "DEMO_WORKERS=a,b", "DEMO_SIZE=1KiB", "DEMO_WAIT=250ms", "DEMO_ON=true", "LOG_LEVEL=debug", "INSTANCE_ID=x",
		"JWT_SECRET=a=b", "OTHER_THING=1", "HIDDEN=2", "strange", "=x",
	}, "DEMO_")
	if err != nil {
		t.Fatal(err)
	}
	if d.Port != 4000 || strings.Join(d.Workers, "+") != "a+b" || d.Size != 1024 || d.Wait != 250*time.Millisecond || !d.On ||
		d.LogLevel != slog.LevelDebug || d.InstanceID != "x" || d.Secret != "a=b" || d.Hidden != "h" || d.Metrics != "127.0.0.1:9464" {
		t.Errorf("loaded %+v", d)
	}
}

func TestLoadWithoutEnvironmentKeepsTheDefaults(t *testing.T) {
	d, want := defaults(), defaults()
	if err := Load(&d, nil, "DEMO_"); err != nil {
		t.Fatal(err)
	}
	for i, s := range Settings(&d) {
		if s != Settings(&want)[i] {
			t.Errorf("%+v, want %+v", s, Settings(&want)[i])
		}
	}
}

func TestAnEmptyVariableEmptiesTheSetting(t *testing.T) {
	d := defaults()
	if err := Load(&d, []string{"METRICS_ADDR=", "ZMQ_HEALTH=", "DEMO_WORKERS=", "PORT=", "DEMO_SIZE="}, "DEMO_"); err != nil {
		t.Fatal(err)
	}
	if d.Metrics != "" || d.Health != "" || len(d.Workers) != 0 {
		t.Errorf("loaded %+v", d)
	}
	if d.Port != 3000 || d.Size != 64<<20 {
		t.Errorf("numbers have no empty value, their defaults stay: %+v", d)
	}
}

func TestLoadNamesEveryMistake(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for name, c := range map[string]struct {
		environ []string
		want    string
	}{
		"number":             {[]string{"PORT=many"}, "PORT"},
		"time":               {[]string{"DEMO_WAIT=soon"}, "DEMO_WAIT"},
		"switch":             {[]string{"DEMO_ON=perhaps"}, "DEMO_ON"},
		"size":               {[]string{"DEMO_SIZE=big"}, "DEMO_SIZE"},
		"level":              {[]string{"LOG_LEVEL=loud"}, "LOG_LEVEL"},
		"unknown":            {[]string{"DEMO_Z=1", "DEMO_COLOUR=red"}, "DEMO_COLOUR DEMO_Z"},
		"unknown file":       {[]string{"DEMO_COLOUR_FILE=/x"}, "DEMO_COLOUR_FILE"},
		"file that is away":  {[]string{"JWT_SECRET_FILE=" + missing}, "JWT_SECRET_FILE"},
		"misspelt key":       {[]string{"CURVE_KEYFILE=x"}, "CURVE_KEYFILE"},
		"public bind":        {[]string{"DEMO_ADDR=0.0.0.0"}, "DEMO_ADDR"},
		"public health":      {[]string{"ZMQ_HEALTH=tcp://*:5555"}, "ZMQ_HEALTH"},
		"public metrics":     {[]string{"METRICS_ADDR=:9464"}, "METRICS_ADDR"},
		"second of a list":   {[]string{"DEMO_BINDS=tcp://127.0.0.1:1,tcp://0.0.0.0:2"}, "DEMO_BINDS"},
		"rules of its own":   {[]string{"PORT=13"}, "PORT"},
		"all at once":        {[]string{"PORT=many", "DEMO_WAIT=soon", "DEMO_COLOUR=red", "DEMO_ADDR=[::]:80"}, "DEMO_COLOUR PORT DEMO_WAIT DEMO_ADDR"},
		"rules come at last": {[]string{"PORT=13", "DEMO_WAIT=soon"}, "DEMO_WAIT"},
	} {
		t.Run(name, func(t *testing.T) {
			d := defaults()
			err := Load(&d, c.environ, "DEMO_")
			if fault.KindOf(err) != fault.Invalid || err == nil {
				t.Fatalf("got %v", err)
			}
			var names []string
			for _, f := range fault.FieldsOf(err) {
				names = append(names, f.Name)
				if f.Reason == "" || strings.Contains(f.Reason, "\n") {
					t.Errorf("%s: the reason %q is not one line", f.Name, f.Reason)
				}
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("named %q, want %q (%v)", got, c.want, err)
			}
		})
	}
}

func TestAServiceWithoutPrefixTakesAnyVariable(t *testing.T) {
	d := defaults()
	if err := Load(&d, []string{"DEMO_COLOUR=red"}, ""); err != nil {
		t.Error(err)
	}
}

func TestSettingsFromFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("  from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := defaults()
	if err := Load(&d, []string{"JWT_SECRET_FILE=" + path, "JWT_SECRET=from the environment", "DEMO_ADDR_FILE=" + path}, "DEMO_"); err != nil {
		t.Fatal(err)
	}
	if d.Secret != "from a file" || d.Addr != "from a file" {
		t.Errorf("loaded %+v", d)
	}
}

// An empty key file must not mean that nothing is encrypted.
func TestEmptyKeyFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := defaults()
	if err := Load(&d, []string{"CURVE_KEY_FILE=" + path}, "DEMO_"); fault.KindOf(err) != fault.Invalid || err == nil {
		t.Errorf("got %v", err)
	}
}

// A key that everybody may read and a list that everybody may change are refused.
func TestOpenFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		setting string
		mode    os.FileMode
		good    bool
	}{
		{"CURVE_KEY", 0o600, true}, {"CURVE_KEY", 0o640, true}, {"CURVE_KEY", 0o644, false}, {"CURVE_KEY", 0o602, false},
		{"CURVE_PEERS", 0o644, true}, {"CURVE_PEERS", 0o646, false}, {"JWT_SECRET", 0o644, true},
	} {
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		d := defaults()
		err := Load(&d, []string{c.setting + "_FILE=" + path}, "DEMO_")
		if c.good != (err == nil) {
			t.Errorf("%s of mode %v: %v", c.setting, c.mode, err)
		}
		if err != nil && (len(fault.FieldsOf(err)) != 1 || fault.FieldsOf(err)[0].Name != c.setting+"_FILE" || strings.Contains(err.Error(), "hush")) {
			t.Errorf("%v", err)
		}
	}
}

func TestPublicBinds(t *testing.T) {
	for addr, public := range map[string]bool{
		"": false, "127.0.0.1": false, "127.0.0.1:80": false, "10.0.1.10:80": false, "tcp://127.0.0.1:5557": false, "[::1]:80": false, "::1": false,
		"localhost:80": false, "ipc:///tmp/*:0": false, "inproc://x": false, "tcp://eth0:5557": false, "[fe80::1%eth0]:80": false,
		"0.0.0.0": true, "0.0.0.0:80": true, ":80": true, "*:80": true, "*": true, "tcp://*:5557": true, "tcp://0.0.0.0:5557": true, "::": true,
		"[::]": true, "[::]:80": true, "[::0]:80": true, "[0:0:0:0:0:0:0:0]:80": true, "[::ffff:0.0.0.0]:80": true, "127.0.0.1:1, 0.0.0.0:2": true,
	} {
		if got := isPublic(addr); got != public {
			t.Errorf("%q counts as public: %v, want %v", addr, got, public)
		}
	}
	d := defaults()
	if err := Load(&d, []string{"DEMO_ADDR=0.0.0.0", "ALLOW_PUBLIC_BIND=true"}, "DEMO_"); err != nil {
		t.Errorf("asked for, yet refused: %v", err)
	}
}

func TestSettingsDescribeThemselves(t *testing.T) {
	d := defaults()
	d.Secret = "hush"
	d.Workers = []string{"a", "b"}
	byName := map[string]Setting{}
	var order []string
	for _, s := range Settings(&d) {
		byName[s.Name] = s
		order = append(order, s.Name)
	}
	want := "INSTANCE_ID LOG_LEVEL ZMQ_HEALTH METRICS_ADDR ZMQ_CONTROL STATSD_ADDR ALLOW_PUBLIC_BIND CURVE_KEY CURVE_PEERS PORT DEMO_ADDR DEMO_BINDS JWT_SECRET DEMO_WORKERS DEMO_SIZE DEMO_WAIT DEMO_ON"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("settings are %s", got)
	}
	for name, want := range map[string]Setting{
		"PORT":         {Name: "PORT", Value: "3000", Meaning: "the port"},
		"DEMO_ADDR":    {Name: "DEMO_ADDR", Value: "127.0.0.1", Meaning: "where it listens", Bind: true},
		"JWT_SECRET":   {Name: "JWT_SECRET", Value: "hush", Meaning: "the secret", Secret: true},
		"DEMO_WORKERS": {Name: "DEMO_WORKERS", Value: "a,b", Meaning: "endpoints"},
		"DEMO_SIZE":    {Name: "DEMO_SIZE", Value: "64MiB", Meaning: "a size"},
		"DEMO_WAIT":    {Name: "DEMO_WAIT", Value: "1s", Meaning: "a time"},
		"LOG_LEVEL":    {Name: "LOG_LEVEL", Value: "INFO", Meaning: byName["LOG_LEVEL"].Meaning},
	} {
		if byName[name] != want {
			t.Errorf("%+v, want %+v", byName[name], want)
		}
	}
	if !byName["METRICS_ADDR"].Bind || !byName["ZMQ_HEALTH"].Bind {
		t.Error("the addresses every service listens on are not marked")
	}
	if !byName["ZMQ_CONTROL"].Connect || !byName["CURVE_KEY"].Secret || !byName["CURVE_KEY"].Private || !byName["CURVE_PEERS"].Guarded {
		t.Error("what keys and connections need is not marked")
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "1500": 1500, "64KiB": 64 << 10, "16 MiB": 16 << 20, "2GB": 2e9, "1.5KiB": 1536, "1kb": 1000,
	} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q is %d, %v; want %d", text, b, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "1 parsec", "KiB", "1e400", "99999999999EiB", "NaN"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, b)
		}
	}
	for b, want := range map[Bytes]string{0: "0B", 1: "1B", 1500: "1500B", 1536: "1536B", 64 << 10: "64KiB", 1 << 40: "1TiB", 3 << 60: "3EiB"} {
		if b.String() != want {
			t.Errorf("%d is written %s, want %s", uint64(b), b, want)
		}
	}
}

// Whole sizes below 2^53 come back as they were written.
func TestBytesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Uint64Range(0, 1<<53).Draw(t, "size"))
		if rapid.Bool().Draw(t, "round") {
			b = b >> 20 << 20
		}
		var back Bytes
		if err := back.UnmarshalText([]byte(b.String())); err != nil || back != b {
			t.Fatalf("%d was written %s and read %d, %v", uint64(b), b, uint64(back), err)
		}
	})
}

func FuzzBytes(f *testing.F) {
	for _, s := range []string{"64KiB", "1.5 MB", "-1", "NaN", "1e9", "", "0x10", "1,000", "∞"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b Bytes
		if err := b.UnmarshalText([]byte(s)); err != nil {
			if b != 0 {
				t.Fatalf("%q gave %d and %v", s, b, err)
			}
			return
		}
		var back Bytes
		if err := back.UnmarshalText([]byte(b.String())); err != nil || b < 1<<53 && back != b {
			t.Fatalf("%q is %d, written %s, read %d, %v", s, uint64(b), b, uint64(back), err)
		}
	})
}
