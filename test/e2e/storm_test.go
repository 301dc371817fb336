package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"eventspine/internal/bridge/replay"
	"eventspine/test/harness"
)

// surfer is a browser as socket.io-client 4 is one: it comes back by itself with its pid and the
// offset of its last event. Every other one is as @eventspine/client and tells its cursor too.
type surfer struct {
	user, token string
	cursor      bool
	wait        func() time.Duration // before it comes back
	http        *http.Client         // with which it connects; nil: the default

	mu        sync.Mutex
	up        int // connections it had
	recovered int // of them
	pid       string
	offset    string
	at        replay.Position // its cursor
	own, all  []string        // ids, in the order they came
	repeats   int
	seen      map[string]bool
	late      []time.Duration // how old live events were
}

func (b *surfer) run(ctx context.Context, url string) {
	for ctx.Err() == nil {
		_ = b.visit(ctx, url) // it comes back, whatever the reason
		select {
		case <-time.After(b.wait()):
		case <-ctx.Done():
		}
	}
}

// visit is one connection, until it ends.
func (b *surfer) visit(ctx context.Context, url string) error {
	ws, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(url, "http")+"/socket.io/?EIO=4&transport=websocket", &websocket.DialOptions{HTTPClient: b.http})
	if err != nil {
		return err
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(64 << 20)
	for {
		_, m, err := ws.Read(ctx)
		if err != nil {
			return err
		}
		answer := b.packet(string(m))
		if answer == "" {
			continue
		}
		if err := ws.Write(ctx, websocket.MessageText, []byte(answer)); err != nil {
			return err
		}
	}
}

// packet takes one from the server and gives what to answer.
func (b *surfer) packet(m string) (answer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case strings.HasPrefix(m, "0"):
		auth := map[string]any{"token": b.token}
		if b.pid != "" {
			auth["pid"], auth["offset"] = b.pid, b.offset
		}
		switch {
		case b.cursor && b.at == (replay.Position{}):
			auth["cursor"] = "now"
		case b.cursor:
			auth["cursor"] = b.at
		}
		text, _ := json.Marshal(auth) // strings
		return "40" + string(text)
	case m == "2":
		return "3"
	case strings.HasPrefix(m, "40"):
		var hello struct{ PID string }
		if json.Unmarshal([]byte(m[2:]), &hello) == nil {
			if b.up++; b.pid != "" && b.pid == hello.PID {
				b.recovered++
			}
			b.pid = hello.PID
		}
	case strings.HasPrefix(m, "42"):
		b.event([]byte(m[2:]))
	}
	return ""
}

func (b *surfer) event(text []byte) {
	var args []json.RawMessage
	if json.Unmarshal(text, &args) != nil || len(args) < 2 {
		return
	}
	var offset string
	if json.Unmarshal(args[len(args)-1], &offset) == nil {
		b.offset = offset
	}
	b.took(args[1])
}

// took notes an event, or what the server says about a replay.
func (b *surfer) took(payload []byte) {
	var e struct {
		ID, UserID string
		Seq, Epoch uint64
		Last       *replay.Position // of synced
		Data       struct{ At int64 }
	}
	if json.Unmarshal(payload, &e) != nil {
		return
	}
	switch {
	case e.Last != nil:
		b.at = *e.Last
	case e.ID == "":
		return
	case e.UserID == "*":
		b.at.All, b.at.Epoch.All = e.Seq, e.Epoch
	default:
		b.at.User, b.at.Epoch.User = e.Seq, e.Epoch
	}
	switch {
	case e.ID == "":
		return // synced
	case b.seen[e.ID]:
		b.repeats++
		return
	case e.UserID == "*":
		b.all = append(b.all, e.ID)
	default:
		b.own = append(b.own, e.ID)
	}
	b.seen[e.ID] = true
	b.late = append(b.late, time.Since(time.Unix(0, e.Data.At)))
}

// poster accepts events at a steady pace and knows who is to get which.
type poster struct {
	t     *testing.T
	s     *harness.System
	users []string
	own   map[string][]string
	all   []string
	n     int
	pad   string // makes events large
}

