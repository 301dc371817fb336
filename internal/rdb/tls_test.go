package rdb_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

// authority makes certificates, as PEM files of a test's directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue writes name.crt and name.key.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for ending, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(name+ending), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// query is the part of a URL that names the files.
func query(values map[string]string) string {
	q := url.Values{}
	for name, value := range values {
		q.Set(name, value)
	}
	return "?" + q.Encode()
}

func TestTLS(t *testing.T) {
	ours, other := newAuthority(t, "ours"), newAuthority(t, "other")
	ours.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"redis.internal"}})
	ours.issue("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	ours.issue("elsewhere", &x509.Certificate{DNSNames: []string{"redis.internal"}})
	other.issue("client", &x509.Certificate{})
	listen := func(cert string) string {
		addr := testkit.FreeAddr(t)
		_, port, _ := net.SplitHostPort(addr)
		testkit.StartRedis(t, "--tls-port", port, "--tls-cert-file", ours.file(cert+".crt"), "--tls-key-file", ours.file(cert+".key"),
			"--tls-ca-cert-file", ours.file("ours.crt"), "--tls-auth-clients", "yes")
		return addr
	}
	addr, named := listen("server"), listen("elsewhere")
	ca, cert, key := ours.file("ours.crt"), ours.file("client.crt"), ours.file("client.key")
	for name, c := range map[string]struct {
		url string
		ok  bool
	}{
		"all of it":               {"rediss://" + addr + query(map[string]string{"tls_ca": ca, "tls_cert": cert, "tls_key": key}), true},
		"an expected name":        {"rediss://" + named + query(map[string]string{"tls_ca": ca, "tls_cert": cert, "tls_key": key, "tls_name": "redis.internal"}), true},
		"no client certificate":   {"rediss://" + addr + query(map[string]string{"tls_ca": ca}), false},
		"a stranger's":            {"rediss://" + addr + query(map[string]string{"tls_ca": ca, "tls_cert": other.file("client.crt"), "tls_key": other.file("client.key")}), false},
		"an unknown authority":    {"rediss://" + addr + query(map[string]string{"tls_ca": other.file("other.crt"), "tls_cert": cert, "tls_key": key}), false},
		"the system's":            {"rediss://" + addr + query(map[string]string{"tls_cert": cert, "tls_key": key}), false},
		"another server's name":   {"rediss://" + named + query(map[string]string{"tls_ca": ca, "tls_cert": cert, "tls_key": key}), false},
		"no TLS where TLS is due": {"redis://" + addr, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := open(t, c.url)
			switch err := rdb.Ping(t.Context(), client); {
			case c.ok && err != nil:
				t.Error(err)
			case !c.ok:
				wantKind(t, err, fault.Unavailable)
			}
		})
	}
	t.Run("a certificate that was replaced", func(t *testing.T) {
		moved, secret := filepath.Join(t.TempDir(), "now.crt"), filepath.Join(t.TempDir(), "now.key")
		replaceFiles(t, map[string]string{other.file("client.crt"): moved, other.file("client.key"): secret})
		client := open(t, "rediss://"+addr+query(map[string]string{"tls_ca": ca, "tls_cert": moved, "tls_key": secret}))
		wantKind(t, rdb.Ping(t.Context(), client), fault.Unavailable)
		replaceFiles(t, map[string]string{cert: moved, key: secret})
		if err := rdb.Ping(t.Context(), client); err != nil {
			t.Errorf("the new one is not used: %v", err)
		}
	})
}

