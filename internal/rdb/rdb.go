// Package rdb opens Redis, checks that its settings keep what eventspine stores there, and
// turns its errors into kinds. Only the stores use go-redis beside it.
package rdb

import (
	"cmp"
	"context"
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
//
//	redis://[user:password@]host[:port][/db][?option=value&…]
//	redis://[user:password@]host[:port],host[:port],…              the first nodes of a Redis Cluster
//	redis+sentinel://[user:password@]host[:port],…/master[/db]     Sentinels, and the name they give the master
//
// With rediss:// and rediss+sentinel:// every connection is a TLS one, where tls_ca names a file
// of certificates to trust instead of the system's, tls_cert and tls_key name the client's own, read
// anew for each connection, and tls_name is the name that is expected of the server. User and
// password are the data server's; sentinel_user and sentinel_password the Sentinels'. It does not
// connect, so it does not fail when Redis is away; a bad URL gives an Invalid error, which
// never holds the credentials. The client repeats no call by itself: whether a call whose answer
// was lost may be repeated is known only to its caller.
func Open(rawURL string) (Client, error) {
	u, err := split(rawURL)
	if err != nil {
		return nil, err
	}
	own, err := u.takeOptions()
	if err != nil {
		return nil, err
	}
	opt, err := redis.ParseURL(u.first())
	if err != nil {
		return nil, fault.Errorf("REDIS_URL", fault.Invalid, "%s", scrub(err.Error(), u.first()))
	}
	tune(opt)
	if err := own.secure(opt, len(u.hosts) > 1 || u.sentinel); err != nil {
		return nil, err
	}
	redis.SetLogger(&logging.VoidLogger{}) // it writes to stderr; whatever it says also comes as an error
	switch {
	case u.sentinel:
		return redis.NewFailoverClient(failoverOptions(opt, u, own)), nil
	case len(u.hosts) == 1:
		return redis.NewClient(opt), nil
	case opt.DB != 0:
		return nil, fault.Errorf("REDIS_URL", fault.Invalid, "a Redis Cluster has only database 0, not %d", opt.DB)
	}
	return redis.NewClusterClient(clusterOptions(opt, u.hosts)), nil
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
	return &redis.ClusterOptions{
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
		TLSConfig:                opt.TLSConfig,
	}
}

func failoverOptions(opt *redis.Options, u *address, own ownOptions) *redis.FailoverOptions {
	return &redis.FailoverOptions{
		MasterName:            u.master,
		SentinelAddrs:         u.hosts,
		SentinelUsername:      own.sentinelUser,
		SentinelPassword:      own.sentinelPassword,
		DB:                    opt.DB,
		Username:              opt.Username,
		Password:              opt.Password,
		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           opt.DialTimeout,
		ReadTimeout:           opt.ReadTimeout,
		WriteTimeout:          opt.WriteTimeout,
		ContextTimeoutEnabled: true,
		PoolSize:              opt.PoolSize,
		Protocol:              2,
		DisableIdentity:       true,
		TLSConfig:             opt.TLSConfig,
	}
}

// Clock is how far the clock of this machine is ahead of Redis's (of one of its nodes), good to
// half of a round trip. Errors are classified.
func Clock(ctx context.Context, client redis.UniversalClient) (time.Duration, error) {
	began := time.Now()
	there, err := client.Time(ctx).Result()
	if err != nil {
		return 0, Classify("ask redis for the time", err)
	}
	return began.Add(time.Since(began) / 2).Sub(there), nil
}

// Ping reports whether Redis answers now, for readiness. Errors are classified.
func Ping(ctx context.Context, client redis.UniversalClient) error {
	return Classify("ping redis", client.Ping(ctx).Err())
}
