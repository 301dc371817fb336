package auth

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"eventspine/internal/fault"
	"eventspine/internal/quiet"
	"eventspine/internal/retry"
)

const (
	fetchTimeout = 5 * time.Second
	fetchPause   = 10 * time.Second // between two reads of the key set that tokens ask for
	fetchWaiters = 64               // tokens that wait for such a read at the same time
	maxRedirects = 3
	firstRetry   = time.Second // after a read that failed; then longer, to refreshRetry
	refreshRetry = 30 * time.Second
)

// ring holds the secrets and the public keys that signatures are checked with. Safe for concurrent
// use.
type ring struct {
	secrets []Secret
	source  string // of the key set: a file or a URL; empty: none
	client  *http.Client
	every   time.Duration
	away    *quiet.Dependency
	m       *metrics

	public  atomic.Pointer[[]publicKey] // nil: never read
	changes atomic.Uint64               // goes up when a key came or went
	waiting atomic.Int32
	turn    chan struct{} // holds a token while somebody reads the source
	read    time.Time     // when it was read last, or tried; guarded by turn
}

func newRing(s Settings, o Options, m *metrics) (*ring, error) {
	secrets, _ := ParseSecrets(s.JWTSecrets) // Validate has looked at them
	if s.JWTSecret != "" {
		secrets = append([]Secret{{Value: s.JWTSecret}}, secrets...)
	}
	k := &ring{secrets: secrets, source: s.JWTKeys, every: s.JWTRefresh, m: m, away: quiet.NewDependency("token keys", o.Log), turn: make(chan struct{}, 1)}
	if _, web := webAddress(k.source); web {
		k.client = &http.Client{Timeout: fetchTimeout, CheckRedirect: onlySafe,
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: o.TLS}}
		return k, nil
	}
	if k.source != "" { // a file that is not there is a mistake, and no outage
		if err := k.load(context.Background()); err != nil {
			return nil, fault.BadFields("", fault.Field{Name: "JWT_KEYS", Reason: "cannot be used: " + err.Error()})
		}
	}
	return k, nil
}

// onlySafe keeps a redirect from leading to where keys can be changed on their way.
func onlySafe(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || !safeAddress(r.URL) {
		return fault.Errorf("", fault.Unavailable, "the redirect to %s is not followed", r.URL.Redacted())
	}
	return nil
}

// run reads the key set, and again every refresh, until ctx ends. What was read stays in force
// while the source is away.
func (k *ring) run(ctx context.Context) {
	if k.source == "" {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		_ = retry.Policy{Min: firstRetry, Max: min(refreshRetry, k.every)}.Forever(ctx, k.refresh, nil) // load has told of the failures
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// refresh reads the key set, however lately it was read. Every failure may be tried again.
func (k *ring) refresh(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return k.load(ctx)
}

// ask has the key set read for a token whose key is not known, unless that was done a moment ago,
// and returns when it may look again. It waits for one read at most. Tokens that name unknown keys
// can be made by everybody, so they cost one read per fetchPause, however many they are, and few
// wait.
func (k *ring) ask(ctx context.Context) {
	if k.source == "" {
		return
	}
	defer k.waiting.Add(-1)
	if k.waiting.Add(1) > fetchWaiters {
		return
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return
	}
	if time.Since(k.read) >= fetchPause {
		_ = k.load(context.WithoutCancel(ctx)) // the next caller must not suffer from one who leaves
	}
}

// load reads the source once, within fetchTimeout. The caller holds the turn, or is alone.
func (k *ring) load(ctx context.Context) error {
	k.read = time.Now()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	b, err := k.fetch(ctx)
	var found []publicKey
	var skipped int
	if err == nil {
		found, skipped, err = parseKeySet(b)
	}
	if err != nil {
		k.m.reads.WithLabelValues("failed").Inc()
		err = fault.E("read JWT_KEYS", fault.Unavailable, err)
		k.away.Failed(err)
		return err
	}
	k.m.reads.WithLabelValues("ok").Inc()
	k.m.keys.Set(float64(len(found)))
	k.m.skipped.Set(float64(skipped))
	k.away.Fine()
	if old := k.public.Load(); old == nil || !reflect.DeepEqual(*old, found) {
		k.public.Store(&found)
		k.changes.Add(1)
	}
	return nil
}

func (k *ring) fetch(ctx context.Context) ([]byte, error) {
	if k.client == nil {
		f, err := os.Open(k.source)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		return bounded(f)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.source, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fault.Errorf("", fault.Unavailable, "the answer was %s", res.Status)
	}
	return bounded(res.Body)
}

func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err == nil && len(b) > maxKeySet {
		err = fault.Errorf("", fault.Invalid, "it has more than %d bytes", maxKeySet)
	}
	return b, err
}

// ready is nil once there is something to check signatures with.
func (k *ring) ready() error {
	if k.source != "" && k.public.Load() == nil {
		return k.away.State()
	}
	return nil
}

// For a token's kind of signature and kid: what to check it with. A key serves one algorithm only,
// whatever a token says of itself: a secret never verifies RS256, a public key never HS256.
func (k *ring) find(t *jwt.Token) (any, error) {
	id, named := t.Header["kid"].(string)
	if _, there := t.Header["kid"]; there != named {
		return nil, errBadHeader
	}
	if _, critical := t.Header["crit"]; critical { // RFC 7515 §4.1.11: none is understood here
		return nil, errBadHeader
	}
	var set jwt.VerificationKeySet
	alg := t.Method.Alg()
	if alg == jwt.SigningMethodHS256.Name {
		for _, s := range k.secrets {
			if !named || s.ID == id || len(k.secrets) == 1 && s.ID == "" {
				set.Keys = append(set.Keys, []byte(s.Value))
			}
		}
	} else if all := k.public.Load(); all != nil {
		for _, p := range *all {
			if p.alg == alg && (!named || p.id == id) {
				set.Keys = append(set.Keys, p.key)
			}
		}
	}
	if len(set.Keys) == 0 {
		return nil, errUnknownKey
	}
	return set, nil
}

// algorithms are those there can be keys for.
func (k *ring) algorithms() []string {
	var out []string
	if len(k.secrets) > 0 {
		out = append(out, jwt.SigningMethodHS256.Name)
	}
	if k.source != "" {
		out = append(out, jwt.SigningMethodRS256.Name, jwt.SigningMethodES256.Name, jwt.SigningMethodEdDSA.Alg())
	}
	return out
}

// String keeps the secrets out of whatever prints it.
func (k *ring) String() string { return fmt.Sprintf("%d secrets and %q", len(k.secrets), k.source) }