// replaceFiles copies each file over the one beside it.
func replaceFiles(t *testing.T, files map[string]string) {
	t.Helper()
	for from, to := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOwnOptionsThatMakeNoSense(t *testing.T) {
	a := newAuthority(t, "ours")
	noPEM := a.file("empty")
	if err := os.WriteFile(noPEM, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, u := range map[string]string{
		"rediss://":           "redis://h" + query(map[string]string{"tls_ca": noPEM}),
		"belong together":     "rediss://h" + query(map[string]string{"tls_cert": noPEM}),
		"PEM form":            "rediss://h" + query(map[string]string{"tls_ca": noPEM}),
		"tls_ca cannot":       "rediss://h" + query(map[string]string{"tls_ca": a.file("nowhere")}),
		"tls_cert and":        "rediss://h" + query(map[string]string{"tls_cert": noPEM, "tls_key": noPEM}),
		"twice":               "rediss://h?tls_ca=a&tls_ca=b",
		"redis+sentinel://":   "redis://h?sentinel_user=x",
		"names the master":    "redis+sentinel://h:26379",
		"cannot be read":      "redis://h?%zz",
		"must begin with":     "redis+other://h/x",
		"cannot be parsed":    "redis+sentinel://h,b%zz/x",
		"invalid database":    "redis+sentinel://h/x/y",
		"has an empty host":   "redis+sentinel://,/x",
		"invalid URL path":    "redis+sentinel://h/x/1/2",
		"unexpected option":   "rediss+sentinel://h/x?master_name=y",
		"a Redis Cluster has": "rediss://a,b/1",
	} {
		client, err := rdb.Open(u)
		if err == nil {
			_ = client.Close()
		}
		wantKind(t, err, fault.Invalid)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", u, err, want)
		}
	}
}

// A user that may do no more than a worker needs. Without the right to read CONFIG or INFO it is
// warned of what cannot be seen.
func TestACLUser(t *testing.T) {
	server := testkit.StartRedis(t, "--maxmemory-policy", "noeviction", "--appendonly", "yes")
	server.Do("+OK", "ACL SETUSER spine on >secret ~spine:* &* -@all +@read +@write +@transaction +@connection +@scripting +info +time +config|get")
	server.Do("+OK", "ACL SETUSER blind on >secret ~spine:* -@all +@read +@write +@connection +@scripting")
	good := open(t, "redis://spine:secret@"+server.Addr())
	var log strings.Builder
	if err := rdb.Vet(t.Context(), good, logTo(&log)); err != nil || log.Len() > 0 {
		t.Errorf("%v\n%s", err, log.String())
	}
	err := rdb.Classify("set", good.Set(t.Context(), "other", 1, 0).Err())
	wantKind(t, err, fault.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "ACL") {
		t.Errorf("a key that is not ours: %v", err)
	}
	if err := rdb.Vet(t.Context(), open(t, "redis://blind:secret@"+server.Addr()), logTo(&log)); err != nil ||
		!strings.Contains(log.String(), "cannot be read") || !strings.Contains(log.String(), "run id") {
		t.Errorf("%v\n%s", err, log.String())
	}
}

// The client finds the master by way of the Sentinels, whichever of them is there, and the server
// that takes its place.
func TestSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("no servers are started with -short")
	}
	master, replica, u := testkit.RedisSentinel(t)
	u = strings.Replace(u, "redis+sentinel://", "redis+sentinel://"+testkit.FreeAddr(t)+",", 1)
	client := open(t, u)
	if err := rdb.Vet(t.Context(), client, logTo(&strings.Builder{})); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got := client.Do(t.Context(), "WAIT", 1, 5000).Val(); got != int64(1) {
		t.Fatal("the replica did not follow")
	}
	master.Kill()
	testkit.Eventually(t, 30*time.Second, func() bool {
		err := rdb.Classify("set", client.Set(t.Context(), "k", "w", 0).Err())
		if err != nil && fault.KindOf(err) != fault.Unavailable {
			t.Fatalf("meanwhile: %v", err)
		}
		return err == nil
	}, "the replica has taken its place")
	if got := open(t, replica.URL()).Get(t.Context(), "k").Val(); got != "w" {
		t.Errorf("the replica holds %q", got)
	}
	wantKind(t, rdb.Ping(t.Context(), open(t, strings.Replace(u, "/spine", "/other", 1))), fault.Unavailable)
}
