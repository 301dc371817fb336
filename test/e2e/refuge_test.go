package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"eventspine/test/harness"
)

// TestAStormOnLiveClients kills one of two bridges under a thousand clients (EVENTSPINE_STORM:
// another number), which all come to the other one in the same moment, with the position they were
// at. That one's own clients stay connected, and get each of their events once and in order. How
// old events are when these clients get them, in the quiet before and in the storm, is printed.
func TestAStormOnLiveClients(t *testing.T) {
	const live, quiet = 50, 5 * time.Second
	count := stormOf(1000)
	env := []string{"BRIDGE_HANDSHAKE_RATE=5000", "BRIDGE_SUBSCRIBE=users"}
	s := startWith(t, harness.Options{Redis: realRedis(t), Env: env})
	doomed := s.BridgeURL
	_, s.BridgeURL, _ = secondBridge(t, s, env...)
	residents, p := gather(t, s, live)
	come := make(chan struct{})
	refugees := flee(t, p, count, doomed, come)
	p.blend(live, within(quiet))
	before := residents.lately()
	if err := s.Bridge.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.blend(live, within(2*time.Second))
	_, began := residents.lately(), time.Now()
	close(come)
	p.blend(live, func() bool {
		return refugees.all(func(b *surfer) bool { return b.up >= 2 }) || time.Since(began) > 30*time.Second
	})
	took := time.Since(began)
	during := residents.lately()
	p.blend(live, within(time.Second))
	residents.whole(t, p, 0)
	refugees.whole(t, p, 1)
	residents.undisturbed(t)
	t.Logf("%d clients came within %v. Live events of %d others, before: %s", count, took.Round(time.Millisecond), live, lateness(before))
	t.Logf("in the storm: %s", lateness(during))
	if err := s.Bridge.Start(); err != nil { // so that it can be stopped
		t.Fatal(err)
	}
	if err := s.AllReady(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
}

// flee connects clients to the bridge at from. Once it is gone and come is closed, they come to the
// poster's.
func flee(t *testing.T, p *poster, count int, from string, come <-chan struct{}) surfers {
	t.Helper()
	var c surfers
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range count {
		user := fmt.Sprintf("refugee.%d", i)
		b := &surfer{user: user, token: p.s.Token(user), cursor: i%2 == 1, seen: map[string]bool{}, wait: func() time.Duration { return rand.N(100 * time.Millisecond) }}
		p.users, c = append(p.users, user), append(c, b)
		wg.Go(func() {
			_ = b.visit(ctx, from) // until the bridge is killed
			select {
			case <-come:
				b.run(ctx, p.s.BridgeURL)
			case <-ctx.Done():
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	eventually(t, 20*time.Second, func() bool { return c.all(func(b *surfer) bool { return b.up > 0 }) }, func() string { return "not all are connected" })
	return c
}

// blend is keep with half of the events for the first users.
func (p *poster) blend(first int, until func() bool) {
	p.pace(func(k int) string {
		if k%2 == 0 {
			return p.users[rand.IntN(first)]
		}
		return p.users[first+rand.IntN(len(p.users)-first)]
	}, until)
}
