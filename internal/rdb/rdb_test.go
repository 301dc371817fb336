package rdb_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"eventspine/internal/fault"
	"eventspine/internal/rdb"
	"eventspine/internal/testkit"
)

func open(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	client, err := rdb.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func wantKind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != want {
		t.Errorf("got error %v of kind %v, want kind %v", err, fault.KindOf(err), want)
	}
}

func TestOpenReadsURLs(t *testing.T) {
	for url, want := range map[string]redis.Options{
		"redis://10.0.1.20":                            {Addr: "10.0.1.20:6379"},
		"redis://10.0.1.20:7000/2":                     {Addr: "10.0.1.20:7000", DB: 2},
		"redis://ana:s%40cret@h:1/?read_timeout=200ms": {Addr: "h:1", Username: "ana", Password: "s@cret", ReadTimeout: 200 * time.Millisecond},
		"redis://:secret@[::1]":                        {Addr: "[::1]:6379", Password: "secret"},
		"rediss://h":                                   {Addr: "h:6379"},
	} {
		client, ok := open(t, url).(*redis.Client)
		if !ok {
			t.Errorf("%s gives a client of type %T", url, client)
			continue
		}
		o := client.Options()
		if o.Addr != want.Addr || o.DB != want.DB || o.Username != want.Username || o.Password != want.Password {
			t.Errorf("%s is read as %s db %d user %q password %q", url, o.Addr, o.DB, o.Username, o.Password)
		}
		if want.ReadTimeout > 0 && o.ReadTimeout != want.ReadTimeout {
			t.Errorf("%s: the read timeout is %v", url, o.ReadTimeout)
		}
		if tls := strings.HasPrefix(url, "rediss"); tls != (o.TLSConfig != nil) {
			t.Errorf("%s: TLS is %v", url, !tls)
		}
		if o.MaxRetries != 0 {
			t.Errorf("%s: calls are repeated %d times behind our back", url, o.MaxRetries)
		}
	}
}

func TestOpenReadsClusterURLs(t *testing.T) {
	client, ok := open(t, "rediss://ana:secret@10.0.0.1,10.0.0.2:7000, [::1]:7001").(*redis.ClusterClient)
	if !ok {
		t.Fatalf("got a client of type %T", client)
	}
	o := client.Options()
	if got := strings.Join(o.Addrs, " "); got != "10.0.0.1:6379 10.0.0.2:7000 [::1]:7001" {
		t.Errorf("the nodes are %s", got)
	}
	if o.Username != "ana" || o.Password != "secret" || o.TLSConfig == nil || o.TLSConfig.ServerName != "" {
		t.Errorf("user %q, TLS %+v", o.Username, o.TLSConfig)
	}
}

func TestOpenRefusesBadURLsWithoutShowingCredentials(t *testing.T) {
	for _, url := range []string{
		"", "localhost:6379", "http://ana:hunter2@h", "redis://ana:hunter2@", "redis://ana:hunter2@h,", "redis://ana:hunter2@h/x",
		"redis://ana:hunter2@h/1/2", "redis://ana:hunter2@h:port", "redis://ana:hunter2%zz@h", "redis://ana:hunter2@h?unknown=1",
		"redis://ana:hunter2@h?db=hunter2", "redis://ana:hunter2@a,b/3", "redis://hunter2@h?x=hunter2", "redis://ana:hunt er2@h",
		"redis://ana:hunter2#@h",
	} {
		client, err := rdb.Open(url)
		if err == nil {
			_ = client.Close()
			t.Errorf("%q is accepted", url)
			continue
		}
		wantKind(t, err, fault.Invalid)
		if strings.Contains(err.Error(), "hunt") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("redis://ana:hunter2@10.0.0.1,10.0.0.2:7000/0?read_timeout=1s")
	f.Add("rediss://[::1]:6379")
	f.Add("redis://a:b@@,/?")
	f.Fuzz(func(t *testing.T, url string) {
		client, err := rdb.Open(url)
		if err != nil {
			wantKind(t, err, fault.Invalid)
			return
		}
		_ = client.Close()
	})
}

func TestPing(t *testing.T) {
	testkit.EachRedis(t, func(t *testing.T, url string) {
		client := open(t, url)
		if err := rdb.Ping(t.Context(), client); err != nil {
			t.Error(err)
		}
		_ = client.Close()
		wantKind(t, rdb.Ping(t.Context(), client), fault.Unavailable)
	})
	wantKind(t, rdb.Ping(t.Context(), open(t, "redis://"+testkit.FreeAddr(t))), fault.Unavailable)
}

// answer makes an error as the server's answer is one.
type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fault.Kind
	}{
		{answer("LOADING Redis is loading the dataset in memory"), fault.Unavailable},
		{answer("READONLY You can't write against a read only replica."), fault.Unavailable},
		{answer("CLUSTERDOWN The cluster is down"), fault.Unavailable},
		{answer("TRYAGAIN Multiple keys request during rehashing of slot"), fault.Unavailable},
		{answer("MASTERDOWN Link with MASTER is down"), fault.Unavailable},
		{answer("MISCONF Errors writing to the AOF file"), fault.Unavailable},
		{answer("BUSY Redis is busy running a script."), fault.Unavailable},
		{answer("MOVED 3999 127.0.0.1:6381"), fault.Unavailable},
		{answer("WRONGPASS invalid username-password pair or user is disabled."), fault.Unavailable},
		{answer("NOAUTH Authentication required."), fault.Unavailable},
		{answer("NOPERM this user has no permissions to run the 'info' command"), fault.Unavailable},
		{answer("OOM command not allowed when used memory > 'maxmemory'."), fault.Overloaded},
		{answer("ERR max number of clients reached"), fault.Overloaded},
		{answer("WRONGTYPE Operation against a key holding the wrong kind of value"), fault.Corrupt},
		{answer("ERR syntax error"), fault.Internal},
		{redis.Nil, fault.NotFound},
		{redis.ErrPoolTimeout, fault.Overloaded},
		{redis.ErrClosed, fault.Unavailable},
		{io.EOF, fault.Unavailable},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), fault.Unavailable},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, fault.Unavailable},
		{context.DeadlineExceeded, fault.Unavailable},
		{tls.AlertError(42), fault.Unavailable},
		{errors.New("redis: cluster has no nodes"), fault.Unavailable},
		{fmt.Errorf("redis: all sentinels specified in configuration are unreachable: %w", redis.Nil), fault.Unavailable},
		{errors.New("something else"), fault.Internal},
		{fault.Errorf("inner", fault.Conflict, "known already"), fault.Conflict},
	} {
		if err := rdb.Classify("try", c.err); fault.KindOf(err) != c.want || err == nil {
			t.Errorf("%v is classified as %v, want %v", c.err, fault.KindOf(err), c.want)
		}
	}
	if err := rdb.Classify("try", nil); err != nil {
		t.Errorf("nil is classified as %v", err)
	}
}

