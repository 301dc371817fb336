package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"eventspine/test/harness"
	"eventspine/test/netns"
)

// TestConnectionsVanish takes the network away from some clients without a word: no FIN, no RST, the
// packets of their connections go nowhere. Clients of both protocols, and of long-polling, have to
// be missed by the bridge, and nothing may be left of them, while everybody else goes on.
func TestConnectionsVanish(t *testing.T) {
	if !netns.Rerun(t) {
		return
	}
	// So that what the kernel takes for a client that is gone is soon less than what the bridge has.
	small := os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", []byte("4096 16384 131072"), 0)
	t.Run("for good", vanishForGood)
	t.Run("for a moment", vanishForAMoment)
	t.Run("while much is sent", func(t *testing.T) {
		if small != nil {
			t.Skip("the kernel's buffers cannot be made small: ", small)
		}
		vanishWhileMuchIsSent(t)
	})
}

// vanishForGood: the bridge misses the clients by its ping timeout.
func vanishForGood(t *testing.T) {
	o := startOutage(t, 1, 4, "BRIDGE_PING_TIMEOUT=4s")
	o.vanish(15*time.Second, "ping timeout")
	o.nothingLeft()
	o.comeBack()
}

// vanishWhileMuchIsSent: the queues are full, or one write has taken too long, well before the ping timeout.
func vanishWhileMuchIsSent(t *testing.T) {
	o := startOutage(t, 3, 2, "BRIDGE_PING_TIMEOUT=3m", "BRIDGE_QUEUE_BYTES=262144")
	o.p.pad = strings.Repeat("x", 16<<10)
	o.vanish(time.Minute, "slow client", "write failed")
	o.p.pad = ""
	o.nothingLeft()
	o.comeBack()
}

// vanishForAMoment: the connections go on when the packets do, and are whole.
func vanishForAMoment(t *testing.T) {
	o := startOutage(t, 2, 4, "BRIDGE_PING_TIMEOUT=30s")
	before, posted := o.count(), o.p.n
	o.drop()
	o.p.keep(len(o.p.users), within(2*time.Second))
	for _, g := range o.gone {
		g.mu.Lock()
		for _, id := range slices.Concat(g.own, g.all) {
			var n int
			if _, err := fmt.Sscanf(id, "storm-%d", &n); err != nil || n >= posted {
				t.Errorf("%s got %s, which was sent after its network was gone", g.user, id)
			}
		}
		g.mu.Unlock()
	}
	if err := o.rules.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.p.keep(len(o.p.users), within(time.Second))
	for _, c := range []guests{o.stay, o.gone} {
		c.surfers().whole(t, o.p, 0)
		c.surfers().undisturbed(t)
	}
	if now := o.count(); now.connections != before.connections || now.ended != before.ended {
		t.Errorf("before the outage %+v, after it %+v", before, now)
	}
}

// outage is a system with clients that stay connected, and others whose network goes away.
type outage struct {
	*testing.T
	s          *harness.System
	p          *poster
	network    int // 127.0.network.0/24
	rules      netns.Rules
	stay, gone guests
	base       counts // with those that stay alone
}

// counts are what the bridge has.
type counts struct{ connections, online, lanes, goroutines, ended float64 }

// startOutage connects as many clients of each kind that will go, and some of each that will stay.
func startOutage(t *testing.T, network, each int, env ...string) *outage {
	url := ""
	if os.Getenv("EVENTSPINE_REQUIRE_SERVERS") != "" {
		url = realRedis(t)
	}
	s := startWith(t, harness.Options{Redis: url, Env: append(env, "BRIDGE_PING_INTERVAL=1s", "BRIDGE_SUBSCRIBE=users")})
	t.Parallel() // it mostly waits
	o := &outage{T: t, s: s, p: &poster{t: t, s: s, own: map[string][]string{}}, network: network, rules: netns.Rules{Name: fmt.Sprint("outage", network)}}
	o.stay = o.invite("stays", o.address(1), 2)
	for over := within(1500 * time.Millisecond); !over(); <-time.After(100 * time.Millisecond) { // all have pinged
		o.p.post(o.p.users...)
	}
	o.stay.surfers().whole(t, o.p, 0)
	for range 10 { // requests come and go
		n := o.base.goroutines
		o.base = o.count()
		o.base.goroutines = max(o.base.goroutines, n)
	}
	o.gone = o.invite("goes", o.address(2), each)
	o.p.keep(len(o.p.users), within(time.Second))
	o.stay.surfers().whole(t, o.p, 0)
	o.gone.surfers().whole(t, o.p, 0)
	for _, g := range o.gone {
		if !o.online(g.user) {
			t.Errorf("%s is connected and not online", g.user)
		}
	}
	return o
}

func (o *outage) address(host int) string { return fmt.Sprintf("127.0.%d.%d", o.network, host) }

