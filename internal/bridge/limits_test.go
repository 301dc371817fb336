package bridge

import (
	"net/http"
	"strings"
	"testing"

	"eventspine/internal/auth"
	"eventspine/internal/fault"
	"eventspine/internal/socketio/client"
	"eventspine/internal/testkit"
)

// TestConnectionsOfOneAddress: a client's address is its own where the load balancer is known, and
// then the load balancer's own does not count.
func TestConnectionsOfOneAddress(t *testing.T) {
	c := testConfig(testkit.Miniredis(t))
	c.AddressConnections, c.TrustedProxies = 2, []string{"127.0.0.1"}
	n := startNode(t, c)
	dial := func(from string) error {
		t.Helper()
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		o := client.Options{HTTP: &http.Client{Transport: transport}, Header: http.Header{}}
		if from != "" {
			o.Header.Set("X-Forwarded-For", from)
		}
		x, err := client.Dial(short(t), "http://"+n.Addr(), sign(t, auth.Claims{Subject: "ana"}), o)
		if err == nil {
			t.Cleanup(func() { _ = x.Close() })
		}
		return err
	}
	for _, from := range []string{"", "", "198.51.100.1", "198.51.100.1", "198.51.100.2", "6.6.6.6, 198.51.100.2"} {
		if err := dial(from); err != nil {
			t.Errorf("from %q: %v", from, err)
		}
	}
	for _, from := range []string{"", "198.51.100.1", "6.6.6.6, 198.51.100.1", "198.51.100.2"} {
		if err := dial(from); fault.KindOf(err) != fault.Overloaded || !strings.Contains(err.Error(), "address") {
			t.Errorf("one more from %q: %v", from, err)
		}
	}
}
