// Package rdb opens Redis, checks that its settings keep what eventspine stores there, and
// turns its errors into kinds. Only the stores use go-redis beside it.
package rdb

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"eventspine/internal/fault"
)

// Time limits of one call, where the URL does not say otherwise (dial_timeout, read_timeout).
const (
	dialTimeout = 2 * time.Second
	readTimeout = 3 * time.Second
)

// Client is a connection pool to Redis, as Open makes it.
type Client = redis.UniversalClient

// Open prepares a client for a URL of the form
// redis://[user:password@]host[:port][/db][?option=value], rediss:// for TLS. Several hosts,
// separated by commas, are the first nodes of a Redis Cluster. It does not connect, so it
// does not fail when Redis is away; a bad URL gives an Invalid error, which never holds the
// credentials. The client repeats no call by itself: whether a call whose answer was lost
// may be repeated is known only to its caller.
func Open(rawURL string) (Client, error) {
	first, hosts, err := split(rawURL)
	if err != nil {
		return nil, err
	}
	opt, err := redis.ParseURL(first)
	if err != nil {
		return nil, fault.Errorf("REDIS_URL", fault.Invalid, "%s", scrub(err.Error(), first))
	}
	tune(opt)
	redis.SetLogger(&logging.VoidLogger{}) // it writes to stderr; whatever it says also comes as an error
	if len(hosts) == 1 {
		return redis.NewClient(opt), nil
	}
	if opt.DB != 0 {
		return nil, fault.Errorf("REDIS_URL", fault.Invalid, "a Redis Cluster has only database 0, not %d", opt.DB)
	}
	return redis.NewClusterClient(clusterOptions(opt, hosts)), nil
}

// split returns the URL with its first host only, and all hosts with their ports.
func split(rawURL string) (first string, hosts []string, err error) {
	const op = "REDIS_URL"
	scheme, rest, ok := strings.Cut(strings.TrimSpace(rawURL), "://")
	if !ok || (scheme != "redis" && scheme != "rediss") {
		return "", nil, fault.Errorf(op, fault.Invalid, "the URL must begin with redis:// or rediss://")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]
	credentials := ""
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		credentials, authority = authority[:at+1], authority[at+1:]
	}
	for host := range strings.SplitSeq(authority, ",") {
		if host = strings.TrimSpace(host); host == "" {
			return "", nil, fault.Errorf(op, fault.Invalid, "the URL has an empty host")
		}
		hosts = append(hosts, withPort(host))
	}
	first = scheme + "://" + credentials + hosts[0] + tail
	if _, err := url.Parse(first); err != nil { // its error would show the password
		return "", nil, fault.Errorf(op, fault.Invalid, "the URL cannot be parsed; special characters in the password must be percent-encoded")
	}
	return first, hosts, nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "6379")
}

// scrub keeps credentials out of a message about the URL.
func scrub(message, rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.User == nil {
		return message
	}
	password, _ := u.User.Password()
	for _, secret := range []string{password, u.User.Username(), u.User.String()} {
		if secret != "" && strings.Contains(message, secret) {
			return "an option in the URL is wrong"
		}
	}
	return message
}

func tune(opt *redis.Options) {
	opt.MaxRetries = -1
	opt.DialerRetries = 1
	opt.DialTimeout = cmp.Or(opt.DialTimeout, dialTimeout)
	opt.ReadTimeout = cmp.Or(opt.ReadTimeout, readTimeout)
	opt.WriteTimeout = cmp.Or(opt.WriteTimeout, readTimeout)
	opt.ContextTimeoutEnabled = true
	opt.Protocol = 2
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

func clusterOptions(opt *redis.Options, hosts []string) *redis.ClusterOptions {
	c := &redis.ClusterOptions{
		Addrs:                    hosts,
		Username:                 opt.Username,
		Password:                 opt.Password,
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              opt.DialTimeout,
		ReadTimeout:              opt.ReadTimeout,
		WriteTimeout:             opt.WriteTimeout,
		ContextTimeoutEnabled:    true,
		PoolSize:                 opt.PoolSize,
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: opt.MaintNotificationsConfig,
	}
	if opt.TLSConfig != nil {
		c.TLSConfig = opt.TLSConfig.Clone()
		c.TLSConfig.ServerName = "" // each node is checked by its own name
	}
	return c
}

// Ping reports whether Redis answers now, for readiness. Errors are classified.
func Ping(ctx context.Context, client redis.UniversalClient) error {
	return Classify("ping redis", client.Ping(ctx).Err())
}
