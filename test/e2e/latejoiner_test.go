package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/testkit/ports"
	"eventspine/test/harness"
)

// TestLateJoiners starts the system in another order each time, with pauses, and posts events as
// soon as every process says that it is ready: none of them is missed, by browser or index. In
// every other round a connection to a proxy is quick to shake hands and slow with what follows,
// so that connected is not yet subscribed.
func TestLateJoiners(t *testing.T) {
	const rounds, events = 20, 25
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel() // they mostly wait
			seed := rand.Uint64()
			t.Logf("the order is that of seed %d", seed)
			o := harness.Options{Workers: 1 + round/4%2, Proxies: 1 + round/2%2, Launch: shuffled(seed)}
			if round%2 == 1 {
				sluggish(t, &o)
			}
			postAtOnce(t, startWith(t, o), events)
		})
	}
}

// shuffled starts processes one by one in a random order, with up to 150 ms between them.
func shuffled(seed uint64) func(*harness.System, []*harness.Process) error {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(_ *harness.System, all []*harness.Process) error {
		for _, i := range r.Perm(len(all)) {
			if err := all[i].Start(); err != nil {
				return err
			}
			<-time.After(time.Duration(r.Int64N(int64(150 * time.Millisecond))))
		}
		return nil
	}
}

// sluggish puts a relay before every socket of every proxy.
func sluggish(t *testing.T, o *harness.Options) {
	t.Helper()
	free, err := ports.Free(2 * o.Proxies)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ZMQ_PROXY_XSUB", "ZMQ_PROXY_XPUB"} {
		var at []string
		for range o.Proxies {
			at = append(at, fmt.Sprintf("tcp://127.0.0.1:%d", free[0]))
			free = free[1:]
		}
		o.Env = append(o.Env, name+"="+strings.Join(at, ","))
	}
	launch := o.Launch
	o.Launch = func(s *harness.System, all []*harness.Process) error {
		for i, targets := range [][]string{s.XSub, s.XPub} {
			_, list, _ := strings.Cut(o.Env[len(o.Env)-2+i], "=")
			for k, at := range strings.Split(list, ",") {
				relay(t, at, targets[k])
			}
		}
		return launch(s, all)
	}
}

// relay passes ZeroMQ connections on, and holds back for 600 ms what follows the handshake, each
// way.
func relay(t *testing.T, at, to string) {
	t.Helper()
	l, err := net.Listen("tcp", strings.TrimPrefix(at, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(to, "tcp://"))
			if err != nil {
				_ = in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				conns.Go(func() {
					if handshake(way[1], way[0]) == nil {
						<-time.After(600 * time.Millisecond)
						_, _ = io.Copy(way[1], way[0])
					}
					_, _ = way[0].Close(), way[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() }) // after the processes have ended
}

// handshake copies a greeting and a short command, READY.
func handshake(to io.Writer, from io.Reader) error {
	const greeting, header = 64, 2
	b := make([]byte, greeting+header)
	if _, err := io.ReadFull(from, b[:greeting]); err != nil {
		return err
	}
	if _, err := to.Write(b[:greeting]); err != nil { // the other side may wait for it
		return err
	}
	if _, err := io.ReadFull(from, b[greeting:]); err != nil {
		return err
	}
	_, err := to.Write(b[greeting:])
	_, failed := io.CopyN(to, from, int64(b[greeting+1]))
	return errors.Join(err, failed)
}

func postAtOnce(t *testing.T, s *harness.System, events int) {
	t.Helper()
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	token := harness.Token("sender", "emit")
	var want []string
	var posts sync.WaitGroup
	for i := range events {
		id := fmt.Sprintf("e%02d", i)
		want = append(want, id)
		posts.Go(func() {
			body := fmt.Sprintf(`{"id":%q,"type":"notification.check","userId":"ana"}`, id)
			if status, answer := post(t, s.APIURL+"/api/events", token, "application/json", []byte(body)); status != http.StatusAccepted {
				t.Errorf("POST: %d %s", status, answer)
			}
		})
	}
	posts.Wait()
	eventually(t, 10*time.Second, func() bool { return len(ana.events()) >= events },
		func() string { return fmt.Sprintf("ana got %d of %d", len(ana.events()), events) })
	var got []string
	for _, e := range ana.events() {
		got = append(got, e.ID)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("ana got %v", got)
	}
	index, err := archive.New(archive.Options{URLs: []string{s.ES}})
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	var n int64
	eventually(t, 10*time.Second, func() bool {
		n, err = index.Count(t.Context(), archive.Query{AnyUser: true})
		return err == nil && n == int64(events)
	}, func() string { return fmt.Sprintf("the index has %d of %d (%v)", n, events, err) })
}
