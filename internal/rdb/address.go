package rdb

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
)

// address is a REDIS_URL taken apart.
type address struct {
	scheme      string // redis or rediss
	sentinel    bool
	credentials string   // with the @ that ends them, or empty
	hosts       []string // with their ports
	master      string   // with Sentinels
	path        string   // the database, with its slash, or empty
	query       string   // without its question mark
}

const (
	dataPort     = "6379"
	sentinelPort = "26379"
)

func badURL(format string, args ...any) error {
	return fault.Errorf("REDIS_URL", fault.Invalid, format, args...)
}

func split(rawURL string) (*address, error) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(rawURL), "://")
	u := &address{}
	u.scheme, u.sentinel = strings.CutSuffix(scheme, "+sentinel")
	if !ok || (u.scheme != "redis" && u.scheme != "rediss") {
		return nil, badURL("the URL must begin with redis:// or rediss://, or redis+sentinel:// or rediss+sentinel://")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	u.path, u.query, _ = strings.Cut(rest[end:], "?")
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		u.credentials, authority = authority[:at+1], authority[at+1:]
	}
	port := dataPort
	if u.sentinel {
		port = sentinelPort
		if err := u.takeMaster(); err != nil {
			return nil, err
		}
	}
	for host := range strings.SplitSeq(authority, ",") {
		if host = strings.TrimSpace(host); host == "" {
			return nil, badURL("the URL has an empty host")
		}
		u.hosts = append(u.hosts, withPort(host, port))
	}
	for _, one := range u.hosts {
		if _, err := url.Parse(u.with(one)); err != nil { // its error would show the password
			return nil, badURL("the URL cannot be parsed; special characters in the password must be percent-encoded")
		}
	}
	return u, nil
}

// takeMaster reads the master's name, the first part of the path.
func (u *address) takeMaster() error {
	name, db, more := strings.Cut(strings.TrimPrefix(u.path, "/"), "/")
	if u.master = name; name == "" {
		return badURL("a URL of Sentinels names the master after the hosts, as in redis+sentinel://host:26379/mymaster")
	}
	if u.path = ""; more {
		u.path = "/" + db
	}
	return nil
}

// first is a URL with the first host only, as go-redis reads it.
func (u *address) first() string { return u.with(u.hosts[0]) }

func (u *address) with(host string) string {
	out := u.scheme + "://" + u.credentials + host + u.path
	if u.query != "" {
		out += "?" + u.query
	}
	return out
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// ownOptions are the options of the URL that go-redis does not know.
type ownOptions struct {
	sentinelUser, sentinelPassword string
	ca, cert, key, name            string // of TLS
}

// takeOptions takes our options out of the query.
func (u *address) takeOptions() (ownOptions, error) {
	var own ownOptions
	values, err := url.ParseQuery(u.query)
	if err != nil {
		return own, badURL("the options of the URL cannot be read")
	}
	for name, to := range map[string]*string{"sentinel_user": &own.sentinelUser, "sentinel_password": &own.sentinelPassword,
		"tls_ca": &own.ca, "tls_cert": &own.cert, "tls_key": &own.key, "tls_name": &own.name} {
		if len(values[name]) > 1 {
			return own, badURL("the option %s is given twice", name)
		}
		*to = values.Get(name)
		values.Del(name)
	}
	u.query = values.Encode()
	switch {
	case !u.sentinel && own.sentinelUser+own.sentinelPassword != "":
		return own, badURL("sentinel_user and sentinel_password belong to a redis+sentinel:// URL")
	case u.scheme != "rediss" && own.ca+own.cert+own.key+own.name != "":
		return own, badURL("tls_ca, tls_cert, tls_key and tls_name need a rediss:// URL")
	case (own.cert == "") != (own.key == ""):
		return own, badURL("tls_cert and tls_key belong together")
	}
	return own, nil
}

// secure applies the TLS options. With several servers each is checked by its own name, unless
// one is given for all.
func (o *ownOptions) secure(opt *redis.Options, several bool) error {
	if opt.TLSConfig == nil {
		return nil
	}
	opt.TLSConfig.MinVersion = tls.VersionTLS12
	if several || o.name != "" {
		opt.TLSConfig.ServerName = o.name
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return badURL("tls_ca cannot be read: %w", err)
		}
		opt.TLSConfig.RootCAs = x509.NewCertPool()
		if !opt.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return badURL("tls_ca: %s holds no certificate in PEM form", o.ca)
		}
	}
	if o.cert == "" {
		return nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return badURL("tls_cert and tls_key: %w", err)
	}
	opt.TLSConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return nil
}
