package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
)

// local is what `eventspine dev` leaves in its data directory, so that the other verbs need
// no flags when they run in the same place.
type local struct {
	API     string   `json:"api"`
	Bridge  string   `json:"bridge"`
	XPub    string   `json:"xpub"`
	Control string   `json:"control,omitempty"`
	Clone   []string `json:"clone,omitempty"`
	Health  []string `json:"health,omitempty"`
	Redis   string   `json:"redis,omitempty"`
	ES      string   `json:"es,omitempty"`
	Secret  string   `json:"secret"`

	CurveKey   string `json:"curveKey,omitempty"` // files of the operator; empty: no CURVE
	CurvePeers string `json:"curvePeers,omitempty"`
}

const (
	defaultDir = ".eventspine"
	localFile  = "dev.json"
)

func (l local) save(dir string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, localFile), append(b, '\n'), 0o600)
}

func readLocal(dir string) (local, error) {
	var l local
	b, err := os.ReadFile(filepath.Join(dir, localFile))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	return l, err
}

// target is where a verb talks to, and with which token.
type target struct {
	api, bridge, xpub string
	token             string
	dir               string
}

func (t *target) flags(c *cobra.Command) {
	c.Flags().StringVar(&t.api, "api", os.Getenv("EVENTSPINE_API"), "URL of the HTTP API (EVENTSPINE_API)")
	c.Flags().StringVar(&t.bridge, "bridge", os.Getenv("EVENTSPINE_BRIDGE"), "URL of the Socket.IO bridge (EVENTSPINE_BRIDGE)")
	c.Flags().StringVar(&t.xpub, "xpub", os.Getenv("ZMQ_PROXY_XPUB"), "endpoint of the proxy's XPUB (ZMQ_PROXY_XPUB)")
	c.Flags().StringVar(&t.token, "token", os.Getenv("EVENTSPINE_TOKEN"), "bearer token (EVENTSPINE_TOKEN); without one, JWT_SECRET or a running `eventspine dev` makes it")
	dirFlag(c, &t.dir)
}

func dirFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "dir", defaultDir, "data directory of `eventspine dev`")
}

// fill completes what no flag gave: from a running `eventspine dev`, then from the defaults.
// A missing token is made for user with these scopes where the secret is known.
func (t *target) fill(user string, scopes ...string) error {
	l, err := readLocal(t.dir)
	if err != nil {
		return err
	}
	t.api = cmp.Or(t.api, l.API, "http://127.0.0.1:3000")
	t.bridge = cmp.Or(t.bridge, l.Bridge, "http://127.0.0.1:3001")
	t.xpub = cmp.Or(t.xpub, l.XPub, "tcp://127.0.0.1:5560")
	if t.token != "" {
		return nil
	}
	s, err := loadSigner(l)
	if err != nil {
		return err
	}
	if s.JWTSecret == "" {
		return usage(errors.New("no token: give --token, or set JWT_SECRET, or run where `eventspine dev` runs"))
	}
	t.token, err = s.sign(auth.Claims{Subject: user, Scopes: scopes, TTL: 24 * time.Hour})
	return err
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// refusal is the answer as an error: the caller's mistake below 500, the system's above.
func (a *answer) refusal() error {
	kind := fault.Invalid
	if a.status >= http.StatusInternalServerError {
		kind = fault.Unavailable
	}
	return fault.Errorf("", kind, "%d %s: %s", a.status, http.StatusText(a.status), bytes.TrimSpace(a.body))
}

// request sends one authorised request to the API.
func (t *target) request(r *http.Request) (*answer, error) {
	r.Header.Set("Authorization", "Bearer "+t.token)
	client := http.Client{Timeout: 30 * time.Second}
	got, err := client.Do(r)
	if err != nil {
		return nil, fault.E("", fault.Unavailable, err)
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(got.Body, 64<<20))
	if err != nil {
		return nil, fault.E("", fault.Unavailable, err)
	}
	return &answer{got.StatusCode, got.Header, body}, nil
}

// usage marks an error as the caller's mistake: exit code 2.
func usage(err error) error { return fault.E("", fault.Invalid, err) }
