// Package suite runs the whole pipeline in one process: the same five services that the
// programs run, over real loopback sockets, wired to each other's addresses.
//
//	api ══PUSH/PULL══▶ worker ══PUB▶XSUB══ proxy ══XPUB▶SUB══▶ indexer ▶ Elasticsearch
//	                                                       └══▶ bridge  ▶ browsers
//
// It shuts down with the data: upstream first, and each stage drains before the next is told.
package suite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"eventspine/internal/api"
	"eventspine/internal/bridge"
	"eventspine/internal/config"
	"eventspine/internal/indexer"
	"eventspine/internal/proxy"
	"eventspine/internal/worker"
)

// Config holds the settings of the five services. Open replaces those that name another
// service's address.
type Config struct {
	API     api.Config
	Worker  worker.Config
	Proxy   proxy.Config
	Indexer indexer.Config
	Bridge  bridge.Config
}

// ServiceDefaults has the defaults of each service as it runs in a process of its own.
func ServiceDefaults() Config {
	return Config{api.DefaultConfig(), worker.DefaultConfig(), proxy.DefaultConfig(), indexer.DefaultConfig(), bridge.DefaultConfig()}
}

// DefaultConfig has the default settings of every service, the health sockets and the
// metrics of each on ports of their own, since they share a host here.
func DefaultConfig() Config {
	c := ServiceDefaults()
	for i, n := range c.named() {
		n.common.InstanceID, n.common.Service = n.name+"-1", n.name
		n.common.Health, n.common.Metrics = "", fmt.Sprintf("127.0.0.1:%d", 9464+i)
	}
	c.API.Health, c.Worker.Health = "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"
	c.Indexer.SnailLimit, c.Bridge.SnailLimit = 0, 0 // there is nobody to start one of them again
	return c
}

// AnyPort moves every socket to a free port of the loopback interface.
func (c *Config) AnyPort() {
	for _, n := range c.named() {
		n.common.Health, n.common.Metrics = "tcp://127.0.0.1:0", "127.0.0.1:0"
	}
	c.API.Addr, c.Bridge.Addr = "127.0.0.1:0", "127.0.0.1:0"
	c.API.Port, c.Bridge.Port = 0, 0
	c.Worker.Bind = "tcp://127.0.0.1:0"
	c.Proxy.XSubBind, c.Proxy.XPubBind, c.Proxy.ControlBind = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"
	c.Proxy.CloneSnapshot, c.Proxy.CloneUpdates, c.Proxy.CloneChanges = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"
}

// Servers points every service at these servers, and the token checks at this secret.
func (c *Config) Servers(redisURL, esURL, secret string) {
	c.API.RedisURL, c.Worker.RedisURL, c.Indexer.RedisURL, c.Bridge.RedisURL = redisURL, redisURL, redisURL, redisURL
	c.API.ESHosts, c.Indexer.ESHosts = []string{esURL}, []string{esURL}
	c.API.JWTSecret, c.Bridge.JWTSecret = secret, secret
}

// Data gives every service that keeps something on disk its place below dir.
func (c *Config) Data(dir string) {
	c.Proxy.DataDir = dir
	c.API.WALDir = filepath.Join(dir, "api")
	c.Indexer.SpoolDir = filepath.Join(dir, "indexer")
}

// Curve gives every service this key and this list of peers, as CURVE_KEY and CURVE_PEERS have them:
// they are one process.
func (c *Config) Curve(key, peers string) {
	for _, n := range c.named() {
		n.common.CurveKey, n.common.CurvePeers = key, peers
	}
}

// Logger makes every service write to log, under its own name.
func (c *Config) Logger(log *slog.Logger) {
	for _, n := range c.named() {
		n.common.Log = log.With("service", n.name)
	}
}

type named struct {
	name   string
	common *config.Common
}

func (c *Config) named() []named {
	return []named{{"api", &c.API.Common}, {"worker", &c.Worker.Common}, {"proxy", &c.Proxy.Common},
		{"indexer", &c.Indexer.Common}, {"bridge", &c.Bridge.Common}}
}

