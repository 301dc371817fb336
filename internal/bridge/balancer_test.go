package bridge

import (
	"net/http"
	"testing"

	"eventspine/internal/testkit"
)

// A load balancer, which has no token and sees this port only, is told that connections are taken.
func TestALoadBalancerAsks(t *testing.T) {
	n := startNode(t, testConfig(testkit.StartRedis(t, "--maxmemory-policy", "noeviction").URL()))
	r, err := http.Get("http://" + n.Addr() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusNoContent {
		t.Errorf("status %d, %v", r.StatusCode, err)
	}
}
