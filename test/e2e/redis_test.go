package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"eventspine/internal/archive"
	"eventspine/internal/testkit"
	"eventspine/test/harness"
)

// TestRedisCluster: the whole system with a Redis Cluster of three. What is accepted is stored once,
// indexed, and in its user's browser.
func TestRedisCluster(t *testing.T) {
	wholeWay(t, testkit.RedisCluster(t), nil)
}

// TestRedisSentinel: the same with a master that Sentinel finds, which dies under load, so that its
// replica takes over.
func TestRedisSentinel(t *testing.T) {
	master, _, url := testkit.RedisSentinel(t, "--appendonly", "yes")
	wholeWay(t, url, master.Kill)
}

// wholeWay posts for some seconds, does harm in between, and wants all that was accepted once in
// the journal, once in the index, and in the browsers.
func wholeWay(t *testing.T, url string, harm func()) {
	t.Helper()
	s := startWith(t, harness.Options{Workers: 2, Redis: url, ES: embedded.es(t)})
	browsers := make([]browser, 5)
	for i := range browsers {
		browsers[i] = goBrowsers{}.connect(t, s.BridgeURL, harness.Token(fmt.Sprintf("u%d", i)))
	}
	stop, accepted := make(chan struct{}), make(chan []string, 1)
	var wg sync.WaitGroup
	wg.Go(func() { accepted <- postUntil(t, s, stop) })
	eventually(t, 60*time.Second, func() bool { return len(browsers[0].events()) >= 8 }, func() string { return "browser 0 got less than one event in fifty of 400" })
	if harm != nil {
		harm()
		pauseFor(4 * time.Second)
	}
	close(stop)
	wg.Wait()
	ids := <-accepted
	if len(ids) < 300 {
		t.Fatalf("only %d events were accepted", len(ids))
	}
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	missing := 0
	eventually(t, 40*time.Second, func() bool {
		missing = 0
		for id, n := range journalIDs(t, s) {
			if n > 1 {
				t.Fatalf("%s is in the journal %d times", id, n)
			}
			if want[id] {
				missing--
			}
		}
		missing += len(ids)
		return missing == 0
	}, func() string {
		return fmt.Sprintf("%d of %d accepted events are not in the journal", missing, len(ids))
	})
	a, err := archive.New(archive.Options{URLs: []string{s.ES}, Index: "events"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	eventually(t, 30*time.Second, func() bool { return len(inIndex(t, a, "notification.kept")) == len(ids) },
		func() string {
			return fmt.Sprintf("%d of %d are in the index", len(inIndex(t, a, "notification.kept")), len(ids))
		})
	for i, b := range browsers {
		got := map[string]int{}
		eventually(t, 20*time.Second, func() bool {
			clear(got)
			for _, e := range b.events() {
				got[e.ID]++
			}
			return len(got) >= (len(ids)-i+49)/50
		}, func() string { return fmt.Sprintf("browser %d has %d events of %d", i, len(got), (len(ids)-i+49)/50) })
		for id, n := range got {
			if n > 1 && harm == nil { // an event whose answer a master took to its grave may come again
				t.Errorf("browser %d got %s %d times", i, id, n)
			}
		}
	}
}