func (p *poster) post(users ...string) {
	p.t.Helper()
	lines := make([][]byte, len(users))
	for i, user := range users {
		id := "storm-" + strconv.Itoa(p.n)
		p.n++
		lines[i] = fmt.Appendf(nil, `{"id":%q,"type":"notification.storm","userId":%q,"data":{"at":%d,"pad":%q}}`, id, user, time.Now().UnixNano(), p.pad)
		if user == "*" {
			p.all = append(p.all, id)
		} else {
			p.own[user] = append(p.own[user], id)
		}
	}
	status, body := post(p.t, p.s.APIURL+"/api/events/batch", p.s.Token("sender", "emit"), "application/x-ndjson", bytes.Join(lines, []byte("\n")))
	if status != http.StatusAccepted {
		p.t.Fatalf("%d %s", status, body)
	}
}

// keep posts 20 events each 50 ms for some of the first users, and now and then one for everybody.
func (p *poster) keep(busy int, until func() bool) {
	p.pace(func(int) string { return p.users[rand.IntN(busy)] }, until)
}

// pace is keep for the users that pick gives.
func (p *poster) pace(pick func(k int) string, until func() bool) {
	for i := 0; !until(); i++ {
		users := make([]string, 20)
		for k := range users {
			users[k] = pick(k)
		}
		if i%10 == 0 {
			users[7] = "*"
		}
		p.post(users...)
		<-time.After(50 * time.Millisecond)
	}
}

func within(d time.Duration) func() bool {
	end := time.Now().Add(d)
	return func() bool { return time.Now().After(end) }
}

// stormOf is how many clients come at a time: EVENTSPINE_STORM, or usual.
func stormOf(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("EVENTSPINE_STORM")); err == nil {
		return n
	}
	return usual
}

// TestABridgeIsKilled with 500 clients (EVENTSPINE_STORM: another number), which come back within
// a second: each gets every event that was accepted, in order, also who never got one before.
func TestABridgeIsKilled(t *testing.T) {
	count := stormOf(500)
	for _, mode := range []string{"all", "users"} {
		t.Run(mode, func(t *testing.T) {
			s := startWith(t, harness.Options{Redis: realRedis(t), Env: []string{"BRIDGE_SUBSCRIBE=" + mode, "BRIDGE_HANDSHAKE_RATE=5000"}})
			everyone, p := gather(t, s, count)
			busy := count * 9 / 10 // the others get nothing before
			p.keep(busy, within(2*time.Second))
			if err := s.Bridge.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			p.keep(busy, within(time.Second))
			p.post(p.users[busy:]...)
			if err := s.Bridge.Start(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			p.keep(count, func() bool {
				return everyone.all(func(b *surfer) bool { return b.up >= 2 }) || time.Since(began) > 20*time.Second
			})
			t.Logf("%d clients were back %v after the bridge", count, time.Since(began).Round(time.Millisecond))
			p.keep(count, within(time.Second))
			everyone.whole(t, p, 1)
			everyone.figures(t, began)
		})
	}
}

// TestABridgeIsStopped by SIGTERM, while another takes over its clients; then the other way round.
func TestABridgeIsStopped(t *testing.T) {
	const count = 200
	s := startWith(t, harness.Options{Redis: realRedis(t), Env: []string{"BRIDGE_DRAIN=2s", "BRIDGE_SUBSCRIBE=users"}})
	everyone, p := gather(t, s, count)
	p.keep(count, within(time.Second))
	began := time.Now()
	if err := s.Bridge.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.keep(count, func() bool { return !s.Bridge.Running() || time.Since(began) > 15*time.Second })
	took := time.Since(began)
	if took < 1500*time.Millisecond || took > 10*time.Second {
		t.Errorf("the bridge took %v to end", took)
	}
	if err := s.Bridge.Start(); err != nil {
		t.Fatal(err)
	}
	p.keep(count, func() bool {
		return everyone.all(func(b *surfer) bool { return b.up >= 2 }) || time.Since(began) > 25*time.Second
	})
	everyone.whole(t, p, 1)
}

// surfers are clients of one bridge.
type surfers []*surfer

func (c surfers) all(ok func(*surfer) bool) bool {
	return !slices.ContainsFunc(c, func(b *surfer) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return !ok(b)
	})
}

