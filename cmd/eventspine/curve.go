package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"eventspine/internal/config"
	"eventspine/internal/keyring"
	"eventspine/internal/zmq"
)

// curveFlags are the key and the list of a verb that speaks ZeroMQ.
type curveFlags struct{ key, peers string }

func (k *curveFlags) flags(c *cobra.Command) {
	c.PersistentFlags().StringVar(&k.key, "curve-key", "", "file with our key pair, for services with CURVE (CURVE_KEY_FILE, or its content in CURVE_KEY)")
	c.PersistentFlags().StringVar(&k.peers, "curve-peers", "", "file with the list of peers and their public keys (CURVE_PEERS_FILE, or its content in CURVE_PEERS)")
}

// operator is the Config of whoever runs a verb: only the CURVE settings.
type operator struct{ config.Curve }

// Base gives the settings to package keyring.
func (o *operator) Base() *config.Common { return &config.Common{Curve: o.Curve} }

// options are those of our sockets; nil without CURVE. Keys come from the flags, then from the
// environment, then from a running `eventspine dev --curve`.
func (k *curveFlags) options(l local) (*zmq.CurveOptions, error) {
	environ := os.Environ()
	fromDev := k.key == "" && k.peers == ""
	for _, name := range []string{"CURVE_KEY", "CURVE_KEY_FILE", "CURVE_PEERS", "CURVE_PEERS_FILE"} {
		fromDev = fromDev && os.Getenv(name) == ""
	}
	key, peers := k.key, k.peers
	if fromDev {
		key, peers = l.CurveKey, l.CurvePeers
	}
	for name, path := range map[string]string{"CURVE_KEY_FILE": key, "CURVE_PEERS_FILE": peers} {
		if path = cmp.Or(path, os.Getenv(name)); path != "" {
			environ = append(environ, name+"="+path)
		}
	}
	var o operator
	if err := config.Load(&o, environ, ""); err != nil {
		return nil, err
	}
	ring, err := keyring.Open(&o, nil)
	if err != nil {
		return nil, err
	}
	return ring.Client(), nil
}
