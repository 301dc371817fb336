// Package config turns environment variables into one checked value per service. A setting
// is a struct field with two tags: env, its name, and doc, its meaning. Its default is the
// value the field already holds.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caarlos0/env/v11"
	"github.com/dustin/go-humanize"

	"eventspine/internal/fault"
)

// Common holds what every service is told. Embed it in a service's Config.
type Common struct {
	InstanceID      string     `env:"INSTANCE_ID" doc:"name of this process in logs, events and acknowledgements"`
	LogLevel        slog.Level `env:"LOG_LEVEL" doc:"least severe log line written: DEBUG, INFO, WARN or ERROR"`
	Health          string     `env:"ZMQ_HEALTH" doc:"endpoint of the REQ/REP health socket, answers PING with PONG; empty: none"`
	Metrics         string     `env:"METRICS_ADDR" doc:"address of /metrics, /healthz and /readyz; empty: none"`
	Control         []string   `env:"ZMQ_CONTROL" doc:"endpoints of the control plane (ZMQ_CONTROL_BIND of each proxy) where this service registers for eventspine status, separated by commas; empty: none" kind:"connect"`
	Statsd          string     `env:"STATSD_ADDR" doc:"host:port of a StatsD server that gets zmq.events.received and zmq.events.latency; empty: none"`
	AllowPublicBind bool       `env:"ALLOW_PUBLIC_BIND" doc:"allow sockets on every address of the machine (0.0.0.0)"`
	Curve

	// Service is the name under which it registers, such as worker; package run sets it. A
	// service without a name does not register.
	Service string

	// Log is where the service writes; never nil in a running service.
	Log *slog.Logger
}

// Curve holds the settings of encryption between ZeroMQ sockets.
type Curve struct {
	CurveKey   string `env:"CURVE_KEY" doc:"this process's key pair, the content of a .key file that eventspine keygen made; with it every ZeroMQ socket is encrypted and takes only peers of CURVE_PEERS; empty: no encryption" kind:"key"`
	CurvePeers string `env:"CURVE_PEERS" doc:"the peers whose keys are good, one a line: name, public key, and the addresses where it listens; eventspine keygen writes such a list" kind:"trust"`
}

// Base gives access to the common part of any service's Config.
func (c *Common) Base() *Common { return c }

// Service is a Config that embeds Common.
type Service interface{ Base() *Common }

// Validator is implemented by a Config that has rules beyond the types of its fields.
type Validator interface{ Validate() []fault.Field }

// Bytes is a size in bytes; in the environment also written as 64KiB, 16MiB or 2GB.
type Bytes uint64

// UnmarshalText reads a size such as 16MiB.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a size such as 64KiB or 16MiB", text)
	}
	*b = Bytes(n)
	return nil
}

// String writes the size as UnmarshalText reads it, without rounding.
func (b Bytes) String() string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	n, unit := uint64(b), 0
	for n != 0 && n%1024 == 0 && unit < len(units)-1 {
		n, unit = n/1024, unit+1
	}
	return strconv.FormatUint(n, 10) + units[unit]
}

// Load overlays the environment on the defaults in cfg, which must be a pointer to a struct
// with a Common in it, and checks the result. prefix, such as "WORKER_", is the service's own:
// a variable under it that no setting has is an error, as is every value that does not fit.
// All errors come at once, as one Invalid error with a field a wrong setting. A variable
// NAME_FILE gives the setting NAME the content of that file.
func Load(cfg Service, environ []string, prefix string) error {
	vars := env.ToMap(environ)
	delete(vars, "") // a nameless variable would be taken for the value of every field without a name
	known := settings(reflect.ValueOf(cfg).Elem(), nil)
	wrong := readFiles(vars, known)
	wrong = append(wrong, unknown(vars, known, prefix)...)
	wrong = append(wrong, parse(cfg, vars)...)
	clearEmpty(reflect.ValueOf(cfg).Elem(), vars)
	wrong = append(wrong, publicBinds(cfg, known)...)
	if v, ok := cfg.(Validator); ok && len(wrong) == 0 {
		wrong = append(wrong, v.Validate()...)
	}
	if len(wrong) > 0 {
		return fault.BadFields("", wrong...)
	}
	return nil
}

// parse reports one field per bad value, named as in the environment.
func parse(cfg Service, vars map[string]string) []fault.Field {
	var wrong []fault.Field
	err := env.ParseWithOptions(cfg, env.Options{Environment: vars})
	var all env.AggregateError
	if !errors.As(err, &all) {
		if err != nil {
			wrong = append(wrong, fault.Field{Name: "environment", Reason: err.Error()})
		}
		return wrong
	}
	names := fieldNames(reflect.TypeOf(cfg).Elem())
	for _, e := range all.Errors {
		var bad env.ParseError
		if errors.As(e, &bad) {
			name := names[bad.Name]
			wrong = append(wrong, fault.Field{Name: name, Reason: fmt.Sprintf("cannot be %q: %v", vars[name], cause(bad.Err))})
		} else {
			wrong = append(wrong, fault.Field{Name: "environment", Reason: e.Error()})
		}
	}
	return wrong
}

// clearEmpty empties the texts and lists whose variable is there and empty: METRICS_ADDR=
// means none, not the default.
func clearEmpty(v reflect.Value, vars map[string]string) {
	for i := range v.NumField() {
		f, field := v.Type().Field(i), v.Field(i)
		if f.Anonymous {
			clearEmpty(field, vars)
			continue
		}
		name := f.Tag.Get("env")
		if value, ok := vars[name]; name == "" || !ok || value != "" {
			continue
		}
		if k := field.Kind(); k == reflect.String || k == reflect.Slice {
			field.SetZero()
		}
	}
}

