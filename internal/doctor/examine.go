package doctor

import (
	"context"
	"fmt"
	"strings"

	"eventspine/internal/api"
	"eventspine/internal/bridge"
	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/indexer"
	"eventspine/internal/keyring"
	"eventspine/internal/proxy"
	"eventspine/internal/worker"
)

// settingsOf are the defaults of a service and the prefix of its own settings; nil for one that is
// not ours.
func settingsOf(name string) (config.Service, string) {
	switch name {
	case "api":
		c := api.DefaultConfig()
		return &c, "API_"
	case "worker":
		c := worker.DefaultConfig()
		return &c, "WORKER_"
	case "proxy":
		c := proxy.DefaultConfig()
		return &c, "PROXY_"
	case "indexer":
		c := indexer.DefaultConfig()
		return &c, "INDEXER_"
	case "bridge":
		c := bridge.DefaultConfig()
		return &c, "BRIDGE_"
	}
	return nil, ""
}

// Named is the service whose settings are in the environment. The error, Invalid, says that there is none of this name.
func Named(name string, environ []string) (Service, error) {
	if c, _ := settingsOf(name); c == nil {
		return Service{}, fault.Errorf("", fault.Invalid, "%q is no service: api, worker, proxy, indexer or bridge", name)
	}
	return Service{Name: name, Environ: environ}, nil
}

// Examine looks at each of the services, one after the other, each look within a few seconds, and
// returns what it found in that order. Nothing is changed, and nothing is left behind.
func Examine(ctx context.Context, services []Service) []Finding {
	all := clock()
	for i := range services {
		all = append(all, one(ctx, &services[i])...)
	}
	return all
}

func one(ctx context.Context, s *Service) []Finding {
	n := &notes{where: s.Name}
	if s.Unit != "" {
		n.where = s.Unit
		n.state(s)
	}
	c, prefix := settingsOf(s.Name)
	if c == nil {
		return n.all
	}
	wrong := config.Load(c, s.Environ, prefix)
	if wrong != nil {
		n.fields(wrong)
	} else {
		n.fine("settings and secrets")
	}
	settings := config.Settings(c)
	n.listening(ctx, s, binds(settings))
	n.disks(settings)
	keys, err := keyring.Open(c, nil)
	switch {
	case err != nil && strings.Contains(fmt.Sprint(wrong), "CURVE_"): // said already
	case err != nil:
		n.curve(err)
	default:
		n.encrypted(keys != nil)
		n.peers(ctx, settings, keys)
	}
	n.redis(ctx, value(settings, "REDIS_URL"))
	n.elasticsearch(ctx, s.Name, settings)
	return n.all
}

// state is what systemd says.
func (n *notes) state(s *Service) {
	if s.State == "active" {
		n.fine("the unit is active")
		return
	}
	why := ""
	if s.Last != "" {
		why = ": " + s.Last
	}
	n.fail("mend what the line says, then: systemctl restart "+s.Unit+"   (all of its journal: journalctl -u "+s.Unit+")", "the unit is %s%s", s.State, why)
}

// curve are errors of key and list that the settings alone did not show.
func (n *notes) curve(err error) {
	for _, f := range fault.FieldsOf(err) {
		n.fail("make keys and list with `eventspine keygen --three-machines` or add the name to them, and put them under /etc/eventspine/secrets/curve", "%s %s", f.Name, f.Reason)
	}
}

func (n *notes) encrypted(on bool) {
	if on {
		n.fine("CURVE is on, and has a key for every endpoint")
		return
	}
	n.warn("give it CURVE_KEY_FILE and CURVE_PEERS_FILE: `eventspine keygen --help`", "CURVE is off: whoever reaches its ports can read and send events")
}

func value(settings []config.Setting, name string) string {
	for _, s := range settings {
		if s.Name == name {
			return s.Value
		}
	}
	return ""
}

func split(list string) (all []string) {
	for _, x := range strings.Split(list, ",") {
		if x = strings.TrimSpace(x); x != "" {
			all = append(all, x)
		}
	}
	return all
}
