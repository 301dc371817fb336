package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"eventspine/test/harness"
)

// TestTwoProxies kills each of two proxies in turn while events flow: publishers send to both,
// subscribers drop the repeats, so that nobody misses or repeats anything.
func TestTwoProxies(t *testing.T) {
	s := startWith(t, harness.Options{Proxies: 2})
	ana := goBrowsers{}.connect(t, s.BridgeURL, harness.Token("ana"))
	token := harness.Token("sender", "emit")
	var want []string
	send := func(n int) {
		t.Helper()
		for range n {
			id := fmt.Sprintf("e%d", len(want))
			want = append(want, id)
			body := fmt.Sprintf(`{"id":%q,"type":"notification.check","userId":"ana"}`, id)
			if status, answer := post(t, s.APIURL+"/api/events", token, "application/json", []byte(body)); status != http.StatusAccepted {
				t.Fatalf("POST: %d %s", status, answer)
			}
		}
	}
	for round := range 4 {
		victim := s.Proxies[round%2]
		send(50)
		if err := victim.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		send(50)
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		send(50)
		eventually(t, 20*time.Second, func() bool { return bothProxies(t, s) }, func() string { return victim.Name + " has not all its peers again" })
	}
	send(50)
	eventually(t, 20*time.Second, func() bool { return len(ana.events()) >= len(want) },
		func() string { return fmt.Sprintf("ana got %d of %d", len(ana.events()), len(want)) })
	var got []string
	for _, e := range ana.events() {
		got = append(got, e.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d events, want %d, each once and in order\n%s", len(got), len(want), strings.Join(got, " "))
	}
}

// bothProxies reports whether each proxy has the worker and the api as publishers, and the
// indexer, the bridge and the worker as subscribers.
func bothProxies(t *testing.T, s *harness.System) bool {
	t.Helper()
	for _, p := range s.Proxies {
		if harness.OK(s.Ready[p.Name]+"/readyz") != nil {
			return false
		}
		if metric(t, s.Ready[p.Name], "eventspine_proxy_publishers_count") < 2 || metric(t, s.Ready[p.Name], "eventspine_proxy_subscribers_count") < 3 {
			return false
		}
	}
	return true
}