func cause(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err
}

func fieldNames(t reflect.Type) map[string]string {
	names := map[string]string{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			for k, v := range fieldNames(f.Type) {
				names[k] = v
			}
		} else if n := f.Tag.Get("env"); n != "" {
			names[f.Name] = n
		}
	}
	return names
}

func readFiles(vars map[string]string, known []Setting) []fault.Field {
	var wrong []fault.Field
	for _, s := range known {
		path, ok := vars[s.Name+"_FILE"]
		if !ok {
			continue
		}
		content, reason := readFile(path, s)
		if reason != "" {
			wrong = append(wrong, fault.Field{Name: s.Name + "_FILE", Reason: reason})
			continue
		}
		vars[s.Name] = strings.TrimSpace(content)
	}
	return wrong
}

// readFile gives the content of a setting's file, or the reason why it is not taken.
func readFile(path string, s Setting) (content, reason string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "cannot be read: " + err.Error()
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", "cannot be read: " + err.Error()
	}
	mode := info.Mode().Perm()
	switch {
	case s.Private && mode&0o004 != 0:
		return "", fmt.Sprintf("is %s, which everybody may read (mode %04o): make it mode 0600", path, mode)
	case s.Guarded && mode&0o002 != 0:
		return "", fmt.Sprintf("is %s, which everybody may change (mode %04o): make it mode 0644", path, mode)
	case (s.Private || s.Guarded) && strings.TrimSpace(string(b)) == "":
		return "", "is " + path + ", which is empty"
	}
	return string(b), ""
}

// unknown names the variables under prefix that no setting has. Those under CURVE_ are everybody's:
// a misspelt one would leave the process without encryption.
func unknown(vars map[string]string, known []Setting, prefix string) []fault.Field {
	var wrong []fault.Field
	for name := range vars {
		if (prefix == "" || !strings.HasPrefix(name, prefix)) && !strings.HasPrefix(name, "CURVE_") {
			continue
		}
		setting := strings.TrimSuffix(name, "_FILE")
		if !slices.ContainsFunc(known, func(s Setting) bool { return s.Name == name || s.Name == setting }) {
			wrong = append(wrong, fault.Field{Name: name, Reason: "is not a setting of this service; `eventspine config` lists them all"})
		}
	}
	slices.SortFunc(wrong, func(a, b fault.Field) int { return strings.Compare(a.Name, b.Name) })
	return wrong
}

// publicBinds refuses sockets on every address unless they were asked for.
func publicBinds(cfg Service, _ []Setting) []fault.Field {
	if cfg.Base().AllowPublicBind {
		return nil
	}
	var wrong []fault.Field
	for _, s := range settings(reflect.ValueOf(cfg).Elem(), nil) {
		if s.Bind && isPublic(s.Value) {
			wrong = append(wrong, fault.Field{Name: s.Name, Reason: fmt.Sprintf("is %s, every address of this machine: give one address, or set ALLOW_PUBLIC_BIND=true", s.Value)})
		}
	}
	return wrong
}

// isPublic reports whether one of the addresses, separated by commas, is every address of the
// machine: 0.0.0.0, ::, * or no host at all, with or without a scheme and a port.
func isPublic(addrs string) bool {
	return slices.ContainsFunc(strings.Split(addrs, ","), func(addr string) bool {
		addr = strings.TrimSpace(addr)
		if scheme, after, ok := strings.Cut(addr, "://"); ok {
			if scheme != "tcp" {
				return false // ipc and inproc stay on this machine
			}
			addr = after
		}
		if addr == "" {
			return false // none
		}
		host := strings.Trim(addr, "[]")
		if h, _, err := net.SplitHostPort(addr); err == nil {
			host = h
		}
		ip, err := netip.ParseAddr(host)
		return host == "" || host == "*" || err == nil && ip.Unmap().IsUnspecified()
	})
}

// Setting describes one setting, for `eventspine config` and the generated documentation.
type Setting struct {
	Name    string
	Value   string // the value in force; for a default config, the default
	Meaning string
	Secret  bool // never print the value
	Bind    bool // an address this service listens on
	Connect bool // ZeroMQ endpoints this service connects to
	Private bool // its file may not be readable by everybody
	Guarded bool // its file may not be writable by everybody
}

// Settings lists the settings of a service's Config, in the order of its fields.
func Settings(cfg Service) []Setting { return settings(reflect.ValueOf(cfg).Elem(), nil) }

func settings(v reflect.Value, out []Setting) []Setting {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			out = settings(v.Field(i), out)
			continue
		}
		name := f.Tag.Get("env")
		if name == "" {
			continue
		}
		kind := f.Tag.Get("kind")
		out = append(out, Setting{
			Name:    name,
			Value:   text(v.Field(i)),
			Meaning: f.Tag.Get("doc"),
			Secret:  kind == "secret" || kind == "key",
			Bind:    kind == "bind" || name == "ZMQ_HEALTH" || name == "METRICS_ADDR",
			Connect: kind == "connect",
			Private: kind == "key",
			Guarded: kind == "key" || kind == "trust",
		})
	}
	return out
}

func text(v reflect.Value) string {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String {
		return strings.Join(v.Interface().([]string), ",")
	}
	return fmt.Sprint(v.Interface())
}