func logTo(b *strings.Builder) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func TestVetRefusesEviction(t *testing.T) {
	client := open(t, testkit.StartRedis(t, "--maxmemory-policy", "allkeys-lru").URL())
	err := rdb.Vet(t.Context(), client, logTo(&strings.Builder{}))
	wantKind(t, err, fault.Invalid)
	if !strings.Contains(err.Error(), "allkeys-lru") || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("the error does not say what to change: %v", err)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	if err := rdb.Vet(t.Context(), client, logTo(&strings.Builder{})); err != nil {
		t.Errorf("noeviction is refused: %v", err)
	}
}

func TestVetWarnsOfWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		name, url, want string
	}{
		{"no persistence", testkit.Redis(t), "does not persist"},
		{"no CONFIG", testkit.Miniredis(t), "settings cannot be read"},
		{"no run id", testkit.Miniredis(t), "run id"},
	} {
		var log strings.Builder
		if err := rdb.Vet(t.Context(), open(t, c.url), logTo(&log)); err != nil || !strings.Contains(log.String(), c.want) {
			t.Errorf("%s: error %v, log %q", c.name, err, log.String())
		}
	}
	var log strings.Builder
	if err := rdb.Vet(t.Context(), open(t, testkit.StartRedis(t, "--appendonly", "yes").URL()), logTo(&log)); err != nil || log.Len() > 0 {
		t.Errorf("a good server: error %v, log %q", err, log.String())
	}
}

func TestPassword(t *testing.T) {
	addr := testkit.StartRedis(t, "--requirepass", "hunter2").Addr()
	good := open(t, "redis://:hunter2@"+addr)
	if err := errors.Join(rdb.Ping(t.Context(), good), rdb.Vet(t.Context(), good, logTo(&strings.Builder{}))); err != nil {
		t.Errorf("the right password is refused: %v", err)
	}
	for name, url := range map[string]string{"wrong": "redis://ana:hunter3@" + addr, "none": "redis://" + addr} {
		var log strings.Builder
		client := open(t, url)
		for _, err := range []error{rdb.Vet(t.Context(), client, logTo(&log)), rdb.Ping(t.Context(), client)} {
			wantKind(t, err, fault.Unavailable)
			if !strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), "hunter") {
				t.Errorf("%s password: the error is %v", name, err)
			}
		}
		if !strings.Contains(log.String(), "credentials") || strings.Contains(log.String(), "hunter") {
			t.Errorf("%s password: the log is %q", name, log.String())
		}
	}
}

func TestVetOfAServerThatIsAwayOrLoads(t *testing.T) {
	var log strings.Builder
	wantKind(t, rdb.Vet(t.Context(), open(t, "redis://"+testkit.FreeAddr(t)), logTo(&log)), fault.Unavailable)

	server := testkit.StartRedis(t, "--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--key-load-delay", "100")
	client := open(t, server.URL())
	for i := range 300 {
		if err := client.Set(t.Context(), fmt.Sprint("k", i), strings.Repeat("x", 100), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"key-load-delay", "loading-process-events-interval-bytes"} {
		value := map[string]string{"key-load-delay": "5000", "loading-process-events-interval-bytes": "1024"}[name]
		if err := client.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, server.URL())
	if err := other.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- client.Do(context.Background(), "DEBUG", "RELOAD", "NOSAVE").Err() }()
	testkit.Eventually(t, 5*time.Second, func() bool {
		err := rdb.Vet(t.Context(), other, logTo(&log))
		return err != nil && strings.Contains(err.Error(), "LOADING") && fault.KindOf(err) == fault.Unavailable
	}, "the loading server is found unavailable")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := rdb.Vet(t.Context(), other, logTo(&log)); err != nil {
		t.Errorf("after loading: %v", err)
	}
}