// stage is one service that was opened.
type stage struct {
	name string
	run  func(context.Context) error
}

// Suite is the opened pipeline: every socket is bound, nothing runs yet.
type Suite struct {
	API, Bridge string   // host:port
	Worker      string   // endpoint to PUSH to
	XSub, XPub  string   // the proxy's endpoints
	Clone       []string // where the live rules are: snapshots, updates, changes; empty: nowhere
	Control     string   // the proxy's control plane; empty: none
	Health      []string // the endpoints that answer PING

	stages []stage // in the order of the data
}

// Open opens the five services. On an error those already opened are closed again.
func Open(ctx context.Context, c Config) (*Suite, error) {
	s := &Suite{}
	if err := s.open(ctx, c); err != nil {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		return nil, errors.Join(err, s.Run(ended)) // Run of an ended context only closes
	}
	return s, nil
}

func (s *Suite) open(ctx context.Context, c Config) error {
	p, err := proxy.Open(ctx, c.Proxy)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	s.XSub, s.XPub, s.Control = p.XSub(), p.XPub(), p.Control()
	if s.Control != "" {
		for _, n := range c.named() {
			n.common.Control = []string{s.Control}
		}
	}
	xsub, xpub := []string{s.XSub}, []string{s.XPub}
	last := []stage{{"proxy", func(ctx context.Context) error { return proxy.Run(ctx, c.Proxy, p) }}}
	s.stages = last

	c.Worker.XSub, c.Worker.XPub = xsub, xpub
	if at := p.Clone(); at.Snapshot != "" {
		s.Clone = []string{at.Snapshot, at.Updates, at.Changes}
		c.Worker.Clone = s.Clone
	}
	w, err := worker.Open(ctx, c.Worker)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	s.Worker = w.Endpoint()
	s.stages = append([]stage{{"worker", func(ctx context.Context) error { return worker.Run(ctx, c.Worker, w) }}}, last...)

	c.API.Workers, c.API.XSub, c.API.XPub = []string{s.Worker}, xsub, xpub
	a, err := api.Open(ctx, c.API)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	s.API = a.Addr()
	s.stages = append([]stage{{"api", func(ctx context.Context) error { return api.Run(ctx, c.API, a) }}}, s.stages...)

	c.Indexer.Proxies, c.Bridge.XPub = xpub, xpub
	i, err := indexer.Open(ctx, c.Indexer)
	if err != nil {
		return fmt.Errorf("indexer: %w", err)
	}
	s.stages = append(s.stages, stage{"indexer", func(ctx context.Context) error { return indexer.Run(ctx, c.Indexer, i) }})
	b, err := bridge.Open(ctx, c.Bridge)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	s.Bridge = b.Addr()
	for _, at := range []string{a.Health(), w.Health(), p.Health(), i.Health(), b.Health()} {
		if at != "" {
			s.Health = append(s.Health, at)
		}
	}
	s.stages = append(s.stages, stage{"bridge", func(ctx context.Context) error { return bridge.Run(ctx, c.Bridge, b) }})
	return nil
}

// Run runs the services until ctx ends or one of them fails, then ends them all, upstream
// first. It returns nil after a clean drain.
func (s *Suite) Run(ctx context.Context) error {
	type running struct {
		stop context.CancelFunc
		err  chan error
	}
	failed := make(chan struct{}, len(s.stages)) // one place for each service: telling never waits
	all := make([]running, len(s.stages))
	for i, st := range s.stages {
		own, stop := context.WithCancel(context.WithoutCancel(ctx))
		if ctx.Err() != nil {
			stop()
		}
		all[i] = running{stop, make(chan error, 1)}
		go func() {
			err := st.run(own)
			all[i].err <- err
			failed <- struct{}{}
		}()
	}
	select {
	case <-ctx.Done():
	case <-failed:
	}
	var errs []error
	for i, r := range all {
		r.stop()
		if err := <-r.err; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.stages[i].name, err))
		}
	}
	return errors.Join(errs...)
}