// gather has clients connect, each of a user of its own.
func gather(t *testing.T, s *harness.System, count int) (surfers, *poster) {
	t.Helper()
	p := &poster{t: t, s: s, own: map[string][]string{}}
	var c surfers
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range count {
		user := fmt.Sprintf("surfer.%d", i)
		b := &surfer{user: user, token: s.Token(user), cursor: i%2 == 1, seen: map[string]bool{}, wait: func() time.Duration { return rand.N(time.Second) }}
		p.users, c = append(p.users, user), append(c, b)
		wg.Go(func() { b.run(ctx, s.BridgeURL) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	eventually(t, 20*time.Second, func() bool { return c.all(func(b *surfer) bool { return b.up > 0 }) }, func() string { return "not all are connected" })
	return c, p
}

// whole waits until every client has all that was accepted, in order, and was recovered so many times.
func (c surfers) whole(t *testing.T, p *poster, recovered int) {
	t.Helper()
	has := func(b *surfer) bool { return len(b.own) >= len(p.own[b.user]) && len(b.all) >= len(p.all) }
	eventually(t, 15*time.Second, func() bool { return c.all(has) }, func() string {
		for _, b := range c {
			b.mu.Lock()
			defer b.mu.Unlock()
			if !has(b) {
				return fmt.Sprintf("%s (cursor %v, recovered %d of %d) has %d of %d and %d of %d", b.user, b.cursor, b.recovered, b.up-1, len(b.own), len(p.own[b.user]), len(b.all), len(p.all))
			}
		}
		return "late"
	})
	repeats, lost := map[bool]int{}, 0
	for _, b := range c {
		b.mu.Lock()
		if !slices.Equal(b.own, p.own[b.user]) || !slices.Equal(b.all, p.all) {
			t.Errorf("%s is out of order: %v, want %v; and %v, want %v", b.user, b.own, p.own[b.user], b.all, p.all)
		}
		if b.recovered < recovered {
			lost++
		}
		repeats[b.cursor] += b.repeats
		b.mu.Unlock()
	}
	if lost > 0 {
		t.Errorf("%d of %d took themselves for new", lost, len(c))
	}
	t.Logf("%d clients are whole: %d events and %d for everybody; %d came twice to those with an offset", len(c), p.n-len(p.all), len(p.all), repeats[false])
	if repeats[true] > 0 {
		t.Errorf("%d events came twice to those with a cursor", repeats[true])
	}
}

// undisturbed wants each to have had one connection, and nothing twice.
func (c surfers) undisturbed(t *testing.T) {
	t.Helper()
	for _, b := range c {
		b.mu.Lock()
		if b.up != 1 || b.repeats != 0 {
			t.Errorf("%s had %d connections, and %d events twice", b.user, b.up, b.repeats)
		}
		b.mu.Unlock()
	}
}

// figures says how old live events were when they came, of those that were sent since then.
func (c surfers) figures(t *testing.T, since time.Time) {
	t.Helper()
	t.Logf("%s; %v since the bridge was back", lateness(c.lately()), time.Since(since).Round(time.Millisecond))
}

// lately is how old events were when they came, since it was last asked.
func (c surfers) lately() []time.Duration {
	var late []time.Duration
	for _, b := range c {
		b.mu.Lock()
		late = append(late, b.late...)
		b.late = nil
		b.mu.Unlock()
	}
	return late
}

func lateness(late []time.Duration) string {
	if len(late) == 0 {
		return "of no deliveries"
	}
	slices.Sort(late)
	at := func(q float64) time.Duration { return late[int(q*float64(len(late)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("of %d deliveries p50 %v, p90 %v, p99 %v, the last %v", len(late), at(0.5), at(0.9), at(0.99), at(1))
}
