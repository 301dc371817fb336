package keyring

import (
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/zmq"
	"eventspine/internal/zmq/curve"
)

// The settings that are read, as they are named to users.
const (
	keySetting   = "CURVE_KEY"
	peersSetting = "CURVE_PEERS"
)

// Ring holds this process's key pair and the keys of its peers. A nil Ring means that there is no
// encryption, and gives options that say so. Safe for concurrent use.
type Ring struct {
	pair  curve.Pair
	names map[curve.Key]string

	mu     sync.Mutex
	places map[string]curve.Key // by Address

	log   *slog.Logger
	quiet *quiet.Logger
	m     *metrics
}

// Open reads CURVE_KEY and CURVE_PEERS of cfg. The Ring is nil when both are empty. The key of every
// endpoint that cfg says this process connects to must be in the list. The error is Invalid, with
// a field for each mistake, which repeats no key. reg may be nil.
func Open(cfg config.Service, reg prometheus.Registerer) (*Ring, error) {
	c := cfg.Base()
	if c.CurveKey == "" && c.CurvePeers == "" {
		return nil, nil
	}
	r := &Ring{log: c.Log, names: map[curve.Key]string{}, places: map[string]curve.Key{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	wrong := r.readPair(c.CurveKey)
	wrong = append(wrong, r.readPeers(c.CurvePeers)...)
	if len(wrong) == 0 {
		wrong = r.missing(config.Settings(cfg))
	}
	if len(wrong) > 0 {
		return nil, fault.BadFields("", wrong...)
	}
	if r.names[r.pair.Public] == "" {
		r.names[r.pair.Public] = "this process"
		r.log.Warn("the public key of this process is not in CURVE_PEERS; peers that have the same list will refuse it", "key", r.pair.Public.Z85())
	}
	r.quiet, r.m = quiet.New(r.log, time.Second), newMetrics(reg)
	r.log.Info("CURVE is on: every ZeroMQ socket is encrypted", "peers", len(r.names))
	return r, nil
}

func bad(setting, reason string) []fault.Field {
	return []fault.Field{{Name: setting, Reason: reason}}
}

func (r *Ring) readPair(text string) []fault.Field {
	if text == "" {
		return bad(keySetting, "is empty, but CURVE_PEERS is set: nothing would be encrypted")
	}
	pair, err := curve.Parse([]byte(text))
	switch {
	case err != nil:
		return bad(keySetting, "is not a key pair as eventspine keygen makes it: "+err.Error())
	case pair.Secret.IsZero():
		return bad(keySetting, "holds no secret key: give the .key file, not the .pub one")
	}
	r.pair = pair
	return nil
}

func (r *Ring) readPeers(text string) []fault.Field {
	peers, err := Parse(text)
	switch {
	case err != nil:
		return bad(peersSetting, err.Error())
	case len(peers) == 0:
		return bad(peersSetting, "names no peer, but CURVE_KEY is set: nobody could connect")
	}
	for _, p := range peers {
		if p.Key == r.pair.Secret && !r.pair.Secret.IsZero() {
			return bad(peersSetting, "has the secret key of this process in the place of the public key of "+p.Name)
		}
		r.names[p.Key] = p.Name
		for _, a := range p.Addresses {
			r.places[a] = p.Key
		}
	}
	return nil
}

// missing names the endpoints that this process connects to and that have no key.
func (r *Ring) missing(settings []config.Setting) (wrong []fault.Field) {
	for _, s := range settings {
		if !s.Connect || s.Value == "" {
			continue
		}
		for _, endpoint := range strings.Split(s.Value, ",") {
			if _, err := Address(endpoint); err != nil {
				continue // connecting will say what is wrong with it
			}
			if _, err := r.find(endpoint); err != nil {
				wrong = append(wrong, fault.Field{Name: peersSetting, Reason: "has no key for " + endpoint + ", which " + s.Name + " names"})
			}
		}
	}
	return wrong
}

// Own notes that this process itself listens at endpoint, so that it can connect there
// although the list does not say whose it is.
func (r *Ring) Own(endpoint string) {
	if r == nil {
		return
	}
	if at, err := Address(endpoint); err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, listed := r.places[at]; !listed {
			r.places[at] = r.pair.Public
		}
	}
}

// Server are the options of a socket that binds. socket names it in logs and metrics, and is one
// of a few constants. Every peer of the list is let in, and nobody else.
func (r *Ring) Server(socket string) *zmq.CurveOptions {
	if r == nil {
		return nil
	}
	return &zmq.CurveOptions{Server: true, Public: r.pair.Public, Secret: r.pair.Secret, Domain: socket, Authorize: r.authorize}
}

// Client are the options of a socket that connects.
func (r *Ring) Client() *zmq.CurveOptions {
	if r == nil {
		return nil
	}
	return &zmq.CurveOptions{Public: r.pair.Public, Secret: r.pair.Secret, FindServer: r.find}
}

// find is the key that the server at endpoint has to prove.
func (r *Ring) find(endpoint string) (curve.Key, error) {
	if at, err := Address(endpoint); err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if key, known := r.places[at]; known {
			return key, nil
		}
		if host, _, err := net.SplitHostPort(at); err == nil && !strings.Contains(at, "://") {
			if key, known := r.places[host]; known {
				return key, nil
			}
		}
	}
	return curve.Key{}, fault.Errorf("", fault.Invalid, "CURVE_PEERS has no key for %s", endpoint)
}

var errNotListed = fault.Errorf("", fault.Forbidden, "its key is not in CURVE_PEERS")

func (r *Ring) authorize(p zmq.Peer) error {
	name, listed := r.names[p.Key]
	if !listed {
		r.m.refused.WithLabelValues(p.Domain).Inc()
		r.quiet.Warn("peer refused", "socket", p.Domain, "remote", p.Remote, "identity", p.Identity, "key", p.Key.Z85(), "reason", errNotListed.Error())
		return errNotListed
	}
	r.m.admitted.WithLabelValues(p.Domain).Inc()
	r.log.Info("peer admitted", "socket", p.Domain, "name", name, "remote", p.Remote)
	return nil
}
