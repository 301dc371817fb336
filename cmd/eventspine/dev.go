package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/auth"
	embeddedredis "eventspine/internal/embedded/redis"
	embeddedsearch "eventspine/internal/embedded/search"
	"eventspine/internal/keyring"
	"eventspine/internal/run"
	"eventspine/internal/suite"
	"eventspine/internal/zmq/curve"
)

func devCommand() *cobra.Command {
	var d dev
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run all five services here, with an embedded Redis and search index",
		Long: "Run all five services in one process over real loopback sockets. REDIS_URL and ES_HOST, when set,\n" +
			"name real servers to use instead of the embedded ones. Ctrl-C ends it.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			run.Relax()
			d.out = c.OutOrStdout()
			return d.run(c.Context())
		},
	}
	c.Flags().StringVar(&d.dir, "dir", defaultDir, "where the index, the log and the secret are kept")
	c.Flags().BoolVar(&d.curve, "curve", false, "encrypt every ZeroMQ socket; the keys are made at the first time and kept in --dir")
	c.Flags().BoolVar(&d.anyPort, "any-port", false, "use free ports instead of the documented ones")
	return c
}

type dev struct {
	dir     string
	anyPort bool
	curve   bool
	out     io.Writer

	redis, es string
	closers   []func() error
}

func (d *dev) run(ctx context.Context) (err error) {
	started := time.Now()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := d.lock(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	logFile, err := os.OpenFile(filepath.Join(d.dir, "dev.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, logFile.Close)
	log := slog.New(slog.NewJSONHandler(logFile, nil))
	secret, err := d.secret()
	if err != nil {
		return err
	}
	if err := d.servers(ctx, log); err != nil {
		return err
	}
	c := suite.DefaultConfig()
	c.Servers(d.redis, d.es, secret)
	c.Logger(log)
	c.Data(d.dir)
	if d.anyPort {
		c.AnyPort()
	}
	l := local{Secret: secret, Redis: d.redis, ES: d.es}
	if d.curve {
		if err := d.keys(&c, &l); err != nil {
			return err
		}
	}
	s, err := suite.Open(ctx, c)
	if err != nil {
		return fmt.Errorf("%w (is another `eventspine dev` running? --any-port uses free ports)", err)
	}
	l.API, l.Bridge, l.XPub, l.Control, l.Clone, l.Health = "http://"+s.API, "http://"+s.Bridge, s.XPub, s.Control, s.Clone, s.Health
	if err := errors.Join(l.save(d.dir), d.announce(s, l, time.Since(started))); err != nil {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		return errors.Join(err, s.Run(ended))
	}
	err = s.Run(ctx)
	_, _ = fmt.Fprintln(d.out, "stopped")
	return errors.Join(err, os.Remove(filepath.Join(d.dir, localFile)))
}

// lock keeps a second `eventspine dev` off the data directory for as long as this one lives.
func (d *dev) lock() error {
	f, err := os.OpenFile(filepath.Join(d.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, f.Close)
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return usage(fmt.Errorf("another `eventspine dev` uses %s; end it, or give --dir", d.dir))
	}
	return nil
}

// secret is JWT_SECRET, or one made at the first run and kept, so that tokens stay good.
func (d *dev) secret() (string, error) {
	if s := os.Getenv("JWT_SECRET"); s != "" {
		return s, nil
	}
	path := filepath.Join(d.dir, "secret")
	b, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	s := rand.Text() + rand.Text()
	return s, os.WriteFile(path, []byte(s+"\n"), 0o600)
}

// keys gives the services their key and the list of who may connect, made at the first time: the
// services are one peer, since they are one process, and the operator is the other.
func (d *dev) keys(c *suite.Config, l *local) error {
	dir, err := filepath.Abs(filepath.Join(d.dir, "keys"))
	if err != nil {
		return err
	}
	list := filepath.Join(dir, peersFile)
	if _, err := os.Stat(list); errors.Is(err, fs.ErrNotExist) {
		err = makeKeys(dir, []keyring.Peer{{Name: "services", Addresses: []string{"127.0.0.1"}}, {Name: "operator"}})
		if err != nil {
			return err
		}
	}
	key, err := os.ReadFile(filepath.Join(dir, "services"+curve.Ext))
	if err != nil {
		return err
	}
	peers, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	c.Curve(string(key), string(peers))
	l.CurveKey, l.CurvePeers = filepath.Join(dir, "operator"+curve.Ext), list
	return nil
}

// aboutCurve says how to connect, where that needs keys.
func (d *dev) aboutCurve(l local) string {
	if !d.curve {
		return ""
	}
	return fmt.Sprintf(`CURVE is on: the ZeroMQ sockets are encrypted and take only the keys of %s.
ping, status, rules and tail find the operator's key in this directory. From elsewhere:

  $ export CURVE_KEY_FILE=%s CURVE_PEERS_FILE=%s
  $ %s tail --all --xpub %s

`, l.CurvePeers, l.CurveKey, l.CurvePeers, invocation(), l.XPub)
}

// servers starts the embedded servers where the environment names no real one.
func (d *dev) servers(ctx context.Context, log *slog.Logger) error {
	d.redis, d.es = os.Getenv("REDIS_URL"), os.Getenv("ES_HOST")
	if d.redis == "" {
		r, err := embeddedredis.Start(ctx)
		if err != nil {
			return err
		}
		d.redis, d.closers = r.URL(), append(d.closers, func() error { r.Close(); return nil })
	}
	if d.es == "" {
		e, err := embeddedsearch.Start(ctx, embeddedsearch.Options{Dir: filepath.Join(d.dir, "index"), Log: log})
		if err != nil {
			return err
		}
		d.es, d.closers = e.URL(), append(d.closers, e.Close)
	}
	return nil
}

// close ends what was started, last in first out.
func (d *dev) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

func (d *dev) announce(s *suite.Suite, l local, took time.Duration) error {
	token, err := auth.Sign(l.Secret, auth.Claims{Subject: "dev", Scopes: []string{"emit", "admin"}, TTL: 24 * time.Hour})
	if err != nil {
		return err
	}
	me, where := invocation(), ""
	if d.dir != defaultDir {
		where = " --dir " + d.dir
	}
	_, err = fmt.Fprintf(d.out, `eventspine dev: ready after %d ms, data and log in %s

  HTTP API     http://%s    (try it: http://%s/docs)
  Socket.IO    http://%s
  workers      %s    PUSH events here
  proxy        %s    SUB processed events here (publishers: %s)
  control      %s    eventspine status asks here
  Redis        %s
  search       %s

A token for the user dev with the scopes emit and admin, good for 24 hours:

  %s

Three commands to try in another terminal, in this directory:

  $ %[13]s tail --user dev%[14]s
  $ %[13]s emit --type notification.hello --user dev --data '{"text":"hello"}'%[14]s
  $ %[13]s search hello%[14]s

%[15]sCtrl-C ends it.
`, took.Milliseconds(), d.dir, s.API, s.API, s.Bridge, s.Worker, s.XPub, s.XSub,
		s.Control, d.origin("REDIS_URL", d.redis), d.origin("ES_HOST", d.es), token, me, where, d.aboutCurve(l))
	return err
}

func (d *dev) origin(setting, url string) string {
	if os.Getenv(setting) != "" {
		return "the server that " + setting + " names"
	}
	return url + "    embedded"
}

// invocation is how the user called this program, ready to be typed again.
func invocation() string {
	exe, err := os.Executable()
	if err == nil && strings.Contains(exe, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/eventspine"
	}
	return cmp.Or(os.Args[0], "eventspine")
}