func (o *outage) count() counts {
	at := o.s.Ready["bridge-1"]
	return counts{
		connections: metric(o.T, at, "eventspine_socketio_connections"),
		online:      metric(o.T, at, "eventspine_presence_online_users"),
		lanes:       metric(o.T, at, "eventspine_fanout_user_lanes"),
		goroutines:  metric(o.T, at, "go_goroutines"),
		ended:       metric(o.T, at, "eventspine_socketio_ended_connections_total"),
	}
}

// online asks the api.
func (o *outage) online(user string) bool {
	o.Helper()
	r, err := http.NewRequestWithContext(o.Context(), http.MethodGet, o.s.APIURL+"/api/users/"+user+"/presence", nil)
	if err != nil {
		o.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+o.s.Token("root", "admin"))
	status, body := do(o.T, r)
	var p struct{ Online bool }
	if err := json.Unmarshal(body, &p); err != nil || status != http.StatusOK {
		o.Fatalf("presence: %d %s %v", status, body, err)
	}
	return p.Online
}

func (o *outage) drop() {
	o.Helper()
	if err := o.rules.Drop(o.Context(), netns.Hosts(o.address(2))...); err != nil {
		o.Fatal(err)
	}
}

// vanish takes the network away, while events go on, until the bridge has ended all that were
// there, and wants nobody else to notice.
func (o *outage) vanish(limit time.Duration, reasons ...string) {
	o.Helper()
	ended := func() (n int) {
		for _, reason := range reasons {
			n += int(metric(o.T, o.s.Ready["bridge-1"], fmt.Sprintf("eventspine_socketio_ended_connections_total{reason=%q}", reason)))
		}
		return n
	}
	o.drop()
	began := time.Now()
	over := within(limit)
	o.p.keep(len(o.p.users), func() bool { return ended() >= len(o.gone) || over() })
	dropped, err := o.rules.Dropped(o.Context())
	if err != nil || dropped == 0 {
		o.Errorf("%d packets were dropped, %v", dropped, err)
	}
	if n := ended(); n != len(o.gone) {
		o.Fatalf("%v after their network was gone %d of %d clients are ended by %s; all reasons together %v", time.Since(began), n, len(o.gone), reasons, o.count().ended)
	}
	o.Logf("%d clients are missed %v after their network was gone (%d packets dropped)", len(o.gone), time.Since(began).Round(time.Millisecond), dropped)
	o.p.keep(len(o.p.users), within(time.Second))
	o.stay.surfers().whole(o.T, o.p, 0)
	o.stay.surfers().undisturbed(o.T)
}

// nothingLeft wants the bridge to be as it was before the clients came. Idle connections of
// long-polling are kept for a minute.
func (o *outage) nothingLeft() {
	o.Helper()
	var now counts
	say := func() string { return fmt.Sprintf("there were %+v, and now %+v", o.base, now) }
	eventually(o.T, 5*time.Second, func() bool {
		now = o.count()
		return now.connections == o.base.connections && now.online == o.base.online && now.lanes == o.base.lanes &&
			!slices.ContainsFunc(o.gone, func(g *guest) bool { return o.online(g.user) })
	}, say)
	began := time.Now()
	eventually(o.T, 90*time.Second, func() bool {
		<-time.After(200 * time.Millisecond)
		now = o.count()
		return now.goroutines <= o.base.goroutines
	}, say)
	o.Logf("%v later %s", time.Since(began).Round(time.Millisecond), say())
}

// comeBack connects those that went from another network, as a telephone does.
func (o *outage) comeBack() {
	o.Helper()
	for _, g := range o.gone {
		g.leave()
		g.connect(o.T, o.s.BridgeURL, o.address(3))
	}
	o.p.keep(len(o.p.users), within(time.Second))
	o.gone.surfers().whole(o.T, o.p, 1)
	o.stay.surfers().whole(o.T, o.p, 0)
	o.stay.surfers().undisturbed(o.T)
}

// invite connects so many clients of each kind.
func (o *outage) invite(name, from string, each int) guests {
	var c guests
	for i := range each {
		for kind, visit := range map[string]func(*surfer, context.Context, string) error{
			"eio3": (*surfer).visitOld, "eio4": (*surfer).visit, "polling3": (*surfer).visitOldByPolling, "polling4": (*surfer).visitByPolling} {
			user := fmt.Sprintf("%s.%s.%d", name, kind, i)
			g := &guest{visit: visit, surfer: &surfer{user: user, token: o.s.Token(user), cursor: strings.HasSuffix(kind, "3") || i%2 == 1, seen: map[string]bool{}}}
			g.connect(o.T, o.s.BridgeURL, from)
			c, o.p.users = append(c, g), append(o.p.users, user)
		}
	}
	return c
}
