package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/config"
	"eventspine/internal/fault"
	"eventspine/internal/keyring"
	"eventspine/internal/rdb"
	"eventspine/internal/zmq"
)

const (
	lookTime   = 3 * time.Second        // for one look at one peer
	clockWarn  = 500 * time.Millisecond // difference to the clock of Redis
	clockWrong = 2 * time.Second
)

// socketFor is a socket that whoever binds the endpoint of this setting takes, and that asks for nothing.
func socketFor(setting string) zmq.Type {
	switch setting {
	case "ZMQ_PROCESSING_HOST":
		return zmq.Push
	case "ZMQ_PROXY_XSUB":
		return zmq.Pub
	case "ZMQ_PROXY_XPUB":
		return zmq.Sub
	}
	return zmq.Dealer // control plane and live rules are routers
}

// peers looks at every endpoint that the service connects to.
func (n *notes) peers(ctx context.Context, settings []config.Setting, keys *keyring.Ring) {
	for _, s := range settings {
		if !s.Connect {
			continue
		}
		all := split(s.Value)
		if s.Name == "ZMQ_CLONE" && len(all) == 3 {
			all = all[:1] // the other two are of other kinds, and on the same host
		}
		for _, endpoint := range all {
			at, ok := strings.CutPrefix(endpoint, "tcp://")
			if !ok {
				continue
			}
			err := handshake(ctx, socketFor(s.Name), endpoint, keys)
			if err == nil {
				n.fine("%s: %s", s.Name, endpoint)
				continue
			}
			if away := reach(ctx, at); away != nil { // a bare connection tells which of the two it is
				n.fail(mendReach(away), "%s: %s cannot be reached: %v", s.Name, endpoint, away)
				continue
			}
			n.fail("both ends need CURVE, or neither, and the same list of peers; after a change, restart both", "%s: %s is there, and the handshake fails: %v", s.Name, endpoint, err)
		}
	}
}

func reach(ctx context.Context, at string) error {
	c, err := (&net.Dialer{Timeout: lookTime}).DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	return c.Close()
}

// mendReach says what a refused, a silent and an unknown peer each mean.
func mendReach(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the machine is there and nobody listens: start the service there, or correct the port"
	case errors.As(err, &dns):
		return "the name is not known here: correct it, or the DNS of this machine"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "nothing answers: the machine is down, the address is wrong, or a firewall (security group) keeps us out"
	}
	return "correct the address, or the route to it"
}

// handshake connects as the service would, and waits until the peer took us.
func handshake(ctx context.Context, kind zmq.Type, endpoint string, keys *keyring.Ring) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	came := make(chan error, 1)
	tell := func(err error) {
		select {
		case came <- err:
		default:
		}
	}
	s := zmq.New(kind, zmq.Options{Curve: keys.Client(), Linger: -1, Monitor: func(e zmq.Event) {
		switch e.Kind {
		case zmq.Connected:
			tell(nil)
		case zmq.HandshakeFailed:
			tell(fmt.Errorf("handshake: %w", e.Err))
		}
	}})
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	if err := s.Connect(endpoint); err != nil {
		return err
	}
	select {
	case err := <-came:
		return err
	case <-ctx.Done():
		return errors.New("no answer in time")
	}
}

// heard is a log handler that keeps the warnings of whom it is given to.
type heard struct {
	slog.Handler
	n *notes
}

// Enabled lets warnings and errors through.
func (h heard) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle notes a warning, with the way to mend it where it has one.
func (h heard) Handle(_ context.Context, r slog.Record) error {
	mend, more := "", ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "fix" {
			mend = a.Value.String()
		} else {
			more += " " + a.Key + "=" + a.Value.String()
		}
		return true
	})
	h.n.warn(mend, "%s%s", r.Message, more)
	return nil
}

// redis looks whether Redis is there, takes our password, keeps what it is given, and has our time.
func (n *notes) redis(ctx context.Context, url string) {
	if url == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	client, err := rdb.Open(url)
	if err != nil {
		n.fail("correct REDIS_URL, in /etc/eventspine/secrets/redis_url", "REDIS_URL: %v", err)
		return
	}
	defer func() { _ = client.Close() }()
	switch err := rdb.Vet(ctx, client, slog.New(heard{slog.DiscardHandler, n})); {
	case fault.KindOf(err) == fault.Invalid && err != nil:
		n.fail("redis-cli CONFIG SET maxmemory-policy noeviction, and the same in /etc/eventspine/redis.conf", "Redis: %v", err)
		return
	case err != nil:
		n.fail(mendReach(err), "Redis: %v", err)
		return
	}
	off, err := rdb.Clock(ctx, client)
	switch {
	case err != nil:
		n.warn("", "Redis does not tell its time: %v", err)
	case off.Abs() > clockWrong:
		n.fail("let systemd-timesyncd or chrony keep the clock, here and there", "the clock of this machine and that of Redis are %v apart", off.Abs().Round(time.Millisecond))
	case off.Abs() > clockWarn:
		n.warn("let systemd-timesyncd or chrony keep the clock, here and there", "the clock of this machine and that of Redis are %v apart", off.Abs().Round(time.Millisecond))
	default:
		n.fine("Redis keeps everything, and its clock is ours")
	}
}

// elasticsearch looks whether it is there, and whether the index template is. The api works without it.
func (n *notes) elasticsearch(ctx context.Context, service string, settings []config.Setting) {
	hosts := split(value(settings, "ES_HOST"))
	if len(hosts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	a, err := archive.New(archive.Options{URLs: hosts, Index: value(settings, "ES_INDEX"), Timeout: lookTime})
	if err != nil {
		n.fail("correct ES_HOST", "%v", err)
		return
	}
	defer a.Close()
	if err := a.Ping(ctx); err != nil {
		note := n.fail
		if service == "api" {
			note = n.warn // only searches need it
		}
		note(mendReach(err), "Elasticsearch: %v", err)
		return
	}
	if service != "indexer" {
		n.fine("Elasticsearch answers")
		return
	}
	there, err := a.Prepared(ctx)
	switch {
	case err != nil:
		n.fail("the message says what is wrong", "Elasticsearch: %v", err)
	case !there:
		n.fail("start the indexer, which installs it (systemctl restart eventspine-indexer); until then new indices get a mapping that was guessed", "the index template is not installed")
	default:
		n.fine("Elasticsearch answers, and has the index template")
		n.full(ctx, a)
	}
}

// full looks whether Elasticsearch's disks let it take events.
func (n *notes) full(ctx context.Context, a *archive.Archive) {
	const mend = "make room there: a shorter INDEXER_RETENTION, or a larger disk; docs/operations.md says how"
	switch d, err := a.Disk(ctx); {
	case err != nil:
		n.warn("", "Elasticsearch does not tell how full its disks are: %v", err)
	case d.Flood || len(d.Blocked) > 0:
		n.fail(mend, "a disk of Elasticsearch is past its flood-stage watermark (%.0f %% full); nothing can be indexed", 100*d.Used)
	case d.High:
		n.warn(mend, "a disk of Elasticsearch is past its high watermark (%.0f %% full); the index of a new day may have no place", 100*d.Used)
	default:
		n.fine("Elasticsearch's disks are %.0f %% full", 100*d.Used)
	}
}
