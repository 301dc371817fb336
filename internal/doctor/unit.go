package doctor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Service is one service to look at, with the environment it gets.
type Service struct {
	Name    string // api, worker, proxy, indexer, bridge, redis or elasticsearch
	Unit    string // of systemd; empty: it is no unit
	Environ []string
	State   string // of the unit: active, failed, activating, inactive
	Last    string // what the journal has to say of a unit that is not active
}

// Units lists the services of this machine: its enabled or running units, with the environment
// that systemd would give them. Secrets come from the files that LoadCredential= names, not from the
// copies of a running unit.
func Units(ctx context.Context) ([]Service, error) {
	listed, err := systemctl(ctx, "list-units", "--all", "--plain", "--no-legend", "--full", "eventspine-*.service", "elasticsearch.service")
	if err != nil {
		return nil, fmt.Errorf("systemd cannot be asked for the units (%w); name the services whose settings are in the environment", err)
	}
	var all []Service
	for line := range strings.Lines(listed) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != "loaded" {
			continue
		}
		s := Service{Unit: f[0], Name: serviceOf(f[0]), State: f[2]}
		if s.Name == "" {
			continue
		}
		if enabled, _ := systemctl(ctx, "is-enabled", s.Unit); s.State == "inactive" && strings.TrimSpace(enabled) != "enabled" {
			continue
		}
		text, err := systemctl(ctx, "cat", s.Unit)
		if err != nil {
			return nil, err
		}
		s.Environ = environ(text, s.Unit)
		if s.State != "active" {
			s.Last = lastWords(ctx, s.Unit)
		}
		all = append(all, s)
	}
	return all, nil
}

func systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", append([]string{"--no-pager"}, args...)...).Output()
	return string(out), err
}

// lastWords is the last line in the journal that the unit itself wrote as it failed, or empty.
func lastWords(ctx context.Context, unit string) string {
	out, err := exec.CommandContext(ctx, "journalctl", "--no-pager", "-q", "-o", "cat", "-n", "50", "-u", unit).Output()
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(out) {
		text := strings.TrimSpace(string(line))
		if strings.HasPrefix(text, "eventspine ") || strings.Contains(text, `"level":"ERROR"`) || strings.Contains(text, "FATAL") || strings.Contains(text, "credentials") {
			last = text
		}
	}
	return last
}

// serviceOf is the service that a unit runs, or empty.
func serviceOf(unit string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(unit, "eventspine-"), ".service")
	name, _, _ = strings.Cut(name, "@")
	switch name {
	case "api", "worker", "proxy", "indexer", "bridge", "redis", "elasticsearch":
		return name
	}
	return ""
}

// environ is the environment of a unit: the text that `systemctl cat` prints, with its
// EnvironmentFile= read. Later lines win, as in systemd; a credential is the file it is loaded from.
func environ(text, unit string) []string {
	full := strings.TrimSuffix(unit, ".service")
	prefix, instance, _ := strings.Cut(full, "@")
	fill := strings.NewReplacer("%i", instance, "%I", instance, "%n", unit, "%N", full, "%p", prefix, "%S", "/var/lib", "%%", "%")
	credentials := map[string]string{}
	var direct, files []string
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		value = fill.Replace(value)
		switch key {
		case "LoadCredential":
			name, path, _ := strings.Cut(value, ":")
			credentials[name] = path
		case "Environment":
			direct = append(direct, strings.Fields(value)...)
		case "EnvironmentFile":
			files = append(files, readEnv(strings.TrimPrefix(value, "-"))...)
		case "UnsetEnvironment":
			for _, name := range strings.Fields(value) {
				direct = without(direct, name)
				files = without(files, name)
			}
		}
	}
	all := slices.Concat(direct, files)
	for i, v := range all {
		name, value, _ := strings.Cut(v, "=")
		if id, ok := strings.CutPrefix(value, "%d/"); ok {
			all[i] = name + "=" + credentials[id]
		}
	}
	return all
}

func without(all []string, name string) []string {
	kept := all[:0]
	for _, v := range all {
		if n, _, _ := strings.Cut(v, "="); n != name {
			kept = append(kept, v)
		}
	}
	return kept
}

// readEnv reads one EnvironmentFile; one that is not there is empty.
func readEnv(path string) (all []string) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		all = append(all, strings.TrimSpace(name)+"="+value)
	}
	return all
}
